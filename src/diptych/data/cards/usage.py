"""What a user types for a card: the commands that its page and `diptych data show` print."""

from collections.abc import Iterator
from itertools import groupby

from diptych.data.cards.base import Card, Source, Split
from diptych.data.targets.names import LISTS, SHORT

VOCABULARY = "vocabulary"
_SHIPPED = (*LISTS, *SHORT, "glue")
"""Target sets that need nothing but Diptych."""


def prepare_command(card: Card, layout: str = "", *, raw: str = "RAW", out: str = "") -> str:
    """Return the command line that prepares a card.

    Args:
        card: the card.
        layout: another form of its raw files.
        raw: folder of the raw files; empty where the card is to do without.
        out: folder for the dataset; default: named after the card.
    """
    words = ["diptych data prepare", card.name, *(["--raw", raw] if raw else [])]
    words += ["--out", out or f"data/{card.name}", *(["--layout", layout] if layout else [])]
    return " ".join([*words, *(f"-o {name}={value}" for name, value in card.example.items())])


def commands(card: Card) -> list[tuple[str, str]]:
    """Return (command line, what it is for), in the order in which they are used."""
    lines = []
    if card.miniature:
        more = "; --layout NAME for another layout" if card.layouts else ""
        lines.append(
            (f"diptych data miniature {card.name} --out RAW", f"tiny raw files to try it with{more}")
        )
    if not card.needs_raw:
        lines.append((prepare_command(card, raw=""), "from what ships with Diptych"))
    if card.needs_raw or card.sources:
        lines.append((prepare_command(card), "" if card.needs_raw else "from the raw files"))
    lines += [(prepare_command(card, layout), "") for layout in card.layouts]
    lines.append((f"diptych data verify data/{card.name}", "every byte is as it was written"))
    if card.target_set:
        lines.append((target_command(card), "what tasks choose from"))
    return lines


def target_command(card: Card) -> str:
    """Return the command line that builds the target set of a card."""
    shipped = card.target_set in _SHIPPED or card.target_set == VOCABULARY
    what = card.target_set if shipped else f"data/{card.name}"
    return f"diptych targets build {what} --out targets/{card.target_set} --tokenizer clip"


def target_text(card: Card) -> str:
    """Return where the target set of a card comes from."""
    if card.target_set == VOCABULARY:
        return "each token of the tokenizer (there are no classes or answers to choose from)"
    if card.target_set in _SHIPPED:
        return f"the list `{card.target_set}` of Diptych"
    return "made of the prepared dataset (`facts` in dataset.json)"


def grouped(sources: tuple[Source, ...]) -> Iterator[tuple[str, list[Source]]]:
    """Yield sources that come one behind the other from the same place together: (origin, sources)."""
    for origin, group in groupby(sources, lambda source: source.origin):
        yield origin, list(group)


def counts(split: Split) -> str:
    """Return how many samples and texts a split has, for example "about 6,513 samples, 130,260 texts"."""
    if split.expected is None and split.texts is None:
        return "as many samples as there are"
    pairs = ((split.expected, "samples"), (split.texts, "texts"))
    said = ", ".join(f"{count:,} {what}" for count, what in pairs if count is not None)
    return f"about {said}" if split.about else said
