"""Counts of what became of rows: by cause and by host, with examples and how long they took."""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from diptych.data.acquire.paths import SUCCESS

EXAMPLES = 5
"""Rows named for each cause."""
HOSTS = 100
"""Hosts in the report, those with the most rows."""
_SHARES = (0.5, 0.95)


class Tally:
    """Counts tables of rows (`paths.ROW`), one by one; it keeps eight bytes of each row."""

    def __init__(self) -> None:
        self._bytes = 0
        self._good = np.zeros(0, np.int64)
        self._numbers: dict[str, int] = {}
        self._hosts: list[NDArray[np.int32]] = []
        self._seconds: list[NDArray[np.float32]] = []
        self._failed = Counter[tuple[str, str]]()
        self._examples: dict[str, list[tuple[int, str]]] = {}

    def add(self, table: pa.Table) -> None:
        """Count the rows of a table."""
        status = table.column("status").to_numpy(zero_copy_only=False)
        good = status == SUCCESS
        hosts = self._host_numbers(table.column("host"))
        self._hosts.append(hosts)
        self._seconds.append(table.column("seconds").to_numpy().astype(np.float32))
        self._bytes += int(table.column("bytes").to_numpy().sum())
        more = np.bincount(hosts[good], minlength=len(self._numbers))
        more[: len(self._good)] += self._good
        self._good = more
        failed = table.select(["number", "key", "cause", "detail", "host"]).take(
            pa.array(np.flatnonzero(~good))
        )
        for number, key, cause, detail, host in zip(*(c.to_pylist() for c in failed.columns), strict=True):
            self._failed[cause, host] += 1
            self._note(cause, number, f"{key}: {detail}")

    def _host_numbers(self, hosts: pa.ChunkedArray) -> NDArray[np.int32]:
        """Return the number of each row's host; new hosts get one."""
        found = hosts.combine_chunks().dictionary_encode()
        numbers = [
            self._numbers.setdefault(host, len(self._numbers)) for host in found.dictionary.to_pylist()
        ]
        places: NDArray[np.int32] = found.indices.to_numpy()
        return np.array(numbers, np.int32)[places]

    def _note(self, cause: str, number: int, said: str) -> None:
        named = self._examples.setdefault(cause, [])
        if len(named) < EXAMPLES or number < named[-1][0]:
            named.append((number, said))
            named.sort()
            del named[EXAMPLES:]

    def report(self) -> dict[str, Any]:
        """Return all counts, as `fetch.json` has them."""
        hosts = np.concatenate(self._hosts) if self._hosts else np.zeros(0, np.int32)
        seconds = np.concatenate(self._seconds) if self._seconds else np.zeros(0, np.float32)
        causes = Counter[str]()
        for (cause, _), count in self._failed.items():
            causes[cause] += count
        half, most = _spread(seconds)
        # By their first rows.
        named = sorted(self._examples.items(), key=lambda one: one[1][0][0])
        return {
            "rows": len(hosts),
            "fetched": int(self._good.sum()),
            "bytes": self._bytes,
            "seconds_per_row": {"p50": half, "p95": most},
            "causes": dict(sorted(causes.items(), key=lambda one: (-one[1], one[0]))),
            "examples": {cause: [said for _, said in rows] for cause, rows in named},
            "hosts": self._host_rows(hosts, seconds),
        }

    def _host_rows(self, hosts: NDArray[np.int32], seconds: NDArray[np.float32]) -> list[dict[str, Any]]:
        counts = np.bincount(hosts, minlength=len(self._numbers))
        names = sorted((-int(counts[number]), name) for name, number in self._numbers.items() if name)[:HOSTS]
        worst: dict[str, tuple[int, str]] = {}
        for (cause, host), count in self._failed.items():
            worst[host] = min(worst.get(host, (0, "")), (-count, cause))
        order = np.argsort(hosts, kind="stable")
        starts = np.concatenate([[0], np.cumsum(counts)])
        rows = []
        for count, name in names:
            number = self._numbers[name]
            half, most = _spread(seconds[order[starts[number] : starts[number + 1]]])
            good, most_often = int(self._good[number]), worst[name][1] if name in worst else None
            facts = {"host": name, "rows": -count, "fetched": good, "p50": half, "p95": most}
            rows.append({**facts, "cause": most_often})
        return rows


def _spread(seconds: NDArray[np.float32]) -> tuple[float, float]:
    """Return the median and the 95th percentile, 0 of nothing."""
    if not len(seconds):
        return 0.0, 0.0
    half, most = np.quantile(seconds.astype(np.float64), _SHARES)
    return round(float(half), 4), round(float(most), 4)
