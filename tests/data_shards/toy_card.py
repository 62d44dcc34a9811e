"""A tiny card and pictures that the tests of this folder share; also run as a program to be killed."""

import io
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from PIL import Image

from diptych.data.cards.base import Card, Split
from diptych.data.sample import Sample


def png(red: int, width: int = 4, height: int = 3) -> bytes:
    """A plain picture; different `red` gives different bytes."""
    out = io.BytesIO()
    Image.new("RGB", (width, height), (red % 256, red // 256, 7)).save(out, "PNG")
    return out.getvalue()


def toy_sample(i: int) -> Sample:
    return Sample(
        key=f"toy_{i:03d}",
        media={"png": png(i, width=4 + i % 3)},
        captions=(f"picture number {i}", f"Bild {i}"),
        match_id=f"pair{i // 2}",
        split="test" if i % 5 == 4 else "train",
        meta={"number": i, "parity": "odd" if i % 2 else "even", "score": i / 4, "tags": ["a", str(i)]},
    )


def toy_samples(count: int = 30) -> Iterator[Sample]:
    """Good samples, with one bad sample of each kind on the way."""
    for i in range(count):
        yield toy_sample(i)
        if i == 3:
            yield toy_sample(1)  # repeated key
        if i == 7:
            yield Sample("broken", {"png": b"no picture"}, ("x",))
        if i == 11:
            yield Sample("with space", {"png": png(500)}, ("rewritten", "  "), split="train")
        if i == 13:
            yield Sample("nothing", {})


BAD = {"empty caption": 1, "empty sample": 1, "repeated key": 1, "rewritten key": 1, "unreadable picture": 1}
"""What a preparation of `toy_samples(14 or more)` counts."""


def toy_card(count: int = 30, **changes: object) -> Card:
    def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Sample]:
        return toy_samples(int(options.get("count", count)))

    settings: dict[str, object] = {
        "name": "toy",
        "title": "Toy",
        "description": "Pictures of one colour.",
        "licence": "none",
        "convert": convert,
        "splits": {
            "train": Split("split = 'train'"),
            "odd_test": Split("split = 'test' AND parity = 'odd'", 3, "odd numbers"),
        },
        "needs_raw": False,
        "options": {"count": "number of pictures (default 30)"},
    }
    return Card(**{**settings, **changes})  # type: ignore[arg-type]


def tree(folder: Path) -> dict[str, bytes]:
    """Everything in a folder, hidden files included."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def kill_at(call: int) -> None:
    """Let this process kill itself at step n: before and after each fsync, rename and rmdir."""
    left = [call]

    def fatal(function):  # type: ignore[no-untyped-def]
        def wrapped(*args, **kwargs):  # type: ignore[no-untyped-def]
            for after in (False, True):
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1
                if not after:
                    result = function(*args, **kwargs)
            return result

        return wrapped

    os.fsync = fatal(os.fsync)
    os.rename = fatal(os.rename)
    os.rmdir = fatal(os.rmdir)


def main() -> None:
    """`python toy_card.py OUT STEP...`: prepare in a child process killed at each step in turn."""
    from diptych.data.prepare import prepare

    out, steps = Path(sys.argv[1]), [int(step) for step in sys.argv[2:]]
    for step in steps:
        child = os.fork()
        if child == 0:
            kill_at(step)
            prepare(toy_card(), None, out / str(step), shard_size=7)
            os._exit(0)
        print(step, os.waitpid(child, 0)[1], flush=True)


if __name__ == "__main__":
    main()
