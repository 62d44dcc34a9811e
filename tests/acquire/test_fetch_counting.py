"""Counts of fetched rows, beside the same questions asked in SQL."""

from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.data.acquire.counting import EXAMPLES, Tally
from diptych.data.acquire.paths import ROW, SUCCESS

HOSTS = ("a.example", "b.example", "")
CAUSES = ("http 404", "timeout")


def table(rows: list[dict[str, Any]]) -> pa.Table:
    usual: dict[str, Any] = {
        "url": "u", "detail": "d", "http": 0, "tries": 1, "sha256": "", "shard": "",
    }  # fmt: skip
    return pa.Table.from_pylist([{**usual, **row} for row in rows], schema=ROW)


def row(number: int, cause: str = "", host: str = "a.example", seconds: float = 1.0, size: int = 0) -> Any:
    status = "failed" if cause else SUCCESS
    return {
        "number": number, "key": f"k{number}", "status": status, "cause": cause, "host": host,
        "seconds": seconds, "bytes": size,
    }  # fmt: skip


def test_counts_by_hand() -> None:
    tally = Tally()
    tally.add(table([row(0, seconds=1.0, size=10), row(1, "timeout", seconds=3.0)]))
    tally.add(
        table([row(2, "http 404", "b.example", 5.0), row(3, "", "b.example", 7.0, 5), row(4, "timeout")])
    )
    report = tally.report()
    assert (report["rows"], report["fetched"], report["bytes"]) == (5, 2, 15)
    assert report["seconds_per_row"] == {"p50": 3.0, "p95": 6.6}
    assert list(report["causes"].items()) == [("timeout", 2), ("http 404", 1)]
    assert report["examples"] == {"timeout": ["k1: d", "k4: d"], "http 404": ["k2: d"]}
    assert report["hosts"] == [
        {"host": "a.example", "rows": 3, "fetched": 1, "p50": 1.0, "p95": 2.8, "cause": "timeout"},
        {"host": "b.example", "rows": 2, "fetched": 1, "p50": 6.0, "p95": 6.9, "cause": "http 404"},
    ]


def test_nothing_is_counted_as_nothing() -> None:
    tally = Tally()
    tally.add(ROW.empty_table())
    assert tally.report() == {
        "rows": 0, "fetched": 0, "bytes": 0, "seconds_per_row": {"p50": 0.0, "p95": 0.0},
        "causes": {}, "examples": {}, "hosts": [],
    }  # fmt: skip


def test_a_host_without_failures_has_no_cause() -> None:
    tally = Tally()
    tally.add(table([row(0)]))
    assert tally.report()["hosts"][0]["cause"] is None


rows_drawn = st.lists(
    st.tuples(
        st.sampled_from(("", *CAUSES)), st.sampled_from(HOSTS), st.floats(0, 60, width=32), st.integers(0, 9)
    ),
    min_size=1,
    max_size=40,
)


@pytest.mark.slow
@settings(deadline=None, max_examples=50)
@given(rows=rows_drawn, cut=st.integers(0, 40), order=st.randoms(use_true_random=False))
def test_counts_are_those_of_sql(rows: list[Any], cut: int, order: Any) -> None:
    made = [row(number, *facts) for number, facts in enumerate(rows)]
    order.shuffle(made)
    tally = Tally()
    for part in (made[:cut], made[cut:]):
        tally.add(table(part))
    report = tally.report()
    whole = table(made)
    with duckdb.connect() as db:
        db.register("rows", whole)
        good = f"status = '{SUCCESS}'"
        counts = db.execute(
            f"SELECT count(*), count(*) FILTER ({good}), sum(bytes), quantile_cont(seconds::DOUBLE, 0.5), "
            "quantile_cont(seconds::DOUBLE, 0.95) FROM rows"
        ).fetchall()[0]
        causes = db.execute(
            f"SELECT cause, count(*) n FROM rows WHERE NOT {good} GROUP BY cause ORDER BY n DESC, cause"
        ).fetchall()
        hosts = db.execute(
            f"SELECT host, count(*) n, count(*) FILTER ({good}), quantile_cont(seconds::DOUBLE, 0.5) "
            "FROM rows WHERE host <> '' GROUP BY host ORDER BY n DESC, host"
        ).fetchall()
        said = db.execute(
            f"SELECT cause, key || ': ' || detail FROM rows WHERE NOT {good} QUALIFY row_number() OVER "
            f"(PARTITION BY cause ORDER BY number) <= {EXAMPLES} ORDER BY number"
        ).fetchall()
    assert (report["rows"], report["fetched"], report["bytes"]) == counts[:3]
    assert report["seconds_per_row"]["p50"] == pytest.approx(counts[3], abs=1e-4)
    assert report["seconds_per_row"]["p95"] == pytest.approx(counts[4], abs=1e-4)
    assert list(report["causes"].items()) == causes
    assert [(h["host"], h["rows"], h["fetched"]) for h in report["hosts"]] == [h[:3] for h in hosts]
    assert [h["p50"] for h in report["hosts"]] == pytest.approx([h[3] for h in hosts], abs=1e-4)
    named: dict[str, list[str]] = {}
    for cause, text in said:
        named.setdefault(cause, []).append(text)
    assert report["examples"] == named
    assert list(report["examples"]) == list(named)
