"""Encoded conversations as rows of the language model: one a row, or several packed into one.

Legend: B conversations, R rows, L tokens of a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diptych.data.chat import Encoded
from diptych.data.packing import best_fit
from diptych.errors import DataError
from diptych.systems.mllm.model import Rows

IGNORED = -100


@dataclass(frozen=True)
class Laid:
    """Conversations laid out in rows."""

    rows: Rows
    targets: Tensor
    """[R, L] int64: the token that is to come next; `IGNORED` where nothing is learned."""
    order: list[int]
    """[B]: the conversations in the order in which the rows hold them, as their pictures have to come."""


def lay_out(
    chats: Sequence[Encoded], pad_id: int, picture_id: int, *, length: int = 0, left: bool = False
) -> Laid:
    """Lay conversations out.

    Args:
        chats: B of them, none empty.
        pad_id: id of padding.
        picture_id: id at places of pictures.
        length: pack several conversations into rows of at most so many tokens, longest first into the
            fullest row with room; 0: one a row. A conversation of more tokens has a row to itself.
        left: pad on the left, for generation.
    """
    placed = [[i] for i in range(len(chats))]
    if length:
        sizes = np.array([len(chat.ids) for chat in chats], dtype=np.int64)
        placed = best_fit(sizes, max(length, int(sizes.max())))
    width = max(sum(len(chats[i].ids) for i in row) for row in placed)
    shape = (len(placed), width)
    ids, targets = np.full(shape, pad_id, dtype=np.int64), np.full(shape, IGNORED, dtype=np.int64)
    segments, positions = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for r, row in enumerate(placed):
        end = width - sum(len(chats[i].ids) for i in row) if left else 0
        for segment, i in enumerate(row, start=1):
            here = slice(end, end + len(chats[i].ids))
            ids[r, here], segments[r, here] = chats[i].ids, segment
            positions[r, here] = np.arange(len(chats[i].ids))
            # Each token foretells the next one of its own conversation.
            targets[r, here.start : here.stop - 1] = chats[i].targets[1:]
            end = here.stop
    found = torch.from_numpy(ids)
    numbers = torch.from_numpy(segments)
    packed = any(len(row) > 1 for row in placed)
    rows = Rows(
        ids=found,
        mask=numbers > 0,
        # The pad token may be that of a picture's place nowhere: places count where there is a conversation.
        pictures=(found == picture_id) & (numbers > 0),
        positions=torch.from_numpy(positions),
        segments=numbers if packed else None,
    )
    return Laid(rows, torch.from_numpy(targets), [i for row in placed for i in row])


def cut(chat: Encoded, limit: int, picture_id: int) -> Encoded:
    """Return the first `limit` tokens of a conversation; 0: all.

    Raises:
        DataError: the limit falls within its pictures.
    """
    if not limit or len(chat.ids) <= limit:
        return chat
    if picture_id in chat.ids[limit:]:
        last = len(chat.ids) - chat.ids[::-1].index(picture_id)
        raise DataError(
            f"a conversation whose pictures end at token {last}, but task.max_tokens = {limit}; raise it, or "
            "show fewer or smaller pictures"
        )
    return Encoded(chat.ids[:limit], chat.learned[:limit])


def move(laid: Laid, device: torch.device) -> Laid:
    """Return it with its tensors on a device."""
    rows = laid.rows

    def there(tensor: Tensor) -> Tensor:
        return tensor.to(device, non_blocking=True)

    moved = Rows(
        there(rows.ids),
        there(rows.mask),
        there(rows.pictures),
        there(rows.positions),
        None if rows.segments is None else there(rows.segments),
    )
    return Laid(moved, there(laid.targets), laid.order)
