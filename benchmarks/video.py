"""Clips per second of a core: frames of short and long H.264 videos, beside PyAV, decord and torchcodec.

Run with `python benchmarks/video.py [--peer-python PATH] [--libraries FOLDERS] [--videos FOLDER]
[--json FILE]`. Makes videos of 10 and 120 seconds (25 frames a second, x264's defaults) of 320 x 240 and
640 x 360 pixels, or takes those that `--videos` keeps, and reads 4, 8 and 16 frames in the middles of equal
parts out of each. A video is read from its file into memory, as out of a shard. Goal: at least 2 times
`pyav-naive`, which decodes the video, makes each frame an array and takes the wanted ones, as readers of
published systems do, with equal frames (checked). `pyav-careful` makes arrays of the wanted frames only;
`resized` are frames as a batch has them.

Every contender has a process of its own, in turns; the CPU seconds of its fastest clip count. decord and
torchcodec run in `--peer-python`; torchcodec needs the libraries of an FFmpeg (`--libraries`, for
LD_LIBRARY_PATH). Their colours may differ by a little, which is printed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from _clips import FPS, make
from reporting import Row, add_json, report, versus

SIZES = ((320, 240), (640, 360))
LENGTHS = (10, 120)
COUNTS = (4, 8, 16)
NAIVE = "pyav-naive"
OURS = "diptych"
RESIZED = ("diptych, resized", "pyav+pillow, resized")
AWAY = 0.1
"""Grey levels that resized frames may be away from Pillow's, on average."""
PEERS = ("decord", "torchcodec")
Found = dict[str, Any]


def middles(frames: int, count: int) -> list[int]:
    """Return the frames in the middles of equal parts."""
    from diptych.data.frames import choose_frames

    return [int(number) for number in choose_frames(frames, count)]


def run(python: str, libraries: str, job: Found) -> Found:
    """Return what a contender measured; `missing` says why it cannot run."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if libraries and job["name"] in PEERS:
        environment["LD_LIBRARY_PATH"] = libraries
    script = str(Path(__file__).with_name("_clips.py"))
    chosen = python if job["name"] in PEERS else sys.executable
    done = subprocess.run(
        [chosen, script, json.dumps(job)], capture_output=True, text=True, timeout=600, env=environment
    )
    try:
        found: Found = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        raise SystemExit(f"{job['name']} failed:\n{done.stderr}") from None
    return found


def in_turns(names: list[str], options: argparse.Namespace, job: Found, folder: Path) -> dict[str, Found]:
    """Return the best of each contender's rounds; those that cannot run are named and left out."""
    found: dict[str, Found] = {}
    for number in range(options.rounds):
        for name in list(names):
            save = "" if number else str(folder / f"{name}.npy")
            got = run(options.peer_python, options.libraries, {**job, "name": name, "save": save})
            if "missing" in got:
                print(f"{name} is left out: {got['missing']}")
                names.remove(name)
                continue
            best = found.setdefault(name, got)
            best["seconds"] = min(best["seconds"], got["seconds"])
    return found


def check(found: dict[str, Found], folder: Path) -> dict[str, float]:
    """See that our frames are PyAV's; return how far those of others are away on average, in grey levels.

    Raises:
        SystemExit: our frames differ.
    """
    if found[OURS]["digest"] != found[NAIVE]["digest"]:
        raise SystemExit("frames differ from those of a decoder that is given everything")
    ours = np.load(folder / f"{OURS}.npy").astype(np.int16)
    away = {}
    for name in found:
        if name in PEERS:
            away[name] = float(np.abs(np.load(folder / f"{name}.npy").astype(np.int16) - ours).mean())
    return away


def rows_resized(found: dict[str, Found], what: str, folder: Path) -> list[Row]:
    """Return the row of frames as a batch has them.

    Raises:
        SystemExit: ours are too far away.
    """
    ours, theirs = (np.load(folder / f"{name}.npy").astype(np.int16) for name in RESIZED)
    away = float(np.abs(ours - theirs).mean())
    if away > AWAY:
        raise SystemExit(f"resized frames are {away} grey levels away, at most {AWAY} were expected")
    mine, other = (1 / found[name]["seconds"] for name in RESIZED)
    return [versus(f"clips per second of a core at 224 x 224, {what}", mine, other, "1/s", RESIZED[1])]


def rows_of(found: dict[str, Found], what: str) -> list[Row]:
    """Return a row for each of the others."""
    ours = 1 / found[OURS]["seconds"]
    return [
        versus(f"clips per second of a core, {what}", ours, 1 / other["seconds"], "1/s", name)
        for name, other in found.items()
        if name != OURS
    ]


def measure(options: argparse.Namespace, videos: Path, folder: Path) -> list[Row]:
    """Return the rows of all set-ups."""
    names = [OURS, NAIVE, "pyav-careful", *(PEERS if options.peer_python else ())]
    rows: list[Row] = []
    for width, height in options.sizes:
        for seconds in options.lengths:
            path = videos / f"{width}x{height}_{seconds}s.mp4"
            if not path.exists():
                make(path, width, height, seconds)
            for count in COUNTS:
                numbers = middles(seconds * FPS, count)
                job = {
                    "path": str(path),
                    "numbers": numbers,
                    "most": options.most,
                    "seconds": options.seconds,
                }
                found = in_turns(names, options, job, folder)
                away = check(found, folder)
                what = f"{count} of {seconds} s, {width} x {height}"
                rows += rows_of(found, what)
                rows += rows_resized(in_turns([*RESIZED], options, job, folder), what, folder)
                print(f"{what}: {found[OURS]['seconds'] * 1000:.1f} ms", away, flush=True)
    return rows


def pair(text: str) -> tuple[int, int]:
    """Return (width, height) of `320x240`."""
    width, _, height = text.partition("x")
    return int(width), int(height)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", default="", help="interpreter with decord and torchcodec")
    parser.add_argument("--libraries", default="", help="folders of FFmpeg's libraries, for torchcodec")
    parser.add_argument("--videos", type=Path, help="folder that keeps the videos")
    parser.add_argument("--sizes", type=pair, nargs="+", default=SIZES, help="such as 320x240")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="seconds of the videos")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--most", type=int, default=20, help="clips that a contender reads in a round")
    parser.add_argument("--seconds", type=float, default=2.0, help="after which it begins no other one")
    add_json(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        videos = options.videos or folder
        videos.mkdir(parents=True, exist_ok=True)
        report(measure(options, videos, folder), options.json)


if __name__ == "__main__":
    main()
