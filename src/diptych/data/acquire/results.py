"""What all chunks gave together: index, rows, counts by cause and host, `dataset.json`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import diptych
from diptych.data.acquire.counting import Tally
from diptych.data.acquire.paths import REPORT, ROW, ROWS, SUCCESS, rows_path
from diptych.data.acquire.state import FetchFolder, Finished
from diptych.data.columns import file_hash, member_names, merge_parts
from diptych.data.files import written_whole
from diptych.data.layout import FORMAT, INDEX, INFO
from diptych.data.members import ALL
from diptych.data.places import PLACES, write_places
from diptych.data.shards import KeySet


def failed_keys(folder: FetchFolder, before: int, only: Sequence[str] = ()) -> KeySet:
    """Return the keys of the rows that failed in the chunks below `before`, the last time they were tried.

    Args:
        folder: where.
        before: number of a chunk.
        only: causes that count; none: all.
    """
    # Slow to import, and needed by few.
    import pyarrow.compute as pc

    keys = KeySet()
    wanted = pc.field("status") != SUCCESS
    if only:
        wanted &= pc.field("cause").isin(list(only))
    for table in latest_rows(folder.out, folder.passes, before):
        for key in table.filter(wanted).column("key").to_pylist():
            keys.add(key)
    return keys


def latest_rows(out: Path, passes: Sequence[Any], before: int) -> Any:
    """Yield what became of the rows, chunk by chunk of the first pass; later passes replace earlier ones."""
    end = passes[1].first if len(passes) > 1 else before
    again = [_read(rows_path(out, number)) for number in range(end, before)]
    later = pa.concat_tables(again) if again else ROW.empty_table()
    numbers = later.column("number").to_numpy()
    for number in range(min(end, before)):
        table = _read(rows_path(out, number))
        own = table.column("number").to_numpy()
        places = np.flatnonzero(np.isin(numbers, own))
        if len(places):
            # Of a row that was tried several times, the last time.
            _, last = np.unique(numbers[places][::-1], return_index=True)
            places = places[::-1][last]
            kept = table.filter(pa.array(~np.isin(own, numbers[places])))
            table = pa.concat_tables([kept, later.take(places)]).sort_by("number")
        yield table


def _read(path: Path) -> pa.Table:
    # `pq.read_table` loads half of pyarrow first.
    with pq.ParquetFile(path) as file:
        return file.read()


def write_rows(folder: FetchFolder, chunks: int) -> None:
    """Write `rows.parquet`."""
    with (
        written_whole(folder.out / ROWS) as partial,
        pq.ParquetWriter(partial, ROW, compression="zstd") as writer,
    ):
        for table in latest_rows(folder.out, folder.passes, chunks):
            writer.write_table(table, row_group_size=max(len(table), 1))


def write_report(out: Path, options: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Count the rows by cause and host, write `fetch.json` and return its content.

    Args:
        out: folder with `rows.parquet`.
        options: to be recorded.
        seconds: that this run took.
    """
    tally = Tally()
    with pq.ParquetFile(out / ROWS) as file:
        for group in range(file.num_row_groups):
            tally.add(file.read_row_group(group))
    report = {**tally.report(), "seconds": round(seconds, 3), "options": dict(options)}
    with written_whole(out / REPORT) as partial:
        partial.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return report


def write_dataset(
    folder: FetchFolder, parts: Sequence[Finished], identity: Mapping[str, Any], report: Mapping[str, Any]
) -> dict[str, Any]:
    """Write index and places, and `dataset.json` last; return its content.

    Args:
        folder: where.
        parts: finished chunks that have a shard.
        identity: what was fetched and how.
        report: counts by cause.
    """
    out = folder.out
    # With an older dataset.json beside it, the new index would be taken for a damaged one.
    (out / INFO).unlink(missing_ok=True)
    digest = merge_parts([part.path for part in parts], out / INDEX, strict=False)
    shards = [part.shard for part in parts if part.shard]
    members = member_names(out / INDEX)
    with written_whole(out / PLACES) as partial:
        write_places(out / INDEX, digest, [shard["file"] for shard in shards], members, partial)
    info: dict[str, Any] = {
        "name": identity["name"],
        "format": FORMAT,
        "card": "fetch",
        "card_version": 1,
        "title": f"Fetched from the list {identity['name']}",
        "licence": "Each medium has its own; the list does not tell.",
        "created_by": f"diptych {diptych.__version__}",
        "samples": sum(shard["samples"] for shard in shards),
        "shards": shards,
        "shard_size": identity["shard_size"],
        "index": {"sha256": digest},
        "places": {"sha256": file_hash(out / PLACES)},
        "members": members,
        "splits": _splits(out / INDEX),
        "options": dict(identity["options"]),
        "raw": True,
        "facts": {"rows": report["rows"]},
        "problems": dict(sorted(report["causes"].items())),
        "examples": dict(sorted(report["examples"].items())),
    }
    with written_whole(out / INFO) as partial:
        partial.write_text(json.dumps(info, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return info


def _splits(index: Path) -> dict[str, Any]:
    counts: dict[str, int] = {}
    with pq.ParquetFile(index) as file:
        for group in range(file.num_row_groups):
            for entry in file.read_row_group(group, ["split"]).column(0).value_counts().to_pylist():
                counts[entry["values"]] = counts.get(entry["values"], 0) + entry["counts"]
    found: dict[str, Any] = {
        ALL: {"where": "true", "expected": None, "note": "", "count": sum(counts.values())}
    }
    for name, count in sorted(counts.items()):
        if name != ALL:
            where = "split = '" + name.replace("'", "''") + "'"
            found[name] = {"where": where, "expected": None, "note": "", "count": count}
    return found
