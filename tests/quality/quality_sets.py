"""Small datasets that the tests of this folder share."""

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from diptych.data.cards.base import Card, Split
from diptych.data.prepare import prepare
from diptych.data.sample import Sample


def pattern(seed: int, side: int = 72, change: int = 0) -> Image.Image:
    """9 x 8 grey fields, each 14 levels darker or lighter than the one before, as the seed's bits say.

    `change` makes all of them lighter. With a side of 1 there are no fields.
    """
    steps = np.random.default_rng(seed).choice([-14, 14], (8, 8))
    fields = 126 + change + np.concatenate([np.zeros((8, 1), int), steps.cumsum(axis=1)], axis=1)
    small = Image.fromarray(fields.astype(np.uint8))
    return small.resize((side, side), Image.Resampling.NEAREST).convert("RGB")


def encoded(image: Image.Image, format: str = "PNG", **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def make_set(out: Path, samples: Sequence[Sample], name: str = "", shard_size: int = 4) -> Path:
    """Prepare a dataset of samples in `out`."""

    def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Sample]:
        yield from samples

    card = Card(
        name=name or out.name,
        title="Samples of a test",
        description="",
        licence="none; made by a program",
        convert=convert,
        splits={split: Split(f"split = '{split}'") for split in sorted({one.split for one in samples})},
        needs_raw=False,
    )
    prepare(card, None, out, shard_size=shard_size)
    return out
