"""GLUE as sequences with a slot: the prompts of the nine tasks, and where the slot is after truncation.

A prompt is a first part and, of two sentences, a second one that begins with the slot. What the slot says is
compared with the words of the task (`data.targets.names.class_names`; `SIMILAR` for STS-B).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diptych.errors import DataError, UsageError
from diptych.resolve import nearest

FULL_SCORE = 5.0
"""Highest score of STS-B."""
SIMILAR = ("no", "yes")
"""Words for STS-B: its score is how likely the second one is."""

_SLOT, _END, _A, _BARE, _B = "<slot>", "<end>", "<a>", "<a without its full stop>", "<b>"
_ENTAILS = ((_BARE, "?", _END, "it is"), (_SLOT, ",", _B, _END))
_FOLLOWS = ((_A,), (_SLOT, ",", _B, _END))
_ALIKE = ((_BARE, "."), (_SLOT, ",", _B, _END))
PROMPTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "cola": ((_A, "This is", _SLOT, ".", _END), ()),
    "sst-2": ((_A, _END, "It is", _SLOT, ".", _END), ()),
    "mrpc": _ALIKE,
    "qqp": ((_BARE, _END), (_SLOT, ",", _B, _END)),
    "sts-b": _ALIKE,
    "mnli": _FOLLOWS,
    "qnli": ((_BARE, _END, "it is"), (_SLOT, ",", _B, _END)),
    "rte": _ENTAILS,
    "wnli": _ENTAILS,
    "ax": _FOLLOWS,
}
"""Task -> its parts. WNLI (like RTE), STS-B (like MRPC) and AX (like MNLI) are ours, not published."""
_NAMES = {
    "sst2": "sst-2",
    "stsb": "sts-b",
    "mnli_match": "mnli",
    "mnli_mismatch": "mnli",
    "mnli-m": "mnli",
    "mnli-mm": "mnli",
    "diagnostic": "ax",
}
_TO_THE_SLOT_FROM_THE_END = 3
_LEAST = 8


@dataclass(frozen=True)
class Slotted:
    """A sequence and where its slot is."""

    ids: list[int]
    slot: int


def task_name(name: str) -> str:
    """Return the name that a task goes by in `PROMPTS`.

    Raises:
        UsageError: there is no such task.
    """
    found = _NAMES.get(name.lower(), name.lower())
    if found not in PROMPTS:
        raise UsageError(f"GLUE has no task '{name}'{nearest(name, PROMPTS)} (known: {', '.join(PROMPTS)})")
    return found


def pack(
    task: str,
    sentences: Sequence[str],
    encode: Callable[[str], list[int]],
    *,
    slot: int,
    end: int,
    limit: int = 256,
    published: bool = False,
) -> Slotted:
    """Return the sequence of an example, without the token that starts every sequence.

    A second part is cut to half of `limit` (QNLI: to the room that the first leaves), then the first part to
    what is left; parts lose what is in front of their last token.

    Args:
        task: see `task_name`.
        sentences: one (CoLA, SST-2) or two.
        encode: ids of a text, with no token in front or behind.
        slot: id of the slot's token.
        end: id of the token that ends texts.
        limit: tokens at most, 8 or more.
        published: where a single sentence is too long, cut in front of the last token as elsewhere, which
            may lose the slot: its place, counted before that, is then wrong. Ours shortens the sentence.

    Raises:
        UsageError: there is no such task, or `limit` is too small.
        DataError: a wrong number of sentences.
    """
    name = task_name(task)
    first, second = PROMPTS[name]
    if len(sentences) != (2 if second else 1):
        raise DataError(
            f"GLUE {name}: {len(sentences)} sentences; expected {'two' if second else 'one'} an example"
        )
    if limit < _LEAST:
        raise UsageError(f"GLUE: limit {limit} tokens; expected {_LEAST} or more")
    fixed = {_SLOT: [slot], _END: [end], _A: encode(sentences[0])}
    fixed[_BARE] = encode(sentences[0].removesuffix(".")) if _BARE in first else []
    fixed[_B] = encode(sentences[-1]) if second else []
    head, tail = (
        [i for part in parts for i in (fixed[part] if part in fixed else encode(part))]
        for parts in (first, second)
    )
    if not second:
        return _single(head, len(fixed[_A]), limit, published)
    room = max(limit - len(head), _LEAST // 2) if name == "qnli" else limit // 2
    tail = _cut(tail, room)
    head = _cut(head, limit - len(tail))
    return Slotted(head + tail, len(head))


def _single(ids: list[int], sentence: int, limit: int, published: bool) -> Slotted:
    if published:
        return Slotted(_cut(ids, limit), len(ids) - _TO_THE_SLOT_FROM_THE_END)
    kept = max(sentence - max(len(ids) - limit, 0), 0)
    ids = ids[:kept] + ids[sentence:]
    return Slotted(ids, len(ids) - _TO_THE_SLOT_FROM_THE_END)


def _cut(ids: list[int], room: int) -> list[int]:
    return ids if len(ids) <= room else [*ids[: room - 1], ids[-1]]


def similarity_targets(scores: Tensor) -> Tensor:
    """Return what `SIMILAR` should get, [B, 2] float32, of scores of STS-B [B], 0 to 5."""
    yes = scores.float() / FULL_SCORE
    return torch.stack([1 - yes, yes], 1)


def similarity_scores(logits: Tensor) -> Tensor:
    """Return scores of STS-B [B], 0 to 5, of logits for `SIMILAR` [B, 2]."""
    return FULL_SCORE * logits.softmax(1)[:, 1]
