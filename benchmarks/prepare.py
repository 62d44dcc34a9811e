"""Addresses on a loopback web server to 256-pixel shards, beside img2dataset; and a run with every fault.

Run with `python benchmarks/prepare.py --img2dataset PATH [--json FILE]` (PATH: the command in an environment
of its own). nginx serves photograph-like JPEGs of about 640 x 480 pixels; both tools make pictures with a
shorter side of 256 pixels, JPEG of quality 95, in shards of 500 with captions, on 2 processes, with what they
do by default: SHA-256 of what came, EXIF, statistics; ours adds a near-duplicate hash and an index. They take
turns; the fastest round counts. Steady state is what the images of the longer list beyond the shorter cost.
CPU time is that of the command with all its processes, user and system.

The run with faults: 5 % each of 404, 403, 429, redirect loop, body that never ends, body that nearly stands
still, wrong type, broken picture. It has to end within its bound (rows x seconds of a row / requests at a
time, where no row may take longer than `--row-timeout`) with every row accounted for, and flat memory.

Goals: whole command for 2000 images 2.3 times, steady state 1.7 times as fast; half the CPU time an image.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from _corpus import build
from _web import nginx, troubled
from reporting import Row, add_json, report, versus

PEER = "img2dataset"
FAULTS = ("404", "403", "429", "loop", "endless", "slow", "page", "broken")
CAUSES = {
    "404": "http 404",
    "403": "http 403",
    "429": "http 429",
    "loop": "redirect loop",
    "endless": "timeout",
    "slow": "too slow",
    "page": "wrong type",
    "broken": "broken picture",
}
CONNECTIONS = 100
"""Requests at a time of each of the 2 processes in the run with faults."""


@dataclass(frozen=True)
class Cost:
    """What a command took."""

    wall: float
    cpu: float
    peak: float = 0.0
    """MB of its processes together, at most (sum of proportional set sizes)."""
    early: float = 0.0
    """The same at most during its second quarter."""


def run(command: list[str], *, watch: bool = False) -> Cost:
    """Run a command and return what it and its processes took."""
    environment = {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1", "OMP_NUM_THREADS": "1"}
    started = time.monotonic()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=environment)
        memory: list[tuple[float, float]] = []
        watcher = threading.Thread(target=_watch, args=(process.pid, memory), daemon=True)
        if watch:
            watcher.start()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.monotonic() - started
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{command[0]} failed:\n{said.read().decode()[-3000:]}")
    half = [size for at, size in memory if at - started < wall / 2]
    peak = max((size for _, size in memory), default=0.0)
    return Cost(wall, used.ru_utime + used.ru_stime, peak, max(half, default=0.0))


def _watch(process: int, found: list[tuple[float, float]]) -> None:
    while True:
        size = sum(_memory(number) for number in _family(process))
        if not size:
            return
        found.append((time.monotonic(), size))
        time.sleep(0.5)


def _family(process: int) -> list[int]:
    try:
        text = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="ascii")
    except OSError:
        return []
    return [process, *(one for child in text.split() for one in _family(int(child)))]


def _memory(process: int) -> float:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1000
    except OSError:
        return 0.0


def pictures(corpus: Path, folder: Path) -> int:
    """Unpack the pictures of a corpus as 0.jpg, 1.jpg, ...; return how many there are."""
    folder.mkdir(parents=True)
    number = 0
    for shard in sorted(corpus.glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                if member.name.endswith(".jpg"):
                    (folder / f"{number}.jpg").write_bytes(tar.extractfile(member).read())  # type: ignore[union-attr]
                    number += 1
    return number


def write_list(file: Path, addresses: list[str]) -> Path:
    """Write a list of addresses with captions."""
    rows = [f'{url},"a picture, number {number}"' for number, url in enumerate(addresses)]
    file.write_text("\n".join(["url,caption", *rows]) + "\n", encoding="utf-8")
    return file


def ours(list_: Path, out: Path, *more: str) -> list[str]:
    """Return our command."""
    shutil.rmtree(out, ignore_errors=True)
    options = ["--out", str(out), "--workers", "2", "--allow-private", "--shard-size", "500"]
    return [sys.executable, "-m", "diptych", "data", "fetch", str(list_), *options, *more]


def theirs(tool: str, list_: Path, out: Path, threads: int) -> list[str]:
    """Return the peer's command."""
    shutil.rmtree(out, ignore_errors=True)
    options = {
        "url_list": str(list_),
        "input_format": "csv",
        "url_col": "url",
        "caption_col": "caption",
        "output_format": "webdataset",
        "output_folder": str(out),
        "processes_count": "2",
        "thread_count": str(threads),
        "image_size": "256",
        "resize_mode": "keep_ratio",
        "encode_quality": "95",
        "number_sample_per_shard": "500",
        "enable_wandb": "False",
    }
    return [tool, *(part for name, value in options.items() for part in (f"--{name}", value))]


