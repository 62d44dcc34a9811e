"""`diptych data list` and `diptych data show`: what the cards know."""

import textwrap
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from diptych.cli.common import console

if TYPE_CHECKING:
    from diptych.data.cards.base import Card, Source

WIDTH = 100

CardArgument = Annotated[
    str,
    typer.Argument(
        metavar="CARD", help="Name of a dataset card, see `diptych data list`.", show_default=False
    ),
]


def list_cards() -> None:
    """List the dataset cards."""
    from rich.table import Table

    from diptych.data.cards import CARDS
    from diptych.data.prepare import load_card

    table = Table(box=None)
    for heading in ("card", "what it is", "media", "raw"):
        table.add_column(heading, no_wrap=heading != "what it is")
    table.add_column("layouts", min_width=13)  # the longest name with a comma
    for name in CARDS:
        card = load_card(name)
        raw = "needed" if card.needs_raw else "optional" if card.sources else "none"
        table.add_row(name, card.title, card.media, raw, ", ".join(card.layouts))
    console().print(table)


def show(card: CardArgument) -> None:
    """Show what a card is, where its raw files come from, and how to prepare it."""
    from diptych.data.prepare import load_card

    typer.echo("\n".join(_describe(load_card(card))))


def _describe(card: "Card") -> Iterator[str]:
    from diptych.data.cards.usage import counts, target_text

    yield f"{card.name}: {card.title}"
    yield ""
    yield from _wrap(card.description)
    yield ""
    for name, text in {"licence": card.licence, "homepage": card.homepage, "citation": card.citation}.items():
        if text:
            yield from _wrap(f"{name + ':':<10} {text}", hanging=11)
    yield from _raw_files(card)
    for name, layout in card.layouts.items():
        yield from _heading(f"the same in the layout '{name}' (--layout {name}):")
        yield from _wrap(layout.description, 2)
        yield from _sources(layout.sources)
    yield from _heading("options (-o NAME=VALUE):", card.options)
    for name, text in card.options.items():
        yield from _wrap(f"{name}: {text}", 2, hanging=4)
    yield from _heading("splits:")
    for name, split in card.splits.items():
        yield from _wrap(f"{name}: {counts(split)}, where {split.where}", 2, hanging=4)
        yield from _wrap(split.note, 6)
    yield from _heading("a prepared sample:", card.prepared)
    yield from _markdown(card.prepared)
    yield from _heading("oddities:", card.oddities)
    yield from _markdown(card.oddities)
    yield from _heading(f"target set {card.target_set}:", card.target_set)
    if card.target_set:
        yield from _wrap(target_text(card), 2)
    yield from _commands(card)


def _raw_files(card: "Card") -> Iterator[str]:
    if card.needs_raw:
        yield from _heading("raw files, put together under one folder RAW:")
        if not card.sources:
            yield "  those that the options name"
    else:
        yield from _heading("raw files, for the full rebuild only, under one folder RAW:", card.sources)
    yield from _sources(card.sources, all_needed=not card.needs_raw)


def _sources(sources: "tuple[Source, ...]", *, all_needed: bool = False) -> Iterator[str]:
    from diptych.data.cards.usage import grouped

    for origin, together in grouped(sources):
        for source in together:
            yield f"  RAW/{source.path}" + ("" if source.required or all_needed else "  (optional)")
            if source.alternatives:
                yield from _wrap(f"or {', '.join(source.alternatives)}", 6, hanging=3)
        yield from _wrap(f"from {origin}", 6, hanging=5)


def _commands(card: "Card") -> Iterator[str]:
    from diptych.data.cards.usage import commands

    yield from _heading("commands:")
    for command, comment in commands(card):
        yield f"  {command}" + (f"    ({comment})" if comment else "")


def _heading(text: str, wanted: object = True) -> Iterator[str]:
    if wanted:
        yield from ("", text)


def _markdown(text: str) -> Iterator[str]:
    """Yield paragraphs and entries of lists, each wrapped by itself."""
    for line in text.splitlines():
        yield from _wrap(line, 2, hanging=2 if line.startswith("- ") else 0)


def _wrap(text: str, indent: int = 0, hanging: int = 0) -> Iterable[str]:
    first, others = " " * indent, " " * (indent + hanging)
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=others,
        break_on_hyphens=False,
        break_long_words=False,
    )
