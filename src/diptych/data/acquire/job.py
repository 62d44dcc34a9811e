"""`diptych data fetch`: a list of addresses becomes a dataset; killed at any moment, the next run goes on."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from diptych.data.acquire.options import ListOptions, NetOptions, PictureOptions
from diptych.data.acquire.order import FetchSummary, Order, Report
from diptych.data.acquire.video_options import PageOptions, VideoOptions, video_net
from diptych.data.acquire.workers import origin_of_workers
from diptych.data.engines import make_engine
from diptych.errors import UsageError

if TYPE_CHECKING:
    from diptych.data.engines.origin import Origin

PICTURES_A_SHARD, VIDEOS_A_SHARD = 2000, 500
__all__ = ["FetchSummary", "fetch"]


def fetch(
    source: str,
    out: Path,
    *,
    form: str = "",
    name: str = "",
    lists: ListOptions | None = None,
    net: NetOptions | None = None,
    pictures: PictureOptions | None = None,
    videos: VideoOptions | None = None,
    pages: PageOptions | None = None,
    shard_size: int | None = None,
    workers: int | None = None,
    engine: str = "local",
    retry_failed: bool = False,
    only: Sequence[str] = (),
    force: bool = False,
    progress: Report | None = None,
    origin: "Origin | None" = None,
) -> FetchSummary:
    """Fetch the media of a list into shards with an index.

    Interrupted, the same call goes on after the chunks that are finished. Every row of the list ends within
    its time and has its line in `rows.parquet`.

    Args:
        source: file, folder or pattern, here or where fsspec reaches; with `form`, the folder of the list,
            or one file of it.
        out: folder of the dataset, made if missing.
        form: a dataset whose list is read as its owners publish it, see `diptych.data.raw.url_lists`.
        name: start of the shards' names; empty: that of the list.
        lists: how the list is read.
        net: limits of fetching.
        pictures: what becomes of the pictures.
        videos: the list is about videos, and this is what becomes of them.
        pages: where videos come from besides the web.
        shard_size: rows of a shard, those that fail leave it smaller; None: 2000 pictures, 500 videos.
        workers: processes; None: one for each core.
        engine: `local` or `ray`.
        retry_failed: try the rows again that failed.
        only: of those, the rows that failed for one of these causes; none: all.
        force: delete what was fetched before into `out`.
        progress: told how many rows are done.
        origin: see `origin_of_workers`; None: the call begins one.

    Raises:
        UsageError: wrong options, no such column.
        DataError: the list cannot be read or has changed, `out` holds something else, nothing could be
            fetched, a full disk.
    """
    lists, pictures, pages = lists or ListOptions(), pictures or PictureOptions(), pages or PageOptions()
    if net is None:
        net = video_net() if videos else NetOptions()
    if videos:
        from diptych.data.acquire.pages import check_sources

        check_sources(pages, form)
        lists = replace(lists, video=True)
    shard_size = shard_size if shard_size is not None else VIDEOS_A_SHARD if videos else PICTURES_A_SHARD
    if shard_size < 1:
        raise UsageError(f"--shard-size: expected at least 1 row, got {shard_size}")
    if only and not retry_failed:
        raise UsageError("--only chooses among the rows that failed; it needs --retry-failed")
    order = Order(
        source=source,
        out=out,
        form=form,
        name=name,
        lists=lists,
        net=net,
        pictures=pictures,
        videos=videos,
        pages=pages,
        shard_size=shard_size,
        workers=workers,
        retry_failed=retry_failed,
        only=tuple(only),
        force=force,
        progress=progress,
    )
    with make_engine(engine, workers, origin=origin or origin_of_workers(video=bool(videos))) as runner:
        # Not before: the processes of the engine load at the same time.
        from diptych.data.acquire.running import carry_out

        return carry_out(order, runner)
