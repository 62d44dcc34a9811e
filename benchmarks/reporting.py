"""What all benchmarks share: rows, the table that is printed, the file that `--json` writes.

A row is `{name, value, unit, peer, ratio}`. `ratio` compares ours with the peer's in the same run and is
above 1 where ours is better: ours / theirs for rates, theirs / ours for times and memory.
"""

import argparse
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One figure."""

    name: str
    value: float
    unit: str
    peer: str = ""
    """Whom it is compared with; empty where there is nobody."""
    ratio: float | None = None


def versus(name: str, ours: float, theirs: float, unit: str, peer: str, *, less: bool = False) -> Row:
    """Return a row that compares two figures; `less` says that smaller is better."""
    ratio = theirs / ours if less else ours / theirs
    return Row(name, float(f"{ours:.5g}"), unit, peer, round(ratio, 3))


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the option `--json FILE`."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file")


def report(rows: Sequence[Row], file: Path | None = None) -> None:
    """Print rows as a table under the machine's name, and write them to a file if there is one."""
    print(machine())
    width = max((len(row.name) for row in rows), default=4)
    peers = max((len(row.peer) for row in rows), default=4)
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:>8.2f} x"
        print(f"{row.name:<{width}}  {row.value:>12,.5g} {row.unit:<12} {row.peer:<{peers}} {ratio}".rstrip())
    if file is not None:
        file.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")


def machine() -> str:
    """Return processor, cores and system on one line."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores, {platform.system()}, Python {platform.python_version()}"
