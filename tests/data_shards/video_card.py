"""A tiny card of videos, whole files and clips cut out of them; also run as a program to be killed."""

import io
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np
from toy_card import kill_at, toy_card

from diptych.data.cards.base import Card, Unread
from diptych.data.raw.clips import ClipRef
from diptych.data.raw.refs import FileRef
from diptych.data.sample import Sample

SAMPLES, SHARD_SIZE = 12, 3


def write_raw(folder: Path, frames: int = 60) -> None:
    """A video of 25 frames a second, a key frame every second, that gets brighter; and two bad files."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as out:
        params = {"x264-params": "threads=1:keyint=25:mbtree=0"}
        stream: Any = out.add_stream("libx264", rate=25, options=params)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(frames):
            shown = np.full((48, 64, 3), 4 * number, dtype=np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        out.mux(stream.encode(None))
    folder.mkdir(parents=True)
    (folder / "long.mp4").write_bytes(file.getvalue())
    (folder / "cut.mp4").write_bytes(file.getvalue()[:-300])
    (folder / "page.mp4").write_bytes(b"<html>" * 200)


def video_card() -> Card:
    """Every third sample is the whole file, others are clips of it; one is damaged, one has no video."""

    def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread]:
        assert raw is not None
        whole = FileRef(raw / "long.mp4")
        for i in range(SAMPLES):
            ref = whole if i % 3 == 0 else ClipRef(whole, i / 10, i / 10 + 0.4)
            yield Unread(Sample(f"v{i:02d}", {}, (f"video {i}",), meta={"i": i}), {"mp4": ref})
        for name in ("cut", "page"):
            yield Unread(Sample(name, {}, (name,)), {"mp4": FileRef(raw / f"{name}.mp4")})

    return toy_card(name="videos", convert=convert, splits={}, needs_raw=True, options={})


def main() -> None:
    """`python video_card.py RAW OUT STEP...`: prepare in a child process killed at each step in turn."""
    from diptych.data.prepare import prepare

    raw, out = Path(sys.argv[1]), Path(sys.argv[2])
    for step in map(int, sys.argv[3:]):
        child = os.fork()
        if child == 0:
            kill_at(step)
            prepare(video_card(), raw, out / str(step), shard_size=SHARD_SIZE)
            os._exit(0)
        print(step, os.waitpid(child, 0)[1], flush=True)


if __name__ == "__main__":
    main()
