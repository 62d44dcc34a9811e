"""The table of samples: one row a sample, one part a shard, and how the parts become `index.parquet`."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diptych.data.files import written_whole
from diptych.data.members import COUNTED, Facts, media_hash, scalars
from diptych.data.sample import Sample
from diptych.errors import DataError

Row = dict[str, Any]
"""Column name -> value."""

FIXED = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("match_id", pa.string(), nullable=False),
        pa.field("captions", pa.int32(), nullable=False),
        pa.field("text_chars", pa.int32(), nullable=False),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("duration", pa.float64()),
        pa.field("frames", pa.int32()),
        pa.field("sha256", pa.string(), nullable=False),
        # The whole sample inside the tar, headers and padding included: one read, one checksum.
        pa.field("sample_offset", pa.int64(), nullable=False),
        pa.field("sample_size", pa.int64(), nullable=False),
        pa.field("crc32", pa.int64(), nullable=False),
    ]
)
"""The columns of every index."""
FROM_META = frozenset({"width", "height", "duration", "frames", "fps", "audio"})
"""Columns that `Sample.meta` may fill; where the medium itself tells, it is right."""
PLACES = ("_offset", "_size")
"""Endings of columns that tell where a member lies."""


def make_row(
    sample: Sample,
    facts: Facts,
    places: Mapping[str, tuple[int, int]],
    extent: tuple[int, int, int],
    *,
    strict: bool = True,
) -> Row:
    """Return the row of a sample, `shard` excepted.

    Args:
        sample: the sample.
        facts: what its media's header tells.
        places: extension -> (offset, size) of the content inside the tar.
        extent: offset, size and CRC-32 of the whole sample inside the tar.
        strict: refuse facts in `meta` that are named like another column; else they stay in the JSON only.

    Raises:
        DataError: such a fact.
    """
    row: Row = {
        "key": sample.key,
        "split": sample.split,
        "match_id": sample.match_id or sample.key,
        "captions": len(sample.captions),
        "text_chars": len(sample.captions[0]) if sample.captions else 0,
        "width": facts.width,
        "height": facts.height,
        "duration": facts.duration,
        "frames": facts.frames,
        "sha256": media_hash(sample.media),
        "sample_offset": extent[0],
        "sample_size": extent[1],
        "crc32": extent[2],
    }
    if facts.fps is not None:  # only datasets with videos have these columns
        row["fps"], row["audio"] = facts.fps, facts.audio
    for name, (offset, size) in places.items():
        row[f"{name}_offset"], row[f"{name}_size"] = offset, size
    taken = {name.lower() for name in row} | {"shard"}
    counts = {name: len(sample.meta[name]) for name in COUNTED if isinstance(sample.meta.get(name), list)}
    for name, value in {**scalars(sample.meta), **counts}.items():
        if name in FROM_META:
            row[name] = value if row.get(name) is None else row[name]
        elif name.lower() not in taken and not name.lower().endswith(PLACES):
            row[name] = value
            taken.add(name.lower())
        elif strict:
            raise DataError(
                f"sample '{sample.key}': the fact '{name}' in its meta is named like a column of the index "
                "(or ends like one: _offset, _size); rename it in the card"
            )
    return row


def make_part(shard: str, rows: Sequence[Row], *, strict: bool = True) -> pa.Table:
    """Return the rows of one shard as a table: the fixed columns, then all others by name.

    Raises:
        DataError: a column holds values of several types (`strict`; otherwise it becomes text).
    """
    columns: dict[str, Any] = {}
    for field in FIXED:
        values = [shard] * len(rows) if field.name == "shard" else [row[field.name] for row in rows]
        columns[field.name] = _array(field.name, shard, values, field.type, strict=strict)
    others = sorted({name for row in rows for name in row} - set(columns))
    for name in others:
        columns[name] = _array(name, shard, [row.get(name) for row in rows], None, strict=strict)
    return pa.table(columns)


def _array(name: str, shard: str, values: list[Any], kind: pa.DataType | None, *, strict: bool) -> pa.Array:
    if kind is None:
        kinds = {type(value) for value in values if value is not None}
        if kinds == {int, float}:
            kind = pa.float64()
        elif len(kinds) > 1 and not strict:
            kind, values = pa.string(), [None if v is None else str(v) for v in values]
    try:
        return pa.array(values, type=kind)
    except (pa.ArrowException, OverflowError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"shard {shard}: the column '{name}' does not hold values of one type: {reason}"
        ) from error


def merge_parts(parts: Sequence[Path], out: Path, *, strict: bool = True) -> str:
    """Write the parts, in their order, as one Parquet file with a row group for each; return its hex SHA-256.

    One part is in memory at a time. Integers and fractions together become fractions;
    columns without any value become text.

    Raises:
        DataError: a column is a number here and a text there (`strict`; otherwise text), or the disk is full.
    """
    schema = _common_schema(parts, strict=strict)
    with written_whole(out) as partial:
        with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
            for path in parts:
                # `pq.read_table` loads half of pyarrow first.
                with pq.ParquetFile(path) as part:
                    table = part.read()
                missing = [f for f in schema if f.name not in table.column_names]
                for field in missing:
                    table = table.append_column(field, pa.nulls(len(table), field.type))
                table = table.select(schema.names).replace_schema_metadata(None)
                writer.write_table(table.cast(schema), row_group_size=max(len(table), 1))
        return file_hash(partial)


def _common_schema(parts: Sequence[Path], *, strict: bool) -> pa.Schema:
    kinds: dict[str, pa.DataType] = {}
    seen_in: dict[str, Path] = {}
    for path in parts:
        for field in pq.read_schema(path):
            known = kinds.get(field.name, pa.null())
            kind = _wider(known, field.type)
            if kind is None:
                if strict:
                    raise DataError(
                        f"the column '{field.name}' is {known} in {seen_in[field.name].stem} "
                        f"and {field.type} in {path.stem}; make the card yield one type, "
                        "then prepare again with --force"
                    )
                kind = pa.string()
            kinds[field.name] = kind
            seen_in.setdefault(field.name, path)
    others = sorted(set(kinds) - set(FIXED.names))
    free = [pa.field(name, pa.string() if pa.types.is_null(kinds[name]) else kinds[name]) for name in others]
    return pa.schema([*FIXED, *free])


def _wider(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    if a == b or pa.types.is_null(b):
        return a
    if pa.types.is_null(a):
        return b
    if {a, b} == {pa.int64(), pa.float64()}:
        return pa.float64()
    return None


def member_names(index: Path) -> list[str]:
    """Return the extensions whose places the index holds.

    Only for an index whose facts cannot be named so (`make_row` sees to that).
    """
    names = set(pq.read_schema(index).names)
    found = [name.removesuffix("_offset") for name in names if name.endswith("_offset")]
    return sorted(name for name in found if name != "sample" and f"{name}_size" in names)


def file_hash(path: Path) -> str:
    """Return the hex SHA-256 of a file.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
