"""Several short texts in one sequence, told apart by segment numbers.

R sequences of L tokens, n samples of a window, B texts of a batch.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from diptych.data.budget import Cut
from diptych.data.order import Int64, keys_of, permute


@dataclass(frozen=True)
class PackedTexts:
    """Texts of a batch in sequences that hold several of them."""

    ids: Tensor
    """[R, L] int64, texts one after another, padding behind the last."""
    segments: Tensor
    """[R, L] int64: which text of its sequence a token belongs to, from 1 on; 0 at padding."""
    positions: Tensor
    """[R, L] int64: place of a token in its own text, from 0 on; 0 at padding."""
    places: Tensor
    """[B, 2] int64: sequence and segment number of each text, in the order of the batch."""

    @property
    def starts(self) -> Tensor:
        """[B, 2] int64: sequence and column of each text's first token."""
        rows, segments = self.places.unbind(1)
        columns = (self.segments[rows] == segments[:, None]).int().argmax(1)
        return torch.stack([rows, columns], 1)

    def to(self, device: torch.device, *, non_blocking: bool = False) -> Self:
        """Return it with all its tensors on `device`."""
        names = ("ids", "segments", "positions", "places")
        return replace(self, **{n: getattr(self, n).to(device, non_blocking=non_blocking) for n in names})


def segment_mask(segments: Tensor) -> Tensor:
    """Return [R, L, L] bool, True where a token [.., i, :] may read a token [.., :, j]: of the same segment.

    Padding reads padding, so that every row has something to read.
    """
    return segments[:, :, None] == segments[:, None, :]


def pack_texts(sequences: Sequence[Sequence[int]], packs: Int64, length: int, pad_id: int) -> PackedTexts:
    """Lay texts one after another into sequences of `length` tokens.

    Args:
        sequences: B texts as token ids, special tokens included, at most `length` each.
        packs: [B] the sequence that each was planned for.
        length: tokens of a sequence.
        pad_id: id of padding.

    Plans know lengths as estimates only. A text that finds its sequence full goes to the first with enough
    room, or to a new one behind the others: no text is lost or cut, but R may be more than was planned.
    """
    used = [0] * (int(packs.max()) + 1 if len(packs) else 0)
    placed: list[list[int]] = [[] for _ in used]
    for text, (ids, pack) in enumerate(zip(sequences, packs.tolist(), strict=True)):
        if used[pack] + len(ids) > length:
            pack = next((row for row, end in enumerate(used) if end + len(ids) <= length), len(used))
            if pack == len(used):
                used.append(0)
                placed.append([])
        used[pack] += len(ids)
        placed[pack].append(text)
    # Sequences that are empty (their samples could not be used) are left out.
    return _laid_out(sequences, [texts for texts in placed if texts], length, pad_id)


def _laid_out(
    sequences: Sequence[Sequence[int]], placed: Sequence[Sequence[int]], length: int, pad_id: int
) -> PackedTexts:
    ids = np.full((len(placed), length), pad_id, dtype=np.int64)
    segments, positions = np.zeros_like(ids), np.zeros_like(ids)
    places = np.zeros((len(sequences), 2), dtype=np.int64)
    for row, texts in enumerate(placed):
        end = 0
        for segment, text in enumerate(texts, start=1):
            here = slice(end, end + len(sequences[text]))
            ids[row, here] = sequences[text]
            segments[row, here] = segment
            positions[row, here] = np.arange(len(sequences[text]))
            places[text] = row, segment
            end = here.stop
    return PackedTexts(*(torch.from_numpy(array) for array in (ids, segments, positions, places)))


def best_fit(lengths: Int64, capacity: int) -> list[list[int]]:
    """Return sequences of places in `lengths` [n] such that no sequence is longer than `capacity`.

    Longest first, each into the fullest sequence with room (best-fit decreasing: at most 11/9 of the fewest
    possible sequences, and one). Lengths are 1 .. `capacity`.
    """
    packs: list[list[int]] = []
    # Room left -> sequences with just that room, and the rooms there are, ascending.
    open_packs: dict[int, list[int]] = {}
    rooms: list[int] = []
    sizes = lengths.tolist()
    for i in np.argsort(-lengths, kind="stable").tolist():
        at = bisect_left(rooms, sizes[i])
        if at == len(rooms):
            room, pack = capacity, len(packs)
            packs.append([])
        else:
            room = rooms[at]
            pack = open_packs[room].pop()
            if not open_packs[room]:
                del open_packs[room], rooms[at]
        packs[pack].append(i)
        left = room - sizes[i]
        if left not in open_packs:
            open_packs[left] = []
            insort(rooms, left)
        open_packs[left].append(pack)
    return packs


class PackCutter:
    """Packs the texts of a window and makes batches of at most `most` sequences; see `WindowPlan`."""

    def __init__(self, seed: int, capacity: int, most: int) -> None:
        self.seed, self.capacity, self.most = seed, capacity, most

    def __call__(self, costs: Int64, window: int) -> Sequence[Cut]:
        """Return the batches of a window: equally many sequences each, give or take one."""
        packs = best_fit(costs, self.capacity)
        numbers = np.arange(len(packs), dtype=np.int64)
        # Sequences of one long text and those of many short ones would otherwise be batches of their own.
        mixed = permute(
            numbers, np.full_like(numbers, len(packs)), keys_of(self.seed, 10, numbers * 0 + window)
        )
        count = -(-len(packs) // self.most)
        cuts = []
        for i in range(count):
            chosen = [packs[p] for p in mixed[len(packs) * i // count : len(packs) * (i + 1) // count]]
            members = np.array([m for pack in chosen for m in pack], dtype=np.int64)
            sequence = np.repeat(np.arange(len(chosen), dtype=np.int64), [len(pack) for pack in chosen])
            cuts.append(Cut(members, sequence))
        return cuts
