"""Fetching as ordered: the passes over a list, the tasks of a pass, and what they come to."""

import json
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diptych.data.acquire.chunks import FetchChunk, cut
from diptych.data.acquire.grouping import cut_videos, spread
from diptych.data.acquire.lists import ListRow, file_size, list_files, read_list
from diptych.data.acquire.order import FetchSummary, Order, Report
from diptych.data.acquire.paths import REPORT
from diptych.data.acquire.results import failed_keys, write_dataset, write_report, write_rows
from diptych.data.acquire.state import FetchFolder, Finished, Pass
from diptych.data.acquire.tasks import FetchJob, Group, fetch_group
from diptych.data.engines import Engine, Task
from diptych.data.layout import INFO
from diptych.data.members import clean_key
from diptych.data.shards import KeySet
from diptych.errors import DataError, UsageError

LARGEST_GROUP = 8
"""Chunks that a worker gets at a time, once every worker has something to do."""


def carry_out(order: Order, engine: Engine) -> FetchSummary:
    """Fetch; see `fetch`.

    Args:
        order: what.
        engine: runs the tasks.
    """
    plan = _Plan(order)
    started = time.monotonic()
    with FetchFolder(order.out, plan.identity, force=order.force) as folder:
        if folder.passes[-1].chunks is not None:
            if (order.out / INFO).is_file() and not order.retry_failed:
                return _summary(folder, _stored_report(order.out), already=True)
            if order.retry_failed:
                folder.passes.append(Pass(_end(folder.passes[-1]), only=list(order.only)))
                folder.save()
        finished = folder.finished()
        current = folder.passes[-1]
        if current.chunks is None:
            current.chunks = _run_pass(engine, folder, plan, finished)
            folder.save()
        return _conclude(folder, plan, time.monotonic() - started, len(finished))


class _Plan:
    """What is fetched."""

    def __init__(self, order: Order) -> None:
        self.order = order
        source, form, name = order.source, order.form, order.name
        self._source, self._form, self._lists = source, form, order.lists
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
            "shard_size": order.shard_size,
            "list": {Path(file).name: file_size(file) for file in self._files},
            "options": {
                **_changed(order.videos or order.pictures),
                **{f"list_{k}": v for k, v in _changed(order.lists).items()},
            },
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


def _run_pass(engine: Engine, folder: FetchFolder, plan: _Plan, finished: dict[int, Finished]) -> int:
    """Fetch the chunks of the last pass that are not finished; return how many it has."""
    order, current = plan.order, folder.passes[-1]
    share = getattr(engine, "workers", None) or order.workers or 1
    out, name = order.out.absolute(), plan.identity["name"]
    job = FetchJob(out, name, folder.run, order.net, order.pictures, share, order.videos, order.pages)
    only = failed_keys(folder, current.first, current.only) if current.first else None
    counted = _Counted(order.progress)
    chunks = counted.watch(plan.chunks(folder.folder, current.first, only))
    wanted = _unfinished(chunks, finished, folder.out)
    threading.Thread(target=_load_for_the_end).start()
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


def _load_for_the_end() -> None:
    """Load what is slow to load and needed when all is fetched, while workers load what they need."""
    import pyarrow.compute  # noqa: F401


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


def _conclude(folder: FetchFolder, plan: _Plan, seconds: float, resumed: int) -> FetchSummary:
    chunks = _end(folder.passes[-1])
    write_rows(folder, chunks)
    report = write_report(folder.out, {**plan.identity["options"], **_changed(plan.order.net)}, seconds)
    parts = [part for number, part in folder.finished().items() if part.shard and number < chunks]
    if not parts:
        named = "; ".join(f"{cause} {n}" for cause, n in report["causes"].items()) or "the list is empty"
        raise DataError(
            f"none of the {report['rows']} rows could be fetched ({named}); {folder.out}/rows.parquet says "
            "what became of each; --retry-failed tries again"
        )
    write_dataset(folder, parts, plan.identity, report)
    return _summary(folder, report, resumed=resumed)


def _stored_report(out: Path) -> dict[str, Any]:
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
