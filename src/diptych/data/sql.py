"""SQL over an index with DuckDB: one view, `samples`; no access to other files; errors in one line."""

import re
from collections.abc import Sequence
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from diptych.errors import DataError
from diptych.resolve import nearest

STATEMENTS = frozenset(
    {"select", "with", "describe", "summarize", "from", "show", "explain", "pivot", "values"}
)
"""Words that begin a statement."""


def run_query(index: Path, sql: str, columns: Sequence[str]) -> pa.Table:
    """Return the result of a query over the view `samples`.

    Raises:
        DataError: the query is wrong; the message says where, with the nearest column for a wrong name.
    """
    with _connect(index) as connection:
        try:
            result = connection.sql(sql)
            table = result.to_arrow_table() if result is not None else None
        except duckdb.Error as error:
            raise _explain(sql, error, columns) from error
    if table is None:
        raise DataError(f"query `{_one_line(sql)}` gives no table; expected SELECT ... FROM samples")
    return table


def matching_rows(index: Path, conditions: Sequence[str], columns: Sequence[str]) -> np.ndarray:
    """Return the row numbers, int64 and ascending, where all `conditions` hold.

    Raises:
        DataError: a condition is wrong.
    """
    # The line break keeps a trailing SQL comment from swallowing the parenthesis.
    where = " AND ".join(f"({condition.strip().rstrip(';')}\n)" for condition in conditions)
    with _connect(index) as connection:
        source = f"read_parquet({_literal(index)}, file_row_number=true)"
        sql = f"SELECT file_row_number FROM {source} AS samples WHERE {where}"
        try:
            rows = connection.sql(sql).fetchnumpy()["file_row_number"]
        except duckdb.Error as error:
            raise _explain(" and ".join(conditions), error, columns) from error
    # DuckDB keeps the order of the file unless a setting says otherwise; sorting would take more memory.
    ordered = np.asarray(rows, dtype=np.int64)
    return ordered if np.all(ordered[1:] > ordered[:-1]) else np.sort(ordered)


def as_condition(sql: str) -> str | None:
    """Return `sql` as a condition (a leading WHERE is dropped), or None if it is a whole statement."""
    first = re.match(r"\s*([A-Za-z]*)", sql)
    word = first.group(1).lower() if first else ""
    if word in STATEMENTS:
        return None
    return re.sub(r"^\s*where\b", "", sql, flags=re.IGNORECASE)


def _connect(index: Path) -> duckdb.DuckDBPyConnection:
    if not index.is_file():
        raise DataError(f"{index} is missing; prepare the dataset again (diptych data prepare ... --force)")
    connection = duckdb.connect(":memory:", config={"python_enable_replacements": "false"})
    # A condition may come from somebody else's recipe: it sees the index and no other file.
    connection.execute(f"SET allowed_paths=[{_literal(index)}]")
    connection.execute("SET enable_external_access=false")
    connection.execute("SET lock_configuration=true")
    try:
        connection.execute(f"CREATE VIEW samples AS SELECT * FROM read_parquet({_literal(index)})")
    except duckdb.Error as error:
        connection.close()
        raise DataError(f"{index} cannot be read: {_first_line(error)}; prepare the dataset again") from error
    return connection


def _literal(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def _explain(sql: str, error: duckdb.Error, columns: Sequence[str]) -> DataError:
    message = _first_line(error)
    wrong = re.search(r'(?:Referenced column|column named) "([^"]+)"', message)
    if not wrong:
        return DataError(f"cannot run `{_one_line(sql)}`: {message}")
    name = wrong.group(1)
    quoted = f'"{name}"' in sql
    hint = f"; texts stand in single quotes: '{name}'" if quoted else nearest(name, columns)
    return DataError(
        f"no column '{name}' in `{_one_line(sql)}`{hint} (columns: {', '.join(of_interest(columns))})"
    )


def of_interest(columns: Sequence[str]) -> list[str]:
    """Return the columns that people select by: all but places and checksums."""
    return [name for name in columns if name != "crc32" and not name.endswith(("_offset", "_size"))]


def _first_line(error: duckdb.Error) -> str:
    lines = str(error).strip().splitlines()
    hint = next(
        (f"; {line[0].lower()}{line[1:]}" for line in lines[1:] if line.startswith("Did you mean")), ""
    )
    return re.sub(r"^[A-Z][A-Za-z -]* Error: ", "", lines[0]).rstrip("!") + hint


def _one_line(sql: str) -> str:
    return " ".join(sql.split())
