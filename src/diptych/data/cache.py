"""Memory for decoded pictures."""

import mmap
import multiprocessing
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from PIL import Image

from diptych.data.image import Pixels


class PictureTable:
    """Resized pictures of the first samples of a selection, as many as fit; forked workers share them.

    Memory is only taken as rows are put. Two workers may decode the same sample; they write the same bytes.
    """

    def __init__(self, rows: int, shape: tuple[int, int, int], budget: int, *, shared: bool) -> None:
        self.shape = shape
        self._arguments = (rows, shape, budget, shared)
        # Orders the bytes of a row before its mark, on processors that would not.
        self._lock: AbstractContextManager[Any] = (
            multiprocessing.Lock() if shared and budget else nullcontext()
        )
        self._capacity = min(rows, budget // int(np.prod(shape)))
        # An anonymous map is shared over forks and not bound by the size of /dev/shm (64 MiB in containers).
        pixels = mmap.mmap(-1, max(1, self._capacity * int(np.prod(shape))))
        marks = mmap.mmap(-1, max(1, self._capacity))
        count = self._capacity * int(np.prod(shape))
        self._pixels = np.frombuffer(pixels, dtype=np.uint8, count=count).reshape(-1, *shape)
        self._marks = np.frombuffer(marks, dtype=np.bool_, count=self._capacity)

    def known(self, rows: np.ndarray) -> np.ndarray:
        """Return [N] bool: which rows are there."""
        found = rows < self._capacity
        with self._lock:
            found[found] = self._marks[rows[found]]
        return found

    def put(self, row: int, pixels: Pixels) -> bool:
        """Keep a row if there is room for it; it becomes known by `mark`."""
        if row >= self._capacity:
            return False
        self._pixels[row] = pixels
        return True

    def mark(self, rows: Sequence[int]) -> None:
        """Make rows known that were put."""
        if rows:
            with self._lock:
                self._marks[np.asarray(rows)] = True

    def take(self, rows: Sequence[int]) -> Pixels:
        """Return a copy of known rows, [N, C, H, W]."""
        found: Pixels = self._pixels[np.asarray(rows, dtype=np.int64)]
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        # A spawned worker gets a table of its own: the memory cannot follow it.
        rows, shape, budget, _ = self._arguments
        return _unshared, (rows, shape, budget)


def _unshared(rows: int, shape: tuple[int, int, int], budget: int) -> PictureTable:
    return PictureTable(rows, shape, budget, shared=False)


class Originals:
    """Whole pictures of this process, up to a number of bytes; what was there first stays."""

    def __init__(self, budget: int) -> None:
        self._left = budget
        self._pictures: dict[int, Image.Image] = {}

    def get(self, row: int) -> Image.Image | None:
        """Return the picture of a sample, if it is there."""
        return self._pictures.get(row)

    def put(self, row: int, image: Image.Image) -> None:
        """Keep the picture of a sample if there is room for it."""
        size = image.width * image.height * 4  # Pillow keeps RGB in four bytes
        if size <= self._left and row not in self._pictures:
            self._pictures[row] = image
            self._left -= size
