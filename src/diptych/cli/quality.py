"""`diptych data verify`, `dedup` and `report`: what a dataset is worth."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diptych.cli.common import progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from diptych.data.dedup import Duplicates, NamedSet
    from diptych.data.verify_texts import Found

SHOWN_GROUPS = 10
"""Groups of duplicates that are printed."""

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


def dedup(
    datasets: Annotated[
        list[str],
        typer.Argument(
            metavar="DIR[:SPLIT]...",
            help="Datasets; of samples that are alike the first one stays.",
            show_default=False,
        ),
    ],
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIR[:SPLIT]", help="Only find samples that are also in this dataset (repeatable)."
        ),
    ] = None,
    kind: Annotated[
        str,
        typer.Option(metavar="sample|media|near", help="Equal media and texts; equal media; look alike."),
    ] = "near",
    distance: Annotated[
        int, typer.Option(help="Bits of 64 in which the hashes of what looks alike may differ.", min=0)
    ] = 3,
    levels: Annotated[
        float,
        typer.Option(
            help="Levels of 255 by which colours of what looks alike may differ on average.", min=0, max=255
        ),
    ] = 20.0,
    out: Annotated[
        Path | None, typer.Option(help="Table of what was found: .parquet or .json.", show_default=False)
    ] = None,
    where_out: Annotated[
        Path | None,
        typer.Option(
            help="What leaves the found samples out: .yaml (data.where of a recipe), .sql (a condition) or "
            ".txt (keys). With several datasets, one file each, its name behind that of the file.",
            show_default=False,
        ),
    ] = None,
    workers: WorkersOption = None,
) -> None:
    """Find samples that are there twice, or that look alike; within datasets, or of others (leakage)."""
    from diptych.data.dedup import KINDS, NamedSet, find_duplicates
    from diptych.data.dedup_files import EXCLUSIONS, TABLES, check_ending, write_table
    from diptych.errors import UsageError

    if kind not in KINDS:
        raise UsageError(f"--kind {kind}: expected {', '.join(KINDS)}")
    check_ending("--out", out, TABLES)
    check_ending("--where-out", where_out, EXCLUSIONS)
    sets = [NamedSet.open(text) for text in datasets]
    others = [NamedSet.open(text) for text in against or ()]
    with progress("hashing pictures") as bar:
        found = find_duplicates(
            sets,
            others,
            kind=kind,
            distance=distance,
            levels=levels,
            workers=workers,
            progress=bar.update,
        )
    _print_duplicates(found, sets, others)
    if out is not None:
        write_table(found.table, out)
        typer.echo(f"table: {out}")
    if where_out is not None:
        _write_exclusions(found.table, sets, where_out)


def _print_duplicates(found: "Duplicates", sets: "Sequence[NamedSet]", against: "Sequence[NamedSet]") -> None:
    from collections import Counter

    from rich.table import Table

    from diptych.cli.common import console

    rows = found.table.to_pylist()
    counts = Counter((row["set"], row["kind"], row["kept_set"]) for row in rows)
    what = (
        "that are also in " + ", ".join(one.name for one in against) if against else "that are there already"
    )
    names = ", ".join(one.name for one in sets)
    typer.echo(f"{names}: {len(rows)} of {found.samples} samples {what}")
    for (name, kind, other), count in sorted(counts.items()):
        means = {"sample": "equal media and texts", "media": "equal media", "near": "look alike"}[kind]
        typer.echo(f"  {name}: {count} like others of {other}: {means}")
    if found.plain:
        typer.echo(f"  {found.plain} pictures show too little to be compared by their looks")
    if found.unhashed:
        typer.echo(f"  {found.unhashed} pictures or videos cannot be decoded (diptych data verify --decode)")
    groups: dict[int, list[str]] = {}
    for row in rows:
        mark = f" ({row['distance']})" if row["kind"] == "near" else f" ({row['kind']})"
        named = groups.setdefault(row["group"], [f"{row['kept_set']} {row['kept_key']}"])
        named.append(f"{row['set']} {row['key']}{mark}")
    if not groups:
        return
    shown = Table("stays" if not against else "theirs", "alike", box=None)
    for first, *rest in list(groups.values())[:SHOWN_GROUPS]:
        more = f", {len(rest) - 3} more" if len(rest) > 3 else ""
        shown.add_row(first, ", ".join(rest[:3]) + more)
    console().print(shown)
    if len(groups) > SHOWN_GROUPS:
        typer.echo(f"... {len(groups) - SHOWN_GROUPS} more groups (--out)")


def _write_exclusions(table: "pa.Table", sets: "Sequence[NamedSet]", out: Path) -> None:
    import pyarrow.compute as pc

    from diptych.data.dedup_files import write_exclusion

    for one in sets:
        keys = table.filter(pc.field("set") == one.name).column("key").to_pylist()
        path = out
        if len(sets) > 1:
            path = out.with_name(f"{out.stem}-{one.name.replace(':', '-')}{out.suffix}")
        write_exclusion(keys, path)
        typer.echo(f"{one.name}: {path} leaves out {len(keys)} samples")


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
