"""Samples per second from shards to training batches, beside other loaders and beside the limit.

Run with `python benchmarks/loader.py [--peer-python PATH] [--json FILE]`. Builds a corpus of 640 x 480
photograph-like JPEGs of 40 to 120 kB with captions in shards of 500 (`--corpus` keeps it), then runs every
contender in a process of its own, in turns; the best of the rounds counts: other work only ever takes away.
Goals, with 2 workers and uint8 batches: at least 3.0 times webdataset+pillow+torchvision (2.0 times with
float32), at most half its time to the first batch and 0.7 of its memory, 85 % of decode-resize-limit.

Time to the first batch counts from the start of the process. Memory is the sum of proportional set sizes.
webdataset shuffles in a buffer (`--buffer`, filled with `--initial` samples before the first comes out) of a
tenth of what open_clip uses, which is in its favour; we shuffle everything. Peers make uint8 batches where we
do; open_clip has webdataset make float32, so our uint8 beside that is a row of its own.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _corpus import WORDS, build
from reporting import Row, add_json, report, versus

PEER = "webdataset+pillow+torchvision"
PEERS = (PEER, "webdataset+torchvision-decode", "mosaicml-streaming", "litdata")
LIMIT = "decode-resize-limit"
Found = dict[str, float]


def run(python: str, job: dict[str, Any]) -> Found:
    """Return what a contender measured; `missing` names a package that its interpreter lacks."""
    script = str(Path(__file__).with_name("_loader_contenders.py"))
    for _ in range(2):
        order = json.dumps({**job, "started": time.time()})
        done = subprocess.run([python, script, order], capture_output=True, text=True, timeout=600)
        try:
            found: Found = json.loads(done.stdout.strip().splitlines()[-1])
        except (IndexError, ValueError):
            raise SystemExit(f"{job['name']} failed:\n{done.stderr}") from None
        if "again" not in found:
            break
    return found


def in_turns(python: str, names: list[str], job: dict[str, Any], rounds: int) -> dict[str, Found]:
    """Return the best figures of each contender; those that are not installed are named and left out."""
    found: dict[str, Found] = {}
    for _ in range(rounds):
        for name in list(names):
            got = run(python, {**job, "name": name})
            if "missing" in got:
                print(f"{name} is left out: {got['missing']} is not installed for {python}")
                names.remove(name)
                continue
            best = found.setdefault(name, got)
            better: dict[str, Callable[..., float]] = {"rate": max}
            found[name] = {k: better.get(k, min)(v, best[k]) for k, v in got.items()}
    return found


def rows_of(found: dict[str, Found], what: str, *, ends: bool) -> list[Row]:
    """Return the rows of one set-up; `ends`: time to the first batch and memory as well."""
    ours = found["diptych"]
    rows = []
    for peer in (name for name in found if name != "diptych"):
        rows.append(versus(f"samples per second, {what}", ours["rate"], found[peer]["rate"], "1/s", peer))
    figures = (
        ("cpu_ms", "CPU time a sample", "ms"),
        ("first", "time to the first batch", "s"),
        ("memory", "memory (sum of PSS)", "MiB"),
    )
    for key, name, unit in figures if ends else figures[:1]:
        for peer, theirs in found.items():
            if peer != "diptych" and key in theirs:
                rows.append(versus(f"{name}, {what}", ours[key], theirs[key], unit, peer, less=True))
    return rows


def main() -> None:
    """Build the corpus, measure, print the table, write JSON if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_json(parser)
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter of all contenders")
    parser.add_argument("--corpus", type=Path, help="folder to keep the corpora in")
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--buffer", type=int, default=500, help="samples that webdataset shuffles at a time")
    parser.add_argument("--initial", type=int, default=100)
    parser.add_argument(
        "--quick", action="store_true", help="2 workers, uint8 and float32, the main peer only"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        rows = compare(options, options.corpus or Path(scratch))
    report(rows, options.json)


def compare(options: argparse.Namespace, folder: Path) -> list[Row]:
    """Return all rows."""
    from diptych.data.text import Tokenizer

    corpus = build(folder, options.samples)
    tokenizer = Tokenizer.train([" ".join(WORDS)] * 3, 400).save(corpus.parent / "tokenizer")
    job = {
        "corpus": str(corpus),
        "tokenizer": str(tokenizer),
        "batch": options.batch,
        "size": options.size,
        "seconds": options.seconds,
        "buffer": options.buffer,
        "initial": options.initial,
        "warm_up": 8,
        "float32": False,
        "workers": 2,
    }
    python = options.peer_python
    same = run(python, {**job, "name": "pixels"})
    rows = [
        Row("difference to Pillow, mean", round(same["mean"], 4), "grey levels", "pillow"),
        Row("difference to Pillow, worst picture", round(same["worst"], 4), "grey levels", "pillow"),
    ]
    peers = [PEER] if options.quick else list(PEERS)
    rate = 0.0
    for workers in [2] if options.quick else options.workers:
        what = f"uint8, {workers} worker{'s' if workers > 1 else ''}"
        found = in_turns(python, ["diptych", *peers, LIMIT], {**job, "workers": workers}, options.rounds)
        rows += rows_of(found, what, ends=True)
        rate = found["diptych"]["rate"] if workers == 2 else rate
    found = in_turns(python, ["diptych", PEER], {**job, "float32": True}, options.rounds)
    rows += rows_of(found, "float32, 2 workers", ends=False)
    if rate and PEER in found:
        name = "samples per second, our uint8 beside its float32, 2 workers"
        rows.append(versus(name, rate, found[PEER]["rate"], "1/s", PEER))
    if not options.quick:
        small = build(folder, options.samples, short_side=256)
        found = in_turns(python, ["diptych", PEER, LIMIT], {**job, "corpus": str(small)}, options.rounds)
        rows += rows_of(found, "uint8, 2 workers, shards at short side 256", ends=False)
    return rows


if __name__ == "__main__":
    main()
