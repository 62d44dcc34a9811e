"""A corpus like photographs with captions: noise whose spectrum falls like that of photographs.

About 640 x 480 pixels, 40 to 120 kB a JPEG; shards of 500 samples that any WebDataset reader reads.
"""

import io
import math
import multiprocessing
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = ((640, 480), (480, 640), (640, 427), (640, 512), (612, 459), (500, 375), (640, 425), (576, 576))
WORDS = (
    *(
        "a",
        "the",
        "two",
        "some",
        "red",
        "small",
        "large",
        "old",
        "young",
        "man",
        "woman",
        "dog",
        "cat",
        "bird",
    ),
    *("horse", "street", "beach", "table", "window", "tree", "house", "river", "sits", "stands", "runs"),
    *(
        "looks",
        "holds",
        "rides",
        "plays",
        "near",
        "under",
        "behind",
        "with",
        "on",
        "in",
        "of",
        "and",
        "water",
    ),
)
LEAST, MOST = 40_000, 120_000
SHARD = 500


def build(folder: Path, samples: int, *, short_side: int = 0, seed: int = 0) -> Path:
    """Write the shards of the corpus, if they are not there, and return its folder.

    Args:
        folder: where corpora lie; each has a folder of its own inside.
        samples: number of pictures.
        short_side: resize pictures so that their shorter side is this (0: leave them).
        seed: another seed gives another corpus.
    """
    from diptych.data.sample import Sample
    from diptych.data.shards import ShardWriter

    target = folder / f"photos-{samples}-{short_side}-{seed}"
    # The writer gives shards their names when they are complete.
    if len(list(target.glob("*.tar"))) == math.ceil(samples / SHARD):
        return target
    jobs = [(seed, first, min(first + 50, samples), short_side) for first in range(0, samples, 50)]
    with (
        multiprocessing.get_context("fork").Pool() as pool,
        ShardWriter(target, "photos", shard_size=SHARD) as writer,
    ):
        for group in pool.imap(_pictures, jobs):
            for key, data, caption in group:
                writer.write(Sample(key, {"jpg": data}, (caption,)))
    return target


def _pictures(job: tuple[int, int, int, int]) -> list[tuple[str, bytes, str]]:
    seed, first, last, short_side = job
    rng = np.random.default_rng((seed, first))
    fields = [_field(1024, slope, rng) for slope in (1.15, 1.25, 1.3, 1.4)]
    found = []
    for number in range(first, last):
        image = _picture(fields, rng)
        data = _encoded(image, rng)
        if short_side:
            share = short_side / min(image.size)
            with Image.open(io.BytesIO(data)) as stored:
                small = stored.resize(
                    (round(image.width * share), round(image.height * share)), Image.Resampling.BICUBIC
                )
            out = io.BytesIO()
            small.save(out, "JPEG", quality=88)
            data = out.getvalue()
        caption = " ".join(rng.choice(WORDS, int(rng.integers(7, 15))))
        found.append((f"photo{number:06d}", data, caption))
    return found


def _field(side: int, slope: float, rng: np.random.Generator) -> np.ndarray:
    """Return [side, side] float32 of unit variance with a spectrum of 1 / frequency ** slope."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = math.inf
    phases = rng.normal(size=(2, *frequency.shape))
    field = np.fft.irfft2((phases[0] + 1j * phases[1]) / frequency**slope, s=(side, side))
    return (field / field.std()).astype(np.float32)


def _picture(fields: list[np.ndarray], rng: np.random.Generator) -> Image.Image:
    """Return light that the colours share, and a little colour, cut out of the fields at random."""
    width, height = SIZES[int(rng.integers(len(SIZES)))]

    def part() -> np.ndarray:
        field = fields[int(rng.integers(len(fields)))]
        top, left = rng.integers(0, field.shape[0] - height), rng.integers(0, field.shape[1] - width)
        cut = field[top : top + height, left : left + width]
        return cut[:: int(rng.choice([-1, 1])), :: int(rng.choice([-1, 1]))]

    light, warm, green = part(), part(), part()
    contrast, colour = rng.uniform(35, 60), rng.uniform(5, 18)
    pixels = np.stack([contrast * light + colour * warm, contrast * light + colour * green,
                       contrast * light - colour * warm], axis=2)  # fmt: skip
    pixels += rng.uniform(90, 140) + rng.normal(size=(height, width, 1)).astype(np.float32) * rng.uniform(
        1, 4
    )
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _encoded(image: Image.Image, rng: np.random.Generator) -> bytes:
    """Return a JPEG of 40 to 120 kB, of a random quality that gives such a size."""
    for quality in (int(rng.integers(78, 93)), 86, 82, 78, 72, 66, 60, 92, 95):
        out = io.BytesIO()
        image.save(out, "JPEG", quality=quality)
        if LEAST <= out.tell() <= MOST:
            break
    return out.getvalue()
