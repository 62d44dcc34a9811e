"""Cards as documentation."""

from collections.abc import Iterable, Sequence

from diptych.data.cards.base import Card, Source, Split
from diptych.data.cards.usage import commands, target_text

_INTRODUCTION = """\
# Datasets

Made from the dataset cards by `make docs`; change the cards (`src/diptych/data/cards/`), not this page.

`diptych data list` names them, `diptych data show CARD` prints one, and
`diptych data prepare CARD --raw RAW --out DIR` makes shards of it ([data.md](data.md)). `RAW` is a folder of
your choice with the files as their owners distribute them. In the names of files below it `*` stands for any
letters, and `a.zip@/b` for the file `b` inside the archive `a.zip`, which need not be unpacked. Where the
same files lie in another form, `--layout NAME` says in which. `diptych data miniature CARD --out RAW` makes
tiny files in the true form, to try a card with.

Counts that are known roughly only are marked "about". Preparation warns where a split has another number of
samples or texts (captions, questions, statements).
"""
_MANY = 6
"""Splits that the table at the top names."""
_LICENCES = """\
## Licences

What we know of the owners' terms. It is no advice: read the terms themselves before you use or publish
anything. Nothing but the emoji ships with Diptych.
"""


def render(cards: Iterable[Card]) -> str:
    """Return one Markdown page about `cards`."""
    found = list(cards)
    overview = _table(
        ("card", "what it is", "media", "splits", "layouts", "target set"),
        [_overview(card) for card in found],
    )
    licences: dict[str, list[str]] = {}
    for card in found:
        licences.setdefault(card.licence, []).append(_link(card))
    rows = [(", ".join(names), text) for text, names in licences.items()]
    terms = f"{_LICENCES}\n{_table(('cards', 'licence'), rows)}"
    return "\n".join([_INTRODUCTION, overview, terms, *(render_card(card) for card in found)])


def render_card(card: Card) -> str:
    """Return the Markdown section of one card."""
    facts = {"Licence": card.licence, "Homepage": card.homepage and f"<{card.homepage}>"}
    facts |= {"Citation": card.citation, "Card version": card.version}
    parts = [f"## {card.name}: {card.title}\n", f"{card.description}\n"]
    parts.append("\n".join(f"- {name}: {text}" for name, text in facts.items() if text) + "\n")
    if card.sources:
        parts += [_raw_text(card), _sources(card, card.sources)]
    for name, layout in card.layouts.items():
        parts += [
            f"**Layout `{name}`** (`--layout {name}`): {layout.description}\n",
            _sources(card, layout.sources),
        ]
    if card.options:
        lines = [f"- `{name}`: {text}" for name, text in card.options.items()]
        parts.append("**Options** (`-o name=value`):\n\n" + "\n".join(lines) + "\n")
    if card.splits:
        parts += ["**Splits**:\n", _splits(card)]
    if card.prepared:
        parts.append(f"**A prepared sample**:\n\n{card.prepared}\n")
    if card.oddities:
        parts.append(f"**Oddities**:\n\n{card.oddities}\n")
    if card.target_set:
        parts.append(f"**Target set** `{card.target_set}`: {target_text(card)}.\n")
    parts += ["**Commands**:\n", _commands(card)]
    return "\n".join(parts)


def _overview(card: Card) -> tuple[str, ...]:
    counted = [f"{name} {_count(split)}" for name, split in card.splits.items()]
    more = f", and {len(counted) - _MANY} more" if len(counted) > _MANY else ""
    layouts = ", ".join(f"`{name}`" for name in card.layouts)
    return _link(card), card.title, card.media, ", ".join(counted[:_MANY]) + more, layouts, card.target_set


def _link(card: Card) -> str:
    # The anchor that renderers make of "## name: title".
    heading = f"{card.name}: {card.title}".lower()
    anchor = "".join(letter for letter in heading if letter.isalnum() or letter in " -_").replace(" ", "-")
    return f"[{card.name}](#{anchor})"


def _count(split: Split) -> str:
    if split.expected is None:
        return "(any)"
    return f"about {split.expected:,}" if split.about else f"{split.expected:,}"


def _raw_text(card: Card) -> str:
    if card.needs_raw:
        return "**Raw files** (`--raw`):\n"
    return "**Raw files**: none are needed; for the full rebuild (`--raw`):\n"


def _sources(card: Card, sources: Sequence[Source]) -> str:
    rows = [
        (
            f"`{source.path}`" + "".join(f" or `{place}`" for place in source.alternatives),
            source.origin,
            "yes" if source.required or not card.needs_raw else "no",
        )
        for source in sources
    ]
    return _table(("file or folder", "from", "required"), rows)


def _splits(card: Card) -> str:
    texts = any(split.texts is not None for split in card.splits.values())
    rows = []
    for name, split in card.splits.items():
        count = "any" if split.expected is None else _count(split)
        of_texts = (f"{split.texts:,}" if split.texts is not None else "",) if texts else ()
        rows.append((f"`{name}`", f"`{split.where}`", count, *of_texts, split.note))
    return _table(("split", "where", "samples", *(("texts",) if texts else ()), ""), rows)


def _commands(card: Card) -> str:
    lines = commands(card)
    width = max(len(command) for command, comment in lines if comment)
    said = [f"{command:<{width}}  # {comment}" if comment else command for command, comment in lines]
    return "\n".join(["```bash", *said, "```", ""])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    cells = ([cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines)
    return "\n".join("| " + " | ".join(line) + " |" for line in cells) + "\n"
