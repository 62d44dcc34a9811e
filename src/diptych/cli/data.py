"""`diptych data`: dataset cards, preparation, checks, queries, reports."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diptych.cli.common import console, progress
from diptych.cli.data_cards import CardArgument, list_cards, show
from diptych.cli.fetch import fetch
from diptych.cli.quality import DatasetArgument, dedup, report, verify

if TYPE_CHECKING:
    import pyarrow as pa

    from diptych.data.prepare import Summary

FIRST_ROWS = 10
"""Samples shown below the count of a bare condition."""


def register(app: typer.Typer) -> None:
    """Add the command group to the application."""
    group = typer.Typer(no_args_is_help=True, help="Prepare, check, query and show datasets.")
    group.command("list")(list_cards)
    group.command("show")(show)
    group.command("prepare")(prepare)
    group.command("fetch")(fetch)
    group.command("miniature")(miniature)
    group.command("verify")(verify)
    group.command("query")(query)
    group.command("dedup")(dedup)
    group.command("report")(report)
    app.add_typer(group, name="data")


def prepare(
    card: CardArgument,
    out: Annotated[Path, typer.Option(help="Folder for the dataset.", show_default=False)],
    raw: Annotated[
        Path | None, typer.Option(help="Folder with the raw files, where the card needs it.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", metavar="NAME=VALUE", help="An option of the card (repeatable)."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace another dataset in the folder.")] = False,
    shard_size: Annotated[
        int | None,
        typer.Option(help="Samples in a shard; default: 5000, for videos 500.", show_default=False),
    ] = None,
    layout: Annotated[
        str, typer.Option(metavar="NAME", help="Form of the raw files, where the card reads several.")
    ] = "",
    workers: Annotated[
        int | None,
        typer.Option(help="Shards written at a time; default: one for each core.", show_default=False),
    ] = None,
    engine: Annotated[
        str, typer.Option(metavar="local|ray", help="Where: on this machine, or on a Ray cluster.")
    ] = "local",
) -> None:
    """Turn raw files into shards with an index. Interrupted, the same command goes on where it was."""
    from diptych.data.prepare import load_card
    from diptych.data.prepare import prepare as run

    found = load_card(card)
    options = _options(option or [])
    with progress(f"preparing {card}") as bar:
        summary = run(
            found,
            raw,
            out,
            options=options,
            shard_size=shard_size,
            force=force,
            progress=bar.update,
            layout=layout,
            workers=workers,
            engine=engine,
        )
    _print_summary(card, summary)


def miniature(
    card: CardArgument,
    out: Annotated[Path, typer.Option(help="Folder for the raw files.", show_default=False)],
    layout: Annotated[
        str, typer.Option(metavar="NAME", help="Form of the raw files, where the card reads several.")
    ] = "",
) -> None:
    """Make a tiny raw folder in the form of the true one, oddities included, to try a card with."""
    from diptych.data.cards.usage import prepare_command
    from diptych.data.prepare import load_card, make_miniature

    found = load_card(card)
    make_miniature(found, out, layout)
    typer.echo(f"{card}: tiny raw files are in {out}; prepare them with:")
    typer.echo(f"  {prepare_command(found, layout, raw=str(out), out='DIR')}")


def query(
    dataset: DatasetArgument,
    sql: Annotated[
        str,
        typer.Argument(
            metavar="SQL",
            help='SELECT ... FROM samples, or a bare condition such as "width > 60".',
            show_default=False,
        ),
    ],
    limit: Annotated[int, typer.Option(help="Rows to print.", min=1)] = 50,
) -> None:
    """Ask the index of a dataset (DuckDB's SQL over the view `samples`)."""
    from diptych.data.index import ShardDataset
    from diptych.data.sql import as_condition, of_interest

    opened = ShardDataset.open(dataset)
    condition = as_condition(sql)
    if condition is None:
        _print_table(opened.query(sql), limit)
        return
    selection = opened.select(where=condition)
    typer.echo(f"{len(selection)} of {opened.size} samples")
    if len(selection):
        rows = selection.rows[: min(limit, FIRST_ROWS)]
        columns = [name for name in of_interest(opened.columns) if name != "sha256"]
        _print_table(opened.take(columns, rows), limit)


def _options(given: list[str]) -> dict[str, str]:
    from diptych.errors import UsageError

    options: dict[str, str] = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise UsageError(f"-o {text}: expected NAME=VALUE")
        if name in options:
            raise UsageError(f"-o {text}: '{name}' is given twice")
        options[name] = value
    return options


def _print_summary(card: str, summary: "Summary") -> None:
    counted = f"{summary.samples} samples in {summary.shards} shard{'s' if summary.shards != 1 else ''}"
    if summary.already:
        typer.echo(f"{card}: already prepared in {summary.out} ({counted}); nothing to do")
    else:
        went_on = f" ({summary.resumed} shards were finished before)" if summary.resumed else ""
        typer.echo(f"{card}: {counted} in {summary.out}{went_on}")
    for name, count in summary.splits.items():
        typer.echo(f"  split {name}: {count}")
    for cause, count in summary.problems.items():
        typer.echo(f"  problem: {cause}: {count}")
        for example in summary.examples.get(cause, []):
            typer.echo(f"    {example}")
    for warning in summary.warnings:
        typer.echo(f"  warning: {warning}", err=True)


def _print_table(table: "pa.Table", limit: int) -> None:
    from rich.table import Table

    shown = Table(*(str(name) for name in table.column_names), box=None)
    for row in table.slice(0, limit).to_pylist():
        shown.add_row(*(_cell(row[name]) for name in table.column_names))
    console().print(shown)
    if len(table) > limit:
        typer.echo(f"... {len(table) - limit} more rows (--limit)")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