def compare(options: argparse.Namespace, url: str, distinct: int, scratch: Path) -> list[Row]:
    """Return the rows of the comparison."""
    lists = {
        n: write_list(scratch / f"list{n}.csv", [f"{url}/{i % distinct}.jpg" for i in range(n)])
        for n in (options.images, options.steady)
    }
    best: dict[tuple[str, int], Cost] = {}
    for _ in range(options.rounds):
        for n, list_ in lists.items():
            for name in ("diptych", PEER):
                out = scratch / f"out-{name}"
                command = (
                    ours(list_, out)
                    if name == "diptych"
                    else theirs(options.img2dataset, list_, out, options.threads)
                )
                cost = run(command)
                known = best.get((name, n), cost)
                best[name, n] = Cost(min(cost.wall, known.wall), min(cost.cpu, known.cpu))
                print(f"{name}, {n}: {cost.wall:.1f} s, CPU {cost.cpu:.1f} s", flush=True)
    few, many = options.images, options.steady

    def steady(name: str, what: str) -> float:
        more: float = getattr(best[name, many], what) - getattr(best[name, few], what)
        return more / (many - few)

    whole, cpu = f"whole command, {few} images", "CPU time an image"
    return [
        versus(whole, best["diptych", few].wall, best[PEER, few].wall, "s", PEER, less=True),
        versus(
            "images per second, steady", 1 / steady("diptych", "wall"), 1 / steady(PEER, "wall"), "1/s", PEER
        ),
        versus(
            f"{cpu}, steady", 1e3 * steady("diptych", "cpu"), 1e3 * steady(PEER, "cpu"), "ms", PEER, less=True
        ),
        *(
            versus(
                f"{cpu}, whole command, {n} images",
                1e3 * best["diptych", n].cpu / n,
                1e3 * best[PEER, n].cpu / n,
                "ms",
                PEER,
                less=True,
            )
            for n in (few, many)
        ),
    ]


def with_faults(options: argparse.Namespace, url: str, distinct: int, scratch: Path, bad: str) -> list[Row]:
    """Fetch a list with every fault, check that each row is accounted for, and return the rows."""
    import pyarrow.parquet as pq

    addresses, expected = [], Counter[str]()
    places = {
        "404": "none",
        "403": "forbidden",
        "429": "busy",
        "loop": "loop/a",
        "page": "page",
        "broken": "broken",
    }
    for n in range(options.faults):
        fault = FAULTS[n % 20] if n % 20 < len(FAULTS) else ""
        expected[CAUSES.get(fault, "")] += 1
        if fault in ("endless", "slow"):
            addresses.append(f"{bad}/{fault}/{n}.jpg")
        else:
            name = n % distinct if fault != "broken" else n % 20
            addresses.append(f"{url}/{places[fault]}/{name}.jpg" if fault else f"{url}/{name}.jpg")
    list_, out = write_list(scratch / "faults.csv", addresses), scratch / "out-faults"
    limits = ["--connections", str(CONNECTIONS), "--per-host", str(2 * CONNECTIONS), "--timeout", "10"]
    limits += ["--row-timeout", "30"]
    cost = run(ours(list_, out, *limits), watch=True)
    table = pq.read_table(out / "rows.parquet")
    found = Counter(table.column("cause").to_pylist())
    if found != expected or table.column("number").to_pylist() != list(range(options.faults)):
        raise SystemExit(f"rows are not accounted for: expected {expected}, found {found}")
    bound = options.faults * 30 / (2 * CONNECTIONS)
    return [
        Row(f"{options.faults} rows with faults, all accounted for", round(cost.wall, 1), "s"),
        Row("its bound", bound, "s"),
        Row("peak memory of all processes", round(cost.peak), "MB"),
        Row("the same in its first half", round(cost.early), "MB"),
        Row("CPU time a row", round(1e3 * cost.cpu / options.faults, 3), "ms"),
    ]


def main() -> None:
    """Build the corpus, serve it, measure, print the table, write JSON if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_json(parser)
    parser.add_argument("--img2dataset", default="", help="the command; without it only the run with faults")
    parser.add_argument("--corpus", type=Path, help="folder to keep the corpus in")
    parser.add_argument("--pictures", type=int, default=1000, help="distinct pictures")
    parser.add_argument("--images", type=int, default=2000, help="addresses of the short list")
    parser.add_argument("--steady", type=int, default=8000, help="addresses of the long list")
    parser.add_argument(
        "--faults", type=int, default=20000, help="addresses of the list with faults; 0: none"
    )
    parser.add_argument("--threads", type=int, default=32, help="of the peer, in each process")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--port", type=int, default=18580)
    options = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        scratch = Path(folder)
        files = scratch / "files"
        distinct = pictures(build(options.corpus or scratch, options.pictures), files)
        (files / "broken").mkdir()
        for number in range(20):
            whole = (files / f"{number}.jpg").read_bytes()
            (files / "broken" / f"{number}.jpg").write_bytes(whole[: len(whole) // 2])
        # nginx drops its privileges.
        scratch.chmod(0o755)
        url = stack.enter_context(nginx(scratch / "nginx", files, options.port))
        if options.img2dataset:
            rows += compare(options, url, distinct, scratch)
        if options.faults:
            bad = stack.enter_context(troubled(options.port + 1))
            rows += with_faults(options, url, distinct, scratch, bad)
    report(rows, options.json)


if __name__ == "__main__":
    main()
