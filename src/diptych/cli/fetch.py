"""`diptych data fetch`: lists of addresses into shards."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diptych.cli.common import progress
from diptych.errors import UsageError

if TYPE_CHECKING:
    from diptych.data.acquire.job import FetchSummary

SHOWN_HOSTS = 5
"""Hosts named in the summary: those where most rows failed."""

_LIST, _PICTURES, _NETWORK = "The list", "Pictures", "Network and politeness"
_VIDEOS, _PAGES = "Videos", "Pages of video platforms (through yt-dlp)"


def fetch(
    ctx: typer.Context,
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
            "--form",
            "--list",
            metavar="NAME",
            help="LIST is the folder (or one file) of this dataset's list as its owners publish it.",
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
        int | None,
        typer.Option(
            help="Requests at a time in a worker [default: 64, videos 8].", rich_help_panel=_NETWORK
        ),
    ] = None,
    per_host: Annotated[
        int | None,
        typer.Option(help="Requests at a time to a host [default: 32, videos 8].", rich_help_panel=_NETWORK),
    ] = None,
    host_rate: Annotated[
        float, typer.Option(help="Requests a second to a host; 0: no limit.", rich_help_panel=_NETWORK)
    ] = 0.0,
    timeout: Annotated[
        float | None,
        typer.Option(help="Seconds for a try [default: 30, videos 600].", rich_help_panel=_NETWORK),
    ] = None,
    row_timeout: Annotated[
        float | None,
        typer.Option(
            help="Seconds for all tries of a row [default: 120, videos 1800].", rich_help_panel=_NETWORK
        ),
    ] = None,
    connect_timeout: Annotated[
        float, typer.Option(help="Seconds for a connection.", rich_help_panel=_NETWORK)
    ] = 10.0,
    read_timeout: Annotated[
        float, typer.Option(help="Seconds without any byte.", rich_help_panel=_NETWORK)
    ] = 10.0,
    min_speed: Annotated[
        float, typer.Option(help="Bytes a second a body must come with.", rich_help_panel=_NETWORK)
    ] = 1000.0,
    max_mb: Annotated[
        float | None,
        typer.Option(help="MB of a body, at most [default: 33.5, videos 2147].", rich_help_panel=_NETWORK),
    ] = None,
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
    media: Annotated[
        str,
        typer.Option(
            metavar="picture|video",
            help="What the list is about; default: pictures, videos for webvid, internvid, didemo.",
        ),
    ] = "",
    start: Annotated[
        str, typer.Option(metavar="COLUMN", help="Times at which clips begin.", rich_help_panel=_VIDEOS)
    ] = "",
    end: Annotated[
        str, typer.Option(metavar="COLUMN", help="Times at which they end.", rich_help_panel=_VIDEOS)
    ] = "",
    clips: Annotated[
        str, typer.Option(metavar="COLUMN", help="Lists of [start, end].", rich_help_panel=_VIDEOS)
    ] = "",
    precision: Annotated[
        str,
        typer.Option(
            help="How clips are cut: exact (encoded anew), keyframe (copied).", rich_help_panel=_VIDEOS
        ),
    ] = "exact",
    fps: Annotated[
        float, typer.Option(help="Frames a second, at most; 0: as they are.", rich_help_panel=_VIDEOS)
    ] = 0.0,
    short_side: Annotated[
        int, typer.Option(help="Pixels of the shorter side, at most; 0: as it is.", rich_help_panel=_VIDEOS)
    ] = 0,
    audio: Annotated[str, typer.Option(help="keep or drop the sound.", rich_help_panel=_VIDEOS)] = "keep",
    min_seconds: Annotated[
        float, typer.Option(help="Leave out shorter videos and clips.", rich_help_panel=_VIDEOS)
    ] = 0.0,
    max_seconds: Annotated[
        float, typer.Option(help="Leave out longer ones; 0: none.", rich_help_panel=_VIDEOS)
    ] = 0.0,
    cut_timeout: Annotated[
        float, typer.Option(help="Seconds for cutting a clip.", rich_help_panel=_VIDEOS)
    ] = 300.0,
    files: Annotated[
        Path | None,
        typer.Option(help="The list may name files below this folder.", rich_help_panel=_VIDEOS),
    ] = None,
    extract: Annotated[
        str,
        typer.Option(
            help="Which addresses yt-dlp is asked for: platforms, all (not ending like a file), none.",
            rich_help_panel=_PAGES,
        ),
    ] = "platforms",
    height: Annotated[int, typer.Option(help="Lines of the format, at most.", rich_help_panel=_PAGES)] = 360,
    subtitles: Annotated[
        str, typer.Option(metavar="EN,DE,...", help="Languages to keep.", rich_help_panel=_PAGES)
    ] = "",
    automatic: Annotated[
        bool, typer.Option("--automatic", help="Also machine-made ones.", rich_help_panel=_PAGES)
    ] = False,
    cookies: Annotated[
        Path | None, typer.Option(help="File with cookies (Netscape).", rich_help_panel=_PAGES)
    ] = None,
    proxy: Annotated[str, typer.Option(help="Address of a proxy.", rich_help_panel=_PAGES)] = "",
    sleep: Annotated[float, typer.Option(help="Seconds before each page.", rich_help_panel=_PAGES)] = 0.0,
    sleep_requests: Annotated[
        float, typer.Option(help="Seconds between its requests.", rich_help_panel=_PAGES)
    ] = 0.0,
    rate: Annotated[
        float, typer.Option(help="kB a second of one download; 0: no limit.", rich_help_panel=_PAGES)
    ] = 0.0,
    pages_at_a_time: Annotated[
        int, typer.Option(help="Pages at a time in a worker.", rich_help_panel=_PAGES)
    ] = 1,
    pause: Annotated[
        float, typer.Option(help="Seconds after a platform says it is too much.", rich_help_panel=_PAGES)
    ] = 60.0,
    shard_size: Annotated[
        int | None, typer.Option(help="Rows of a shard [default: 2000, videos 500].")
    ] = None,
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
    """Fetch the pictures or videos of a list into shards. Interrupted, the same command goes on."""
    from diptych.data.acquire.job import fetch as run
    from diptych.data.acquire.options import DIRECTIVES, ListOptions, NetOptions, PictureOptions
    from diptych.data.acquire.video_options import PageOptions, VideoOptions, video_net

    if media not in ("", "picture", "video"):
        raise UsageError(f"--media: expected picture or video, got '{media}'")
    from diptych.data.acquire.workers import FORMS

    is_video = media == "video" or (not media and form in FORMS)
    usual = video_net() if is_video else NetOptions()
    lists = ListOptions(
        format=format,
        url=url,
        caption=caption,
        id=id,
        columns=None if columns is None else tuple(filter(None, columns.split(","))),
        start=start,
        end=end,
        clips=clips,
    )
    net = NetOptions(
        connections=usual.connections if connections is None else connections,
        per_host=usual.per_host if per_host is None else per_host,
        host_rate=host_rate,
        timeout=usual.timeout if timeout is None else timeout,
        row_timeout=usual.row_timeout if row_timeout is None else row_timeout,
        connect_timeout=connect_timeout,
        read_timeout=read_timeout,
        min_speed=min_speed,
        max_bytes=usual.max_bytes if max_mb is None else round(max_mb * 1e6),
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
    videos = VideoOptions(
        precision=precision,
        fps=fps,
        short_side=short_side,
        audio=audio,
        min_seconds=min_seconds,
        max_seconds=max_seconds,
        cut_timeout=cut_timeout,
        height=height,
        subtitles=tuple(filter(None, subtitles.split(","))),
        automatic=automatic,
    )
    pages = PageOptions(
        files=str(files or ""),
        extract=extract,
        cookies=str(cookies or ""),
        proxy=proxy,
        sleep=sleep,
        sleep_requests=sleep_requests,
        rate=round(rate * 1000),
        at_a_time=pages_at_a_time,
        pause=pause,
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
            videos=videos if is_video else None,
            pages=pages,
            shard_size=shard_size,
            workers=workers,
            engine=engine,
            retry_failed=retry_failed,
            only=tuple(cause.strip() for cause in only.split(",") if cause.strip()),
            force=force,
            progress=bar.update,
            origin=ctx.obj,
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
