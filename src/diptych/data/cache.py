"""Memory for decoded pictures."""

import mmap
import multiprocessing
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from PIL import Image

from diptych.data.decode import Pixels
from diptych.data.image import Picture


class PictureTable:
    """Resized pictures of the first samples of a selection that fit; forked workers share them.

    A sample has [H, W, C], or [2, H, W, C].

    Memory is only taken as rows are put. Two workers may decode the same sample; they write the same bytes.
    """

    def __init__(self, rows: int, shape: tuple[int, ...], budget: int, *, shared: bool) -> None:
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

    def get(self, row: int, out: Pixels) -> bool:
        """Copy a row into `out` if it is there, and say so."""
        if row >= self._capacity:
            return False
        with self._lock:
            known = bool(self._marks[row])
        if known:
            out[:] = self._pixels[row]
        return known

    def put(self, row: int, pixels: Pixels) -> None:
        """Keep a row if there is room for it."""
        if row < self._capacity:
            self._pixels[row] = pixels
            with self._lock:
                self._marks[row] = True


class Originals:
    """Whole pictures of this process, up to a number of bytes; what was there first stays."""

    def __init__(self, budget: int) -> None:
        self._left = budget
        self._pictures: dict[int, Picture] = {}

    def get(self, row: int) -> Picture | None:
        """Return the picture of a sample, if it is there."""
        return self._pictures.get(row)

    def put(self, row: int, picture: Picture) -> None:
        """Keep a copy of the picture of a sample if there is room for it."""
        size = picture.width * picture.height * 4 if isinstance(picture, Image.Image) else picture.nbytes
        if size <= self._left and row not in self._pictures:
            self._pictures[row] = picture.copy()
            self._left -= size
