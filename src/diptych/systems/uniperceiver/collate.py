"""Rows of tokens as tensors, and the part of a set of targets that a rank encodes."""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

Row = TypeVar("Row")


def pad_rows(rows: Sequence[Sequence[int]], fill: int = 0) -> tuple[Tensor, Tensor]:
    """Stack rows of different lengths, filled up to the longest.

    Args:
        rows: N lists of ids.
        fill: what stands behind the end of a row; labels have -1.

    Returns:
        The rows [N, L] int64 and their padding [N, L] bool, True where a row has ended.
    """
    length = max((len(row) for row in rows), default=0)
    ids = torch.full((len(rows), length), fill, dtype=torch.int64)
    padding = torch.ones(len(rows), length, dtype=torch.bool)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row, dtype=torch.int64)
        padding[number, : len(row)] = False
    return ids, padding


def share_of(rows: Sequence[Row], rank: int, world: int) -> list[Row]:
    """Return a rank's equal share of the rows, in their order.

    What the last ranks lack is filled with the first row, so that all have as many (published); whoever
    gathers the shares cuts the result to the number of rows.

    Raises:
        ValueError: there are no rows, or `rank` is none of `world`.
    """
    if not rows:
        raise ValueError("no rows to share")
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} is none of {world}")
    each = -(-len(rows) // world)
    share = list(rows[rank * each : (rank + 1) * each])
    return share + [rows[0]] * (each - len(share))
