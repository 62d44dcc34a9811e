"""Which words of the run's vocabulary are significant: from files to what masking reads.

What files hold is kept with the run (`Task.assets`), so that its exports do not depend on them.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diptych.data.mined import read_counts
from diptych.data.significant import Words
from diptych.data.words import rank_words
from diptych.errors import DataError, UsageError

ASSET = "significant_words"
"""Name of the asset: `file`, and `counts` (kind -> word -> number) or `rank`, `name` and `total_count`, as
files have them; `forms` where there are any."""
_COLUMNS = ("rank", "name", "total_count")


def read_asset(words: str, forms: str = "") -> dict[str, Any]:
    """Read the files that `task.words` and `task.forms` name.

    Args:
        words: `words.json` or `counts.json` of `diptych words mine`, or what was published in their place.
        forms: JSON list of lists of words; empty: none.

    Raises:
        DataError: a file cannot be read, or has another form.
    """
    content = _read(Path(words), "task.words")
    found: dict[str, Any] = {"file": Path(words).name}
    ranks = content.get("rank") if isinstance(content, dict) else None
    if ranks is None:
        try:
            found["counts"] = read_counts(Path(words))
        except DataError as error:
            raise DataError(
                f"task.words = {words}: expected words.json (with 'rank') or counts.json (with VERB, NOUN, "
                f"ADJ) of `diptych words mine`; {error}"
            ) from error
    elif not isinstance(ranks, list) or not all(isinstance(rank, int) for rank in ranks):
        raise DataError(f"task.words = {words}: expected 'rank' to be a list of whole numbers")
    else:
        found |= {name: content[name] for name in _COLUMNS if isinstance(content.get(name), list)}
    if forms:
        listed = _read(Path(forms), "task.forms")
        if not isinstance(listed, list) or not all(isinstance(entry, list) for entry in listed):
            raise DataError(f"task.forms = {forms}: expected a JSON list with a list of words for each word")
        found["forms"] = listed
    return found


def words_of(asset: Mapping[str, Any], vocabulary: Sequence[str], top: int) -> Words:
    """Return the significant words of a vocabulary.

    Words that were never counted are not significant, however few are counted. (In the published files they
    share a rank far behind `top`.)

    Args:
        asset: what `read_asset` returned.
        vocabulary: tokens in the order of their ids, pieces inside words with `##`.
        top: words up to this rank are significant.

    Raises:
        DataError: it was made for another vocabulary, or none of its words is in this one.
    """
    file, size = asset.get("file", "words"), len(vocabulary)
    if "counts" in asset:
        ranked = rank_words(asset["counts"], vocabulary)
        ranks, totals = ranked.ranks, ranked.totals
    else:
        ranks = list(asset["rank"])
        totals = asset.get("total_count", [1] * len(ranks))
        if len(ranks) != size or list(asset.get("name", vocabulary)) != list(vocabulary):
            raise DataError(
                f"task.words ({file}): ranks {len(ranks)} words of another vocabulary than the tokenizer's "
                f"{size}; give the file counts.json beside it, or rank again with `diptych words rank`"
            )
    known = [rank if total else size + top + 1 for rank, total in zip(ranks, totals, strict=True)]
    forms = asset.get("forms", [])
    if forms and len(forms) != size:
        raise DataError(
            f"task.forms: other forms of {len(forms)} words, but the tokenizer has {size}; expected a list "
            "for each of its words, in their order"
        )
    ids = {token: i for i, token in enumerate(vocabulary)}
    others = [[ids[form] for form in entry if form in ids] for entry in forms] or [[]] * size
    words = Words(known, others, top)
    if not words.chosen:
        raise DataError(
            f"task.words ({file}): none of its words is a whole word of the tokenizer up to rank {top}; "
            "raise data.text.vocab_size, or use a tokenizer with whole words"
        )
    return words


def first_letters(words: Words, vocabulary: Sequence[str], unknown: int) -> dict[int, int]:
    """Return the id of each significant word's first letter (published fault); `unknown`: it has none."""
    ids = {token: i for i, token in enumerate(vocabulary)}
    return {word: ids.get(vocabulary[word][0], unknown) for word in words.chosen}


def _read(path: Path, key: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"{key} = {path}: cannot be read ({error.strerror}); expected a file of `diptych words mine`"
        ) from error
    except ValueError as error:
        raise DataError(f"{key} = {path}: no JSON ({error})") from error


def missing() -> UsageError:
    """Return the error of a task that has to know its significant words, but does not."""
    return UsageError(
        "task.words: task.masking = significant or published and task.lvwm other than off need to know which "
        "words are significant; set task.words to words.json or counts.json of `diptych words mine`, or "
        "task.masking=random task.lvwm=off"
    )
