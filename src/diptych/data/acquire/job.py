"""`diptych data fetch`: a list of addresses becomes a dataset; killed at any moment, the next run goes on."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from diptych.data.acquire.chunks import FetchChunk, cut
from diptych.data.acquire.grouping import cut_videos, spread
from diptych.data.acquire.lists import ListRow, file_size, list_files, read_list
from diptych.data.acquire.options import ListOptions, NetOptions, PictureOptions
from diptych.data.acquire.results import failed_keys, write_dataset, write_report, write_rows
from diptych.data.acquire.state import FetchFolder, Finished, Pass
from diptych.data.acquire.tasks import FetchJob, Group, fetch_group
from diptych.data.acquire.video_options import PageOptions, VideoOptions, video_net
from diptych.data.engines import Engine, Task, make_engine
from diptych.data.layout import INFO
from diptych.data.members import clean_key
from diptych.data.shards import KeySet
from diptych.errors import DataError, UsageError

Report = Callable[[int, int | None], None]
"""Called with the rows done so far, and their number if it is known."""
PICTURES_A_SHARD, VIDEOS_A_SHARD = 2000, 500
LARGEST_GROUP = 8
"""Chunks that a worker gets at a time, once every worker has something to do."""


@dataclass(frozen=True)
class FetchSummary:
    """What a fetch did."""

    out: Path
    rows: int
    fetched: int
    shards: int
    causes: dict[str, int]
    """Of rows that failed -> how many."""
    examples: dict[str, list[str]]
    """Cause -> the first few, "key: detail"."""
    hosts: list[dict[str, Any]] = field(repr=False)
    seconds: float
    resumed: int = 0
    """Chunks that an earlier run had finished."""
    already: bool = False
    """Nothing was left to do."""


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
    runner = make_engine(engine, workers)
    planned = _Plan(source, form, name, lists, videos or pictures, shard_size)
    started = time.monotonic()
    with FetchFolder(out, planned.identity, force=force) as folder:
        if folder.passes[-1].chunks is not None:
            if (out / INFO).is_file() and not retry_failed:
                return _summary(folder, _stored_report(out), already=True)
            if retry_failed:
                folder.passes.append(Pass(_end(folder.passes[-1]), only=list(only)))
                folder.save()
        finished = folder.finished()
        current = folder.passes[-1]
        if current.chunks is None:
            share = getattr(runner, "workers", None) or workers or 1
            job = FetchJob(
                out.absolute(), planned.identity["name"], folder.run, net, pictures, share, videos, pages
            )
            current.chunks = _run_pass(runner, job, folder, planned, finished, progress)
            folder.save()
        return _conclude(folder, planned, net, time.monotonic() - started, len(finished))


class _Plan:
    """What is fetched."""

    def __init__(
        self,
        source: str,
        form: str,
        name: str,
        lists: ListOptions,
        media: PictureOptions | VideoOptions,
        shard_size: int,
    ) -> None:
        self._source, self._form, self._lists = source, form, lists
        self._files = [] if form else list_files(source)
        if form and not Path(source).exists():
            raise DataError(f"{source}: expected the folder with the list of {form}, or one file of it")
        stem = form or source.rstrip("/").rpartition("/")[2].partition(".")[0].replace("*", "")
        name = name or clean_key(stem) or "fetched"
        if clean_key(name) != name:
            raise UsageError(f"--name: '{name}' cannot name shards: letters, digits, '_' and '-' only")
        self.identity: dict[str, Any] = {
            "name": name,
            "form": form,
            "shard_size": shard_size,
            "list": {Path(file).name: file_size(file) for file in self._files},
            "options": {**_changed(media), **{f"list_{k}": v for k, v in _changed(lists).items()}},
        }

    def rows(self) -> Iterator[ListRow]:
        """Yield the rows of the list."""
        rows = (
            _published(self._form, Path(self._source)) if self._form else read_list(self._files, self._lists)
        )
        return spread(rows) if self._lists.video else rows

    def chunks(self, folder: Path, first: int, only: KeySet | None) -> Iterator[FetchChunk]:
        """Yield the chunks of a pass; see `cut`."""
        size = self.identity["shard_size"]
        if self._lists.video:
            return cut_videos(self.rows(), size, folder, first, only)
        return cut(self.rows(), size, first, only)


def _published(form: str, source: Path) -> Iterator[ListRow]:
    from diptych.data.raw.url_lists import listed, listed_file

    rows = listed(form, source) if source.is_dir() else listed_file(form, source)
    for number, row in enumerate(rows):
        more = {
            name: value for name, value in row.more.items() if isinstance(value, bool | int | float | str)
        }
        yield ListRow(number, row.id, row.url, row.caption, more, row.split, row.problem, row.start, row.end)


def _changed(options: Any) -> dict[str, Any]:
    """Return the options that are not as they are by default, as JSON has them."""
    usual = asdict(type(options)())
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(options).items()
        if value != usual[name]
    }


def _run_pass(
    engine: Engine,
    job: FetchJob,
    folder: FetchFolder,
    planned: _Plan,
    finished: dict[int, Finished],
    progress: Report | None,
) -> int:
    """Fetch the chunks of the last pass that are not finished; return how many it has."""
    current = folder.passes[-1]
    only = failed_keys(folder, current.first, current.only) if current.first else None
    counted = _Counted(progress)
    chunks = counted.watch(planned.chunks(folder.folder, current.first, only))
    wanted = _unfinished(chunks, finished, folder.out)
    tasks = (
        Task(
            f"chunks {group[0].number} to {group[-1].number}",
            Group(job, group),
            sum(len(c.entries) for c in group),
        )
        for group in _groups(wanted, job.workers)
    )
    for _ in engine.run(fetch_group, tasks, counted.told):
        pass
    return counted.chunks


class _Counted:
    """Counts chunks as they are cut and rows as they are done."""

    def __init__(self, progress: Report | None) -> None:
        self.chunks = 0
        self._progress, self._done = progress, dict[str, int]()

    def watch(self, chunks: Iterable[FetchChunk]) -> Iterator[FetchChunk]:
        for chunk in chunks:
            self.chunks += 1
            yield chunk

    def told(self, name: str, done: int) -> None:
        self._done[name] = done
        if self._progress:
            self._progress(sum(self._done.values()), None)


def _unfinished(
    chunks: Iterable[FetchChunk], finished: dict[int, Finished], out: Path
) -> Iterator[FetchChunk]:
    for chunk in chunks:
        known = finished.get(chunk.number)
        if known is None:
            yield chunk
        elif known.fingerprint != chunk.fingerprint:
            first = chunk.entries[0]
            raise DataError(
                f"cannot go on in {out}: the rows from {first.row.number + 1} on ('{first.row.url}') are not "
                "those that were fetched; the list has changed: begin anew with --force, or take the old list"
            )


def _groups(chunks: Iterable[FetchChunk], workers: int) -> Iterator[tuple[FetchChunk, ...]]:
    """Yield chunks one by one until all workers have some, then several: a group has no pauses inside."""
    group: list[FetchChunk] = []
    number = 0
    for chunk in chunks:
        group.append(chunk)
        if len(group) >= min(max(number // workers, 1), LARGEST_GROUP):
            yield tuple(group)
            number, group = number + 1, []
    if group:
        yield tuple(group)


def _end(one: Pass) -> int:
    return one.first + (one.chunks or 0)


def _conclude(
    folder: FetchFolder, planned: _Plan, net: NetOptions, seconds: float, resumed: int
) -> FetchSummary:
    chunks = _end(folder.passes[-1])
    write_rows(folder, chunks)
    report = write_report(folder.out, {**planned.identity["options"], **_changed(net)}, seconds)
    parts = [part for number, part in folder.finished().items() if part.shard and number < chunks]
    if not parts:
        named = "; ".join(f"{cause} {n}" for cause, n in report["causes"].items()) or "the list is empty"
        raise DataError(
            f"none of the {report['rows']} rows could be fetched ({named}); {folder.out}/rows.parquet says "
            "what became of each; --retry-failed tries again"
        )
    write_dataset(folder, parts, planned.identity, report)
    return _summary(folder, report, resumed=resumed)


def _stored_report(out: Path) -> dict[str, Any]:
    import json

    from diptych.data.acquire.paths import REPORT

    report: dict[str, Any] = json.loads((out / REPORT).read_text(encoding="utf-8"))
    return report


def _summary(
    folder: FetchFolder, report: dict[str, Any], *, resumed: int = 0, already: bool = False
) -> FetchSummary:
    return FetchSummary(
        out=folder.out,
        rows=report["rows"],
        fetched=report["fetched"],
        shards=sum(1 for part in folder.finished().values() if part.shard),
        causes=report["causes"],
        examples=report["examples"],
        hosts=report["hosts"],
        seconds=report["seconds"],
        resumed=resumed,
        already=already,
    )
