"""What parts of pictures the entries of a dictionary stand for. Legend: B pictures, P tokens, K entries."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diptych.blocks.dictionary import Quantised
from diptych.systems.soho.model import SohoModel

PATCHES = 9
"""Patches that are kept for each entry."""
SHOWN = 40
"""Entries that are told of: the most used."""


@dataclass(frozen=True)
class Patch:
    """A token of a picture."""

    distance: float
    """From the feature to its dictionary entry (Euclidean)."""
    key: str
    """The sample."""
    cell: tuple[int, int]
    """Row and column of the grid."""
    box: tuple[int, int, int, int]
    """Left, top, right and bottom in pixels of the picture as the model saw it."""
    size: tuple[int, int]
    """Width and height of that picture in pixels."""


class NearestPatches:
    """The patches nearest to each entry so far, from different pictures; at most `PATCHES` K of them."""

    def __init__(self, codes: int, cell: int) -> None:
        """Start with none; `cell`: pixels along the side of a token."""
        self.cell = cell
        self.found: list[dict[str, Patch]] = [{} for _ in range(codes)]
        self.limits = torch.full((codes,), float("inf"))
        """[K]: a patch must be nearer than this to be kept."""

    def add(self, keys: Sequence[str], words: Tensor, distances: Tensor, columns: int, sizes: Tensor) -> None:
        """Look at a batch.

        Args:
            keys: of the B samples.
            words: [B, P] int64, negative where there is no picture.
            distances: [B, P] of each token to its entry.
            columns: of the grid.
            sizes: [B, 2] int64, height and width of each picture in pixels.
        """
        words, distances = words.cpu(), distances.float().cpu()
        near = (words >= 0) & (distances < self.limits[words.clamp(min=0)])
        sides = sizes.tolist()
        rows, places = near.nonzero(as_tuple=True)
        told = zip(
            rows.tolist(), places.tolist(), words[near].tolist(), distances[near].tolist(), strict=True
        )
        for row, place, word, distance in told:
            height, width = sides[row]
            y, x = divmod(place, columns)
            box = (x * self.cell, y * self.cell, (x + 1) * self.cell, (y + 1) * self.cell)
            box = (*box[:2], min(box[2], width), min(box[3], height))
            self._keep(word, Patch(distance, keys[row], (y, x), box, (width, height)))

    def _keep(self, word: int, patch: Patch) -> None:
        found = self.found[word]
        other = found.get(patch.key)
        if other is not None and other.distance <= patch.distance:
            return
        found[patch.key] = patch
        if len(found) > PATCHES:
            del found[max(found.values(), key=lambda p: (p.distance, p.key)).key]
        if len(found) == PATCHES:
            self.limits[word] = max(p.distance for p in found.values())

    def told(self, usage: Tensor) -> list[dict[str, Any]]:
        """Return the most used entries with their patches, nearest first; `usage` [K] counts tokens."""
        order = usage.argsort(descending=True, stable=True)[:SHOWN].tolist()
        return [
            {
                "word": word,
                "count": int(usage[word]),
                "patches": [
                    {
                        "key": p.key,
                        "cell": list(p.cell),
                        "box": list(p.box),
                        "size": list(p.size),
                        "distance": round(p.distance, 5),
                    }
                    for p in sorted(self.found[word].values(), key=lambda p: (p.distance, p.key))
                ],
            }
            for word in order
            if usage[word]
        ]


@dataclass
class Watched:
    """What the neck did last."""

    distances: Tensor
    """[B P]: of each token to its entry."""
    columns: int
    """Of the grid of tokens."""


@contextmanager
def watched(model: SohoModel) -> Iterator[Watched]:
    """Watch the neck of a model that is being evaluated."""
    seen = Watched(torch.zeros(0), 1)

    def quantised(_: nn.Module, given: tuple[Tensor, ...], found: Quantised) -> None:
        seen.distances = (given[0].detach().float() - found.vectors.float()).norm(dim=1)

    def pooled(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        seen.columns = given[0].shape[3] // (2 if model.config.pool else 1)

    hooks = [
        model.neck.register_forward_pre_hook(pooled),
        model.neck.dictionary.register_forward_hook(quantised),
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
