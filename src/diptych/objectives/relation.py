"""Which rows match which columns. Legend: N rows (pictures), M columns (texts), S pairs of keys."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class KeyPairs:
    """Keys that belong together, where that is more than being equal."""

    rows: Tensor
    """[S] int64 keys of rows, from 0 on."""
    columns: Tensor
    """[S] int64 keys of columns, from 0 on; each (row key, column key) is there once."""
    row_keys: int
    """How many keys rows can have."""
    column_keys: int


@dataclass(frozen=True)
class Relation:
    """Which of N rows match which of M columns, in O(N + M) memory; blocks of the matrix are made on demand.

    A row and a column match if their keys are equal, or, with `pairs`, if the two keys are one of the pairs.
    """

    rows: Tensor
    """[N] int64 keys."""
    columns: Tensor
    """[M] int64 keys."""
    pairs: KeyPairs | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(N, M)."""
        return len(self.rows), len(self.columns)

    def block(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """Return [K, M] bool of some of the rows (their numbers, or a slice); of all by default."""
        keys = self.rows[rows][:, None]
        if self.pairs is None:
            return keys == self.columns
        related = torch.zeros(len(keys), self.pairs.column_keys, dtype=torch.uint8, device=keys.device)
        # Every pair is there once, so nothing is added up beyond 1.
        related.index_add_(1, self.pairs.columns, (keys == self.pairs.rows).to(torch.uint8))
        return related.bool()[:, self.columns]

    def t(self) -> "Relation":
        """Return the relation of the columns to the rows."""
        pairs = self.pairs
        if pairs is not None:
            pairs = KeyPairs(pairs.columns, pairs.rows, pairs.column_keys, pairs.row_keys)
        return Relation(self.columns, self.rows, pairs)


def picture_text_relation(match_ids: Tensor, text_of: Tensor, texts: int, own: slice) -> Relation:
    """Return which of M different texts are right for the pictures of some samples.

    A text matches a picture if any sample of the picture's match id has it.

    Args:
        match_ids: [S] int64 of all samples.
        text_of: [S] int64, number of each sample's text.
        texts: M.
        own: the samples whose pictures are the rows.
    """
    names, classes = torch.unique(match_ids, return_inverse=True)
    pairs = torch.unique(torch.stack([classes, text_of]), dim=1)
    numbers = torch.arange(texts, device=match_ids.device)
    return Relation(classes[own], numbers, KeyPairs(pairs[0], pairs[1], len(names), texts))
