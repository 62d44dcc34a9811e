"""`diptych data verify`, `dedup` and `report`: what a dataset is worth."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diptych.cli.common import progress

if TYPE_CHECKING:
    from diptych.data.verify_texts import Found

DatasetArgument = Annotated[
    Path,
    typer.Argument(
        metavar="DIR", help="A prepared dataset, a folder of WebDataset tars, or one tar.", show_default=False
    ),
]
WorkersOption = Annotated[
    int | None, typer.Option(help="Shards at a time; default: one for each core.", show_default=False)
]


def verify(
    dataset: DatasetArgument,
    decode: Annotated[
        bool,
        typer.Option("--decode", help="Decode every picture, and the first and last frame of every video."),
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Dangling texts end with exit status 1, too.")
    ] = False,
    max_letters: Annotated[int, typer.Option(help="Captions with more letters are told.", min=1)] = 5000,
    workers: WorkersOption = None,
) -> None:
    """Check every byte and text of a dataset; names each damaged file and sample (exit status 1)."""
    from diptych.data.verify import verify as run

    with progress(f"checking {dataset}") as bar:
        verdict = run(dataset, bar.update, decode=decode, workers=workers, max_letters=max_letters)
    for damage in verdict.damages:
        typer.echo(f"damaged: {damage}")
    _print_found("cannot be decoded", verdict.undecodable)
    _print_found("dangling", verdict.dangling)
    what = f"{verdict.samples} samples in {verdict.shards} shards ({size(verdict.bytes)})"
    if verdict.sound:
        said = "all as written and decoded" if decode else "all as written"
        loose = sum(verdict.dangling.counts.values())
        typer.echo(f"{dataset}: {what}, {said}" + (f", {loose} dangling texts" if loose else ""))
        if loose and strict:
            raise typer.Exit(1)
        return
    found = f"{len(verdict.damages)} damages found"
    if decode:
        found += f", {sum(verdict.undecodable.counts.values())} media cannot be decoded"
    typer.echo(f"{dataset}: {what}, {found}", err=True)
    raise typer.Exit(1)


def _print_found(what: str, found: "Found") -> None:
    for cause, count in sorted(found.counts.items()):
        typer.echo(f"{what}: {cause}: {count}")
        for example in found.examples.get(cause, []):
            typer.echo(f"  {example}")


def report(
    dataset: DatasetArgument,
    out: Annotated[
        Path | None,
        typer.Option(help="Page to write; default: report.html in the dataset.", show_default=False),
    ] = None,
) -> None:
    """Write a page with counts, distributions and examples of a dataset."""
    from diptych.report.data import write_data_report

    default = dataset / "report.html" if dataset.is_dir() else dataset.with_suffix(".html")
    typer.echo(write_data_report(dataset, out or default))


def size(count: float) -> str:
    """Return a number of bytes as '133.1 kB'."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:.4g} TB"
