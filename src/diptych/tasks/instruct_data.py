"""What rows of batches become in conversations, and the pictures that they show.

Legend: B samples, n views of a sample, S side of a view.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from diptych.data.batch import Batch
from diptych.data.conversations import (
    Conversation,
    Wording,
    choice_turn,
    parse_conversation,
    question_turn,
    with_turns,
)
from diptych.data.draws import Draws
from diptych.errors import DataError

FACTS = ("conversations", "questions")
"""Facts of samples that conversations are made of."""
MOST_TURNS = 64
"""Questions of a sample that are put in random order; further ones come behind."""


@dataclass(frozen=True)
class Pictures:
    """What a sample shows."""

    views: Tensor
    """[n, 3, S, S]: tiles of its pictures, picture after picture."""
    grids: list[tuple[int, int]]
    """Rows and columns of the tiles of each picture, or frame of a video."""
    frames: list[int] = field(default_factory=list)
    """How many of them each medium of the conversation has; empty: one."""
    asked: str = ""
    """What queries of a Q-Former should look for."""


def pictures_of(batch: Batch) -> list[Pictures | None]:
    """Return the pictures of each sample; None for those that have none."""
    images = batch.images
    if images is None:
        return [None] * len(batch)
    grids = batch.extra.get("grids")
    found: list[Pictures | None] = []
    for i in range(len(batch)):
        views = images[i] if images.ndim == 5 else images[i : i + 1]
        if grids is not None:
            own = [tuple(grid[:2]) for grid in grids[i]]
            shown = sum(grid[2] for grid in grids[i])
            media = batch.extra.get("media")
            found.append(Pictures(views[:shown], own, media[i] if media else []) if own else None)
            continue
        if batch.frame_mask is not None:
            views = views[batch.frame_mask[i]]
        video = images.ndim == 5 and "statements" not in batch.extra
        found.append(Pictures(views, [(1, 1)] * len(views), [len(views)] if video else []))
    return found


def frames_of(chat: Conversation, grids: Sequence[tuple[int, int]]) -> list[int]:
    """Return how many of a sample's pictures each medium of its conversation has.

    Raises:
        DataError: there are pictures, but the conversation has no place for them.
    """
    media = len(chat.media)
    if not media and grids:
        raise DataError(f"{len(grids)} pictures, but the conversation has no place for them")
    return [len(grids)] if media == 1 else [1] * len(grids)


def rows_about(batch: Batch) -> list[list[Mapping[str, Any]]]:
    """Return the questions of each row: its own, or all of its sample."""
    found = batch.extra.get("questions") or [None] * len(batch)
    return [value if isinstance(value, list) else [value] if value else [] for value in found]


def conversations_of(
    batch: Batch, wording: Wording, turns: int = 1, draws: Draws | None = None
) -> list[Conversation]:
    """Return what is said about each row, with answers.

    A row is a conversation of the data, a question, a choice, all questions of a sample (`turns` of them, in
    random order), or a caption.

    Args:
        batch: B rows.
        wording: how rows are put into words.
        turns: questions of a conversation that is made of several; 0: all.
        draws: of the rows; None: nothing is random.

    Raises:
        DataError: a row with nothing to say.
    """
    order = None if draws is None else draws.rand(MOST_TURNS).argsort(1).tolist()
    chosen = None if draws is None else draws.rand().tolist()
    return [
        _about(batch, i, wording, turns, order[i] if order else None, chosen[i] if chosen else 0.0)
        for i in range(len(batch))
    ]


def media_of(batch: Batch, i: int = 0) -> list[str]:
    """Return the places that conversations about row `i` begin with: pictures, or a video."""
    if batch.images is None:
        return []
    if "grids" in batch.extra:
        return ["image"] * len(batch.extra["grids"][i])
    if batch.images.ndim == 4:
        return ["image"]
    return ["image", "image"] if "statements" in batch.extra else ["video"]


def _about(
    batch: Batch, i: int, wording: Wording, turns: int, order: Sequence[int] | None, draw: float
) -> Conversation:
    media = media_of(batch, i)

    def entry(name: str) -> Any:
        values = batch.extra.get(name)
        return None if values is None else values[i]

    told = entry("conversations")
    if told:
        one = told[min(int(draw * len(told)), len(told) - 1)] if isinstance(told, list) else told
        return parse_conversation(one)
    choice, questions = entry("choices"), rows_about(batch)[i]
    if choice:
        return with_turns([choice_turn(choice, wording)], wording, media)
    if questions:
        numbers = [n for n in (order or ()) if n < len(questions)] or range(len(questions))
        kept = [*numbers, *range(MOST_TURNS, len(questions))][: turns or None]
        return with_turns([question_turn(questions[n], wording) for n in kept], wording, media)
    if batch.texts is not None and batch.texts[i]:
        return with_turns([(wording.caption, batch.texts[i])], wording, media)
    raise DataError(
        f"sample '{batch.keys[i]}': nothing to say about it: no conversations, questions, choices or captions"
    )
