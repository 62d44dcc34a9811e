"""Cards as documentation."""

from collections.abc import Iterable

from diptych.data.cards.base import Card

_INTRODUCTION = """\
# Datasets

Made from the dataset cards by `make docs`; change the cards (`src/diptych/data/cards/`), not this page.

`diptych data list` names them, `diptych data show CARD` prints one, and
`diptych data prepare CARD --out DIR [--raw DIR] [-o name=value]` makes shards of it.
"""


def render(cards: Iterable[Card]) -> str:
    """Return one Markdown page about `cards`."""
    return "\n".join([_INTRODUCTION, *(render_card(card) for card in cards)])


def render_card(card: Card) -> str:
    """Return the Markdown section of one card."""
    parts = [f"## {card.name}: {card.title}\n", f"{card.description}\n"]
    facts = [f"- Licence: {card.licence}"]
    if card.homepage:
        facts.append(f"- Homepage: <{card.homepage}>")
    if card.citation:
        facts.append(f"- Citation: {card.citation}")
    facts.append(f"- Card version: {card.version}")
    parts.append("\n".join(facts) + "\n")
    if card.sources:
        parts.append(_sources(card))
    if card.options:
        lines = [f"- `{name}`: {text}" for name, text in card.options.items()]
        parts.append("Options (`-o name=value`):\n\n" + "\n".join(lines) + "\n")
    if card.splits:
        parts.append(_splits(card))
    return "\n".join(parts)


def _sources(card: Card) -> str:
    if card.needs_raw:
        head = "Files expected under `--raw`:"
    else:
        head = "Needs no files (`--raw` may be left out). For the full rebuild, under `--raw`:"
    rows = [
        f"| `{source.path}` | {source.origin} | {'yes' if source.required or not card.needs_raw else 'no'} |"
        for source in card.sources
    ]
    return "\n".join([head, "", "| file | from | required |", "|---|---|---|", *rows, ""])


def _splits(card: Card) -> str:
    rows = []
    for name, split in card.splits.items():
        count = f"{split.expected:,}" if split.expected is not None else "any"
        rows.append(f"| `{name}` | `{split.where}` | {count} | {split.note} |")
    return "\n".join(["| split | where | samples | |", "|---|---|---|---|", *rows, ""])
