"""`diptych data fetch`: lists of addresses into shards."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diptych.cli.common import progress

if TYPE_CHECKING:
    from diptych.data.acquire.job import FetchSummary

SHOWN_HOSTS = 5
"""Hosts named in the summary: those where most rows failed."""

_LIST, _PICTURES, _NETWORK = "The list", "Pictures", "Network and politeness"


def fetch(
    source: Annotated[
        str,
        typer.Argument(
            metavar="LIST",
            help="File, folder or pattern: csv, tsv, txt, json, jsonl, parquet (also .gz); or a URL of one.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the dataset.", show_default=False)],
    form: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="LIST is the folder with the list of this dataset as its owners publish it.",
            rich_help_panel=_LIST,
        ),
    ] = "",
    format: Annotated[
        str, typer.Option(help="Format of the list; default: by its name.", rich_help_panel=_LIST)
    ] = "",
    url: Annotated[
        str,
        typer.Option(metavar="COLUMN", help="Addresses; default: found by itself.", rich_help_panel=_LIST),
    ] = "",
    caption: Annotated[
        str, typer.Option(metavar="COLUMN", help="Captions; default: found by name.", rich_help_panel=_LIST)
    ] = "",
    id: Annotated[
        str, typer.Option(metavar="COLUMN", help="Names for the samples.", rich_help_panel=_LIST)
    ] = "",
    columns: Annotated[
        str | None,
        typer.Option(metavar="A,B,...", help="Further columns to keep; default: all.", rich_help_panel=_LIST),
    ] = None,
    size: Annotated[int, typer.Option(help="Pixels of a side.", rich_help_panel=_PICTURES)] = 256,
    mode: Annotated[
        str,
        typer.Option(
            help="keep_ratio (shorter side), keep_ratio_largest, center_crop, border, no.",
            rich_help_panel=_PICTURES,
        ),
    ] = "keep_ratio",
    enlarge: Annotated[
        bool, typer.Option("--enlarge", help="Also enlarge smaller pictures.", rich_help_panel=_PICTURES)
    ] = False,
    encode_format: Annotated[
        str, typer.Option("--as", metavar="jpg|png|webp", help="Stored form.", rich_help_panel=_PICTURES)
    ] = "jpg",
    quality: Annotated[int, typer.Option(help="Of JPEG and WebP, 1 to 100.", rich_help_panel=_PICTURES)] = 95,
    encode: Annotated[
        str,
        typer.Option(
            help="needed (bytes stay where nothing changes), always, never.", rich_help_panel=_PICTURES
        ),
    ] = "needed",
    min_side: Annotated[
        int, typer.Option(help="Leave out pictures with a shorter side.", rich_help_panel=_PICTURES)
    ] = 0,
    max_aspect: Annotated[
        float, typer.Option(help="Leave out more elongated pictures; 0: none.", rich_help_panel=_PICTURES)
    ] = 0.0,
    connections: Annotated[
        int, typer.Option(help="Requests at a time in a worker.", rich_help_panel=_NETWORK)
    ] = 64,
    per_host: Annotated[
        int, typer.Option(help="Requests at a time to a host.", rich_help_panel=_NETWORK)
    ] = 32,
    host_rate: Annotated[
        float, typer.Option(help="Requests a second to a host; 0: no limit.", rich_help_panel=_NETWORK)
    ] = 0.0,
    timeout: Annotated[float, typer.Option(help="Seconds for a try.", rich_help_panel=_NETWORK)] = 30.0,
    row_timeout: Annotated[
        float, typer.Option(help="Seconds for all tries of a row.", rich_help_panel=_NETWORK)
    ] = 120.0,
    connect_timeout: Annotated[
        float, typer.Option(help="Seconds for a connection.", rich_help_panel=_NETWORK)
    ] = 10.0,
    read_timeout: Annotated[
        float, typer.Option(help="Seconds without any byte.", rich_help_panel=_NETWORK)
    ] = 10.0,
    min_speed: Annotated[
        float, typer.Option(help="Bytes a second a body must come with.", rich_help_panel=_NETWORK)
    ] = 1000.0,
    max_mb: Annotated[float, typer.Option(help="MB of a body, at most.", rich_help_panel=_NETWORK)] = 33.5,
    retries: Annotated[
        int, typer.Option(help="Further tries after failures that may pass.", rich_help_panel=_NETWORK)
    ] = 2,
    robots: Annotated[
        bool, typer.Option("--robots", help="Honour robots.txt of each host.", rich_help_panel=_NETWORK)
    ] = False,
    ignore_opt_out: Annotated[
        bool,
        typer.Option(
            "--ignore-opt-out",
            help="Do not honour X-Robots-Tag: noai and the like.",
            rich_help_panel=_NETWORK,
        ),
    ] = False,
    user_agent: Annotated[
        str, typer.Option(help="How requests present themselves.", rich_help_panel=_NETWORK)
    ] = "",
    allow_private: Annotated[
        bool,
        typer.Option("--allow-private", help="Also reach private addresses.", rich_help_panel=_NETWORK),
    ] = False,
    shard_size: Annotated[int, typer.Option(help="Rows of a shard.")] = 2000,
    name: Annotated[str, typer.Option(help="Start of the shards' names; default: the list's.")] = "",
    workers: Annotated[
        int | None, typer.Option(help="Processes; default: one for each core.", show_default=False)
    ] = None,
    engine: Annotated[
        str, typer.Option(metavar="local|ray", help="Where: on this machine, or on a Ray cluster.")
    ] = "local",
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try the rows again that failed.")
    ] = False,
    only: Annotated[
        str,
        typer.Option(metavar="CAUSE,...", help='With --retry-failed: of these causes, e.g. "dns,http 503".'),
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Begin anew.")] = False,
) -> None:
    """Fetch the pictures of a list into shards with an index. Interrupted, the same command goes on."""
    from diptych.data.acquire.job import fetch as run
    from diptych.data.acquire.options import DIRECTIVES, ListOptions, NetOptions, PictureOptions

    usual = NetOptions()
    lists = ListOptions(
        format=format,
        url=url,
        caption=caption,
        id=id,
        columns=None if columns is None else tuple(filter(None, columns.split(","))),
    )
    net = NetOptions(
        connections=connections,
        per_host=per_host,
        host_rate=host_rate,
        timeout=timeout,
        row_timeout=row_timeout,
        connect_timeout=connect_timeout,
        read_timeout=read_timeout,
        min_speed=min_speed,
        max_bytes=round(max_mb * 1e6),
        retries=retries,
        robots=robots,
        directives=() if ignore_opt_out else DIRECTIVES,
        user_agent=user_agent or usual.user_agent,
        allow_private=allow_private,
    )
    pictures = PictureOptions(
        size=size,
        mode=mode,
        enlarge=enlarge,
        format=encode_format,
        quality=quality,
        encode=encode,
        min_side=min_side,
        max_aspect=max_aspect,
    )
    with progress(f"fetching {source}") as bar:
        summary = run(
            source,
            out,
            form=form,
            name=name,
            lists=lists,
            net=net,
            pictures=pictures,
            shard_size=shard_size,
            workers=workers,
            engine=engine,
            retry_failed=retry_failed,
            only=tuple(cause.strip() for cause in only.split(",") if cause.strip()),
            force=force,
            progress=bar.update,
        )
    _print(summary)


def _print(summary: "FetchSummary") -> None:
    counted = f"{summary.fetched} of {summary.rows} rows in {summary.shards} shards"
    if summary.already:
        typer.echo(f"already fetched into {summary.out}: {counted}; --retry-failed tries the others again")
    else:
        went_on = f", {summary.resumed} chunks were finished before" if summary.resumed else ""
        typer.echo(f"{counted} in {summary.out} ({summary.seconds:.1f} s{went_on})")
    for cause, count in summary.causes.items():
        typer.echo(f"  failed: {cause}: {count}")
        for example in summary.examples.get(cause, [])[:2]:
            typer.echo(f"    {example}")
    failing = sorted(summary.hosts, key=lambda host: host["fetched"] - host["rows"])[:SHOWN_HOSTS]
    for host in failing:
        lost = host["rows"] - host["fetched"]
        if lost:
            typer.echo(f"  host {host['host']}: {lost} of {host['rows']} failed, mostly {host['cause']}")
    if summary.causes and not summary.already:
        typer.echo(f"  {summary.out}/rows.parquet says what became of each row; --retry-failed tries again")
