"""Texts that lead nowhere: empty ones, questions without answers, statements without a second picture."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from diptych.data.examples import OPTIONS, PARTNER, TEXT
from diptych.data.members import COUNTED, SIDECARS, is_picture
from diptych.data.sample import Sample

if TYPE_CHECKING:
    from diptych.data.index import ShardDataset

EXAMPLES = 5
"""Samples named for each cause."""
MAX_LETTERS = 5000
"""A caption with more letters is worth a look."""
ANSWERS = ("answers", "answer", "label")
"""Fields of a question, statement or choice that hold what is asked for."""


@dataclass
class Found:
    """How often something was found, by cause, and the first few samples."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    """Cause -> "key: detail"."""

    def add(self, cause: str, key: str, detail: str = "", count: int = 1) -> None:
        """Note a sample."""
        self.counts[cause] += count
        named = self.examples.setdefault(cause, [])
        if len(named) < EXAMPLES:
            named.append(f"{key}: {detail}" if detail else key)

    def merge(self, other: "Found") -> None:
        """Add what was found in later samples."""
        self.counts.update(other.counts)
        for cause, named in other.examples.items():
            own = self.examples.setdefault(cause, [])
            own += named[: EXAMPLES - len(own)]

    def __bool__(self) -> bool:
        return bool(self.counts)


@dataclass
class TextTally:
    """What the texts of some samples are; those of a dataset are put together by `merge`."""

    max_letters: int = MAX_LETTERS
    found: Found = field(default_factory=Found)
    answered: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(split, questions, statements or choices) -> entries with an answer."""
    unanswered: dict[tuple[str, str], Found] = field(default_factory=dict)

    def add(self, key: str, split: str, sample: Sample) -> None:
        """Look at the texts of a sample; `split` is that of the index."""
        for number, caption in enumerate(sample.captions):
            if not isinstance(caption, str) or not caption.strip():
                self.found.add("empty caption", key, f"caption {number}")
            elif len(caption) > self.max_letters:
                self.found.add("long caption", key, f"caption {number} has {len(caption)} letters")
        for kind in COUNTED:
            entries = sample.meta.get(kind)
            for number, entry in enumerate(entries if isinstance(entries, list) else ()):
                self._add_entry(key, split, kind, number, entry if isinstance(entry, dict) else {})

    def _add_entry(self, key: str, split: str, kind: str, number: int, entry: Mapping[str, Any]) -> None:
        one = TEXT[kind]
        text = entry.get(one)
        if kind == "choices":
            self._add_options(key, number, entry.get("options"))
        elif not isinstance(text, str) or not text.strip():
            self.found.add(f"empty {one}", key, f"entry {number} of `{kind}`")
        if any(_is_answer(entry.get(name)) for name in ANSWERS):
            self.answered[split, kind] += 1
        else:
            shown = f"entry {number} of `{kind}`, '{str(text)[:60]}'"
            self.unanswered.setdefault((split, kind), Found()).add(f"{one} without answer", key, shown)

    def _add_options(self, key: str, number: int, options: Any) -> None:
        texts = [text for text in options if isinstance(text, str)] if isinstance(options, list) else []
        if len(texts) != OPTIONS or not all(text.strip() for text in texts):
            self.found.add("empty option", key, f"entry {number} of `choices`")
        elif len(set(texts)) < len(texts):
            self.found.add("repeated option", key, f"entry {number} of `choices`")

    def merge(self, other: "TextTally") -> None:
        """Add what was found in later samples."""
        self.found.merge(other.found)
        self.answered.update(other.answered)
        for place, found in other.unanswered.items():
            self.unanswered.setdefault(place, Found()).merge(found)

    def conclude(self) -> Found:
        """Return everything found.

        Entries without answers count only where others of their split have some: owners keep those of test
        splits back.
        """
        whole = Found()
        whole.merge(self.found)
        for place, found in sorted(self.unanswered.items()):
            if self.answered[place]:
                whole.merge(found)
        return whole


def _is_answer(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value.strip())
    if isinstance(value, Sequence):
        return any(_is_answer(part) for part in value)
    return value is not None


def by_index(dataset: "ShardDataset") -> Found:
    """Find by the index alone: samples without texts or media among others that have them, lost partners."""
    found = Found()
    texts = ["captions", *(name for name in COUNTED if name in dataset.columns)]
    media = [name for name in dataset.extensions if name not in SIDECARS]
    _ask(dataset, found, "no text", _lacking(" or ".join(f'coalesce("{name}", 0) > 0' for name in texts)))
    if media:
        there = " or ".join(f'"{name}_offset" is not null' for name in media)
        _ask(dataset, found, "no medium", _lacking(there))
    if "statements" in dataset.columns:
        pictures = [f'("{name}_offset" is not null)::int' for name in media if is_picture(name)]
        alone = f"coalesce(statements, 0) > 0 and ({' + '.join(pictures) or '0'}) < 2"
        if PARTNER in dataset.columns:
            alone += f" and coalesce({PARTNER}::varchar, '') = ''"
        _ask(dataset, found, "statement without second picture", alone)
    if PARTNER in dataset.columns:
        lost = f"coalesce({PARTNER}::varchar, '') not in (select key from samples union all select '')"
        _ask(dataset, found, "partner is not there", lost, shown=PARTNER)
    return found


def _lacking(has: str) -> str:
    """Return the condition for samples without something that others of their split have."""
    return f"not ({has}) and split in (select split from samples group by split having bool_or({has}))"


def _ask(dataset: "ShardDataset", found: Found, cause: str, where: str, *, shown: str = "") -> None:
    """Note the samples of a condition, with the column `shown`."""
    count = int(dataset.query(f"select count(*) as n from samples where {where}").column("n")[0].as_py())
    if count:
        what = f"key || ': ' || {shown}::varchar" if shown else "key"
        first = dataset.query(f"select {what} as named from samples where {where} limit {EXAMPLES}")
        found.counts[cause] += count
        found.examples[cause] = first.column("named").to_pylist()
