"""VideoChat2's conversations as text, and which of it a model is taught.

A conversation is one text with a gap for the tokens of its picture or clip. It is made of pieces that are
taught or not, and cut into tokens as a whole: what is taught is decided by where a token's characters lie, so
it does not depend on how a tokenizer joins pieces.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

IGNORED = -100
"""Label of what is not taught."""
Offsets = Sequence[tuple[int, int]]
Tokenise = Callable[[str], tuple[Sequence[int], Offsets]]
"""Text -> ids, and first and last + 1 character of each."""
Style = Literal["human", "inst"]


class Turn(NamedTuple):
    """A question and its answer."""

    question: str
    """May be empty: a caption."""
    answer: str


class Piece(NamedTuple):
    """Some text of a conversation."""

    text: str
    taught: bool = False


@dataclass(frozen=True)
class Template:
    """How a conversation is written."""

    human: str = "###Human:"
    assistant: str = "###Assistant:"
    end: str = "###"
    teaches_human: bool = True
    """Whether the mark of every question is taught: the model learns to stop by beginning a new turn."""


HUMAN = Template()
"""Of the models on Vicuna."""


@dataclass(frozen=True)
class Written:
    """A conversation with a gap for its medium."""

    before: list[Piece] = field(default_factory=list)
    after: list[Piece] = field(default_factory=list)
    """All of it where there is no medium."""
    has_medium: bool = True

    @property
    def text(self) -> str:
        """The conversation without a gap."""
        return "".join(piece.text for piece in (*self.before, *self.after))


def sampled_message(seconds: Sequence[float]) -> str:
    """Return the sentence that tells which moments of a video are shown, rounded to tenths of a second."""
    times = ", ".join(f"{round(moment, 1):.1f}" for moment in seconds)
    return f"The video contains {len(seconds)} frames sampled at {times} seconds."


def write_conversation(
    turns: Sequence[Turn],
    medium: Literal["image", "video", "none"] = "video",
    *,
    instruction: str = "",
    message: str = "",
    style: Style = "human",
) -> Written:
    """Write a conversation as VideoChat2 does.

    Args:
        turns: at least one; the order is kept.
        medium: what the gap is for. Its tags are ordinary text.
        instruction: what the first turn's entry says under `i`; comes first.
        message: behind the medium, such as `sampled_message`.
        style: `human` for Vicuna (`###Human: ... ###Assistant: ...`), `inst` for Mistral (`[INST] ...`).

    Raises:
        ValueError: a text has the medium's closing tag in it, or there are no turns.
    """
    tag = {"image": "Image", "video": "Video", "none": ""}[medium]
    texts = [instruction, message, *(text for turn in turns for text in turn)]
    if not turns:
        raise ValueError("a conversation of no turns: expected at least one question with its answer")
    if tag and any(f"</{tag}>" in text for text in texts):
        raise ValueError(f"the text of a conversation holds </{tag}>, which marks the place of its medium")
    start = f"{instruction.strip()} " if instruction.strip() else ""
    behind = f" {message.strip()}" if message.strip() else ""
    write = _write_human if style == "human" else _write_inst
    return write(turns, tag, start, behind)


def _write_human(turns: Sequence[Turn], tag: str, start: str, behind: str) -> Written:
    form = HUMAN
    after: list[Piece] = []
    for turn in turns:
        if turn.question.strip():
            after += [Piece(" "), Piece(form.human, form.teaches_human), Piece(f" {turn.question.strip()}")]
        after += [Piece(" "), Piece(f"{form.assistant} {turn.answer.strip()}", True)]
    after += [Piece(" "), Piece(form.end, True)]
    if not tag:
        first = after[1:]  # without the blank
        return Written([], [Piece(start), *first], has_medium=False)
    return Written([Piece(f"{start}{form.human} <{tag}>")], [Piece(f"</{tag}>{behind}"), *after])


def _write_inst(turns: Sequence[Turn], tag: str, start: str, behind: str) -> Written:
    after: list[Piece] = []
    for turn in turns:
        asked = f"[INST] {turn.question.strip()} [/INST] " if turn.question.strip() else ""
        after += [Piece(asked), Piece(f"{turn.answer.strip()}</s>", True), Piece(" ")]
    after = after[:-1]
    if not tag:
        return Written([], [Piece(start), *after], has_medium=False)
    return Written([Piece(f"{start}[INST] <{tag}>")], [Piece(f"</{tag}>{behind} [/INST] "), *after])


def qformer_instruction(instruction: str | None, question: str) -> str:
    """Return what the Q-Former reads in stage 3: instruction and question of the first turn.

    Args:
        instruction: `i` of its entry; None: the entry has none, and the Q-Former reads nothing (published).
        question: of the first turn.
    """
    if instruction is None:
        return ""
    return " ".join(text.strip() for text in (instruction, question) if text.strip())


@dataclass(frozen=True)
class Labelled:
    """A conversation as tokens; S = 1 + text tokens + medium tokens."""

    ids: list[int]
    """[S]; the medium's places hold `image_id`."""
    labels: list[int]
    """[S]; `IGNORED` where nothing is taught."""


def label_conversation(
    written: Written, tokenise: Tokenise, *, start_id: int, image_id: int, tokens: int, limit: int = 0
) -> Labelled:
    """Turn a conversation into ids and labels.

    A token is taught if any of its characters is of a piece that is taught.

    Args:
        written: the conversation.
        tokenise: text to ids and characters, without special tokens.
        start_id: of the token that begins every sequence.
        image_id: stands in the places of the medium.
        tokens: places of the medium.
        limit: text tokens and those of the medium are cut to so many together; 0: no limit.
    """
    ids, labels = [start_id], [IGNORED]
    for part, pieces in enumerate((written.before, written.after)):
        found, taught = _tokens(pieces, tokenise)
        ids += found
        labels += [i if on else IGNORED for i, on in zip(found, taught, strict=True)]
        if part == 0 and written.has_medium:
            ids += [image_id] * tokens
            labels += [IGNORED] * tokens
    kept = limit or len(ids)
    return Labelled(ids[:kept], labels[:kept])


def _tokens(pieces: Sequence[Piece], tokenise: Tokenise) -> tuple[list[int], list[bool]]:
    text = "".join(piece.text for piece in pieces)
    taught = [piece.taught for piece in pieces for _ in piece.text]
    ids, offsets = tokenise(text)
    return list(ids), [any(taught[start:end]) for start, end in offsets]
