"""Media among the tokens of a text: placeholders become as many places as the medium has tokens.

Video-LLaVA's form: one mark a feature block (a picture, or a frame of a video), any number of them in a text.
Our batches are made with the right number of places already; this is for texts that hold one mark a block.

Legend: B rows, L tokens with marks, S without, K feature blocks, n tokens of a block, W width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diptych.errors import DataError

MARK = -200
"""Stands for a feature block in Video-LLaVA's ids."""
IGNORED = -100


@dataclass(frozen=True)
class Spliced:
    """Rows with room for their media."""

    ids: Tensor
    """[B, S] int64; 0 at places of media and at padding."""
    mask: Tensor
    """[B, S] bool, True at what is no padding."""
    labels: Tensor
    """[B, S] int64, `IGNORED` at media and padding."""
    media: Tensor
    """[B, S] bool, True at places of media."""
    used: Tensor
    """[M, 2] int64: block and token within it of each place of media, row after row."""

    def embed(self, words: Tensor, blocks: Sequence[Tensor]) -> Tensor:
        """Return vectors [B, S, W]: words from their table, media from their blocks, zeros at padding.

        Args:
            words: [V, W] the table.
            blocks: K tensors [n, W].
        """
        out = words[self.ids] * self.mask[..., None]
        if len(self.used):
            starts = torch.tensor([0, *(len(block) for block in blocks)]).cumsum(0).to(self.used.device)
            flat = torch.cat(list(blocks))
            found = flat[starts[self.used[:, 0]] + self.used[:, 1]]
            out = out.masked_scatter(self.media[..., None], found.to(out.dtype))
        return out


def splice(
    ids: Tensor,
    mask: Tensor,
    labels: Tensor,
    lengths: Sequence[int],
    *,
    limit: int = 0,
    mark: int = MARK,
    dummies: bool = True,
) -> Spliced:
    """Make room for media.

    Args:
        ids: [B, L] int64 with marks.
        mask: [B, L] bool, False at padding, which is dropped.
        labels: [B, L] int64.
        lengths: K, tokens of each feature block, in the order of the marks.
        limit: rows are cut to so many places; 0: none.
        mark: the id of a mark.
        dummies: whether a row without marks has a block of its own that is not used (Video-LLaVA gives such
            rows a black picture).

    Raises:
        DataError: marks and blocks differ in number.
    """
    rows, block = [], 0
    for row, real, wanted in zip(ids.tolist(), mask.tolist(), labels.tolist(), strict=True):
        kept = [(i, label) for i, on, label in zip(row, real, wanted, strict=True) if on]
        places: list[tuple[int, int, int, int]] = []  # id, label, block (-1: a word), token of it
        marks = 0
        for token, label in kept:
            if token != mark:
                places.append((token, label, -1, 0))
                continue
            if block + marks >= len(lengths):
                raise DataError(f"the texts have more marks ({mark}) than the {len(lengths)} feature blocks")
            places += [(0, IGNORED, block + marks, n) for n in range(lengths[block + marks])]
            marks += 1
        block += marks or int(dummies)
        rows.append(places[:limit] if limit else places)
    if block != len(lengths):
        raise DataError(f"the texts use {block} feature blocks, but there are {len(lengths)}")
    return _pad(rows, ids.device)


def _pad(rows: Sequence[Sequence[tuple[int, int, int, int]]], device: torch.device) -> Spliced:
    size = (len(rows), max(map(len, rows), default=0))
    found = Spliced(
        ids=torch.zeros(size, dtype=torch.int64),
        mask=torch.zeros(size, dtype=torch.bool),
        labels=torch.full(size, IGNORED),
        media=torch.zeros(size, dtype=torch.bool),
        used=torch.tensor([p[2:] for row in rows for p in row if p[2] >= 0], dtype=torch.int64).view(-1, 2),
    )
    for b, row in enumerate(rows):
        n = len(row)
        found.ids[b, :n] = torch.tensor([p[0] for p in row], dtype=torch.int64)
        found.labels[b, :n] = torch.tensor([p[1] for p in row], dtype=torch.int64)
        found.media[b, :n] = torch.tensor([p[2] >= 0 for p in row], dtype=torch.bool)
        found.mask[b, :n] = True
    return Spliced(**{name: value.to(device) for name, value in vars(found).items()})
