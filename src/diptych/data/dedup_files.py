"""What was found of duplicates, as files: a table, and what leaves them out."""

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from diptych.data.files import written_whole
from diptych.errors import UsageError

TABLES = (".parquet", ".json")
EXCLUSIONS = (".yaml", ".sql", ".txt")
_SEPARATORS = (" ", "|", "\n", "\t", "\0")


def check_ending(option: str, out: Path | None, endings: Sequence[str]) -> None:
    """Raise a UsageError if a file to be written ends otherwise."""
    if out is not None and out.suffix not in endings:
        raise UsageError(f"{option} {out}: expected a name that ends with {' or '.join(endings)}")


def write_table(table: pa.Table, out: Path) -> None:
    """Write the table as Parquet, or as JSON: a list of objects.

    Raises:
        DataError: it cannot be written.
    """
    with written_whole(out) as partial:
        if out.suffix == ".parquet":
            pq.write_table(table, partial, compression="zstd")
        else:
            lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in table.to_pylist())
            partial.write_text(f"[\n{lines}\n]\n" if lines else "[]\n", encoding="utf-8")


def write_exclusion(keys: Sequence[str], out: Path) -> None:
    """Write what leaves samples out.

    By the ending of `out`: the settings of a recipe (`data.where`), a bare SQL condition, or the keys, one a
    line.

    Raises:
        DataError: it cannot be written.
    """
    texts = {
        ".txt": lambda: "".join(f"{key}\n" for key in keys),
        ".sql": lambda: condition(keys) + "\n",
        ".yaml": lambda: f"data:\n  where: {json.dumps(condition(keys), ensure_ascii=False)}\n",
    }
    with written_whole(out) as partial:
        partial.write_text(texts[out.suffix](), encoding="utf-8")


def condition(keys: Sequence[str]) -> str:
    """Return an SQL condition for all samples but those of the keys."""
    if not keys:
        return "true"
    # A plain list of literals takes DuckDB minutes at 100,000 keys; joined and split again, a fraction of a
    # second.
    apart = next(one for one in _SEPARATORS if not any(one in key for key in keys))
    joined = apart.join(keys).replace("'", "''")
    return f"key not in (select unnest(string_split('{joined}', '{apart}')))"
