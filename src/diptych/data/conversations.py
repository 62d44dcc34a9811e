"""Conversations about pictures and videos: one form for all, and what rows of datasets become as one."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from diptych.errors import DataError

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")
MEDIA = ("image", "video")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Part:
    """A text, or the place of a picture or a video."""

    kind: Literal["text", "image", "video"]
    text: str = ""
    source: str = ""
    """Of media: the file it comes from, where it is known."""


@dataclass(frozen=True)
class Message:
    """What one side says in a turn."""

    role: Role
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, role: Role, *content: str | Part) -> Self:
        """Make a message of texts and parts."""
        return cls(role, tuple(Part("text", c) if isinstance(c, str) else c for c in content))

    @property
    def media(self) -> list[Part]:
        """The pictures and videos in it."""
        return [part for part in self.parts if part.kind in MEDIA]

    def text(self, medium: str) -> str:
        """Return the message as a text; each picture or video is `medium`."""
        return "".join(part.text if part.kind == "text" else medium for part in self.parts)


@dataclass(frozen=True)
class Conversation:
    """Turns of a system (at most one, the first), users and an assistant."""

    messages: tuple[Message, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else its record says (`id`)."""

    @property
    def media(self) -> list[Part]:
        """All pictures and videos, in their order."""
        return [part for message in self.messages for part in message.media]

    def asks(self, turns: int = 1) -> Self:
        """Return the beginning with only so many questions, the last one without its answer."""
        kept: list[Message] = []
        for message in self.messages:
            kept.append(message)
            turns -= message.role == "user"
            if message.role == "user" and not turns:
                break
        return type(self)(tuple(kept), self.facts)

    def blind(self) -> Self:
        """Return it without pictures and videos, for controls."""
        messages = tuple(
            Message(message.role, _stripped([part for part in message.parts if part.kind == "text"]))
            for message in self.messages
        )
        return type(self)(messages, self.facts)

    def to_json(self) -> dict[str, Any]:
        """Return it as `{"messages": [{"role", "content": [{"type", "text" or the file}]}]}`."""
        messages = [
            {
                "role": message.role,
                "content": [
                    {"type": "text", "text": part.text}
                    if part.kind == "text"
                    else {"type": part.kind, part.kind: part.source}
                    for part in message.parts
                ],
            }
            for message in self.messages
        ]
        return {**self.facts, "messages": messages}


def _stripped(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Return texts without the line break that stood behind a picture."""
    return tuple(Part(part.kind, part.text.lstrip("\n"), part.source) for part in parts)


def parse_conversation(record: Any) -> Conversation:
    """Read `{"messages": [{"role", "content"}]}`; content is a text, or a list of typed parts.

    A part is `{"type": "text", "text": ...}`, `{"type": "image", "image": file}` or the same with `video`;
    the file may be missing. Other fields of the record are kept as facts.

    Raises:
        DataError: anything else; the message says where.
    """
    if not isinstance(record, dict) or not isinstance(record.get("messages"), list):
        raise DataError(f"expected an object with a list `messages`, got {_shown(record)}")
    messages = tuple(_message(m, f"messages[{i}]") for i, m in enumerate(record["messages"]))
    facts = {name: value for name, value in record.items() if name != "messages"}
    return checked(Conversation(messages, facts))


def checked(conversation: Conversation) -> Conversation:
    """Return a conversation whose turns come in order.

    Raises:
        DataError: no user speaks first (behind the system), two of one role follow each other, or an answer
            holds a picture.
    """
    roles = [message.role for message in conversation.messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if not turns or turns[0] != "user":
        raise DataError(f"expected a user's message first (a system's may stand before it), got {roles[:3]}")
    if "system" in turns:
        raise DataError("a system's message may only be the first")
    twice = next((i for i, (a, b) in enumerate(itertools.pairwise(turns)) if a == b), None)
    if twice is not None:
        raise DataError(f"messages {twice} and {twice + 1} are both the {turns[twice]}'s; expected turns")
    for i, message in enumerate(conversation.messages):
        if message.role != "user" and message.media:
            raise DataError(f"messages[{i}]: a picture or video in the {message.role}'s message")
    return conversation


def _message(found: Any, where: str) -> Message:
    match found:
        case {"role": role, "content": content} if role in ROLES:
            if isinstance(content, str):
                return Message(role, (Part("text", content),))
            if isinstance(content, list):
                return Message(role, tuple(_part(p, f"{where}.content[{i}]") for i, p in enumerate(content)))
    raise DataError(
        f"{where}: expected an object with `role` ({', '.join(ROLES)}) and `content`, got {_shown(found)}"
    )


def _part(found: Any, where: str) -> Part:
    match found:
        case {"type": "text", "text": str(text)}:
            return Part("text", text)
        case {"type": "image" | "video" as kind}:
            source = found.get(kind, "")
            if isinstance(source, str):
                return Part(kind, source=source)
    raise DataError(
        f"{where}: expected a text, an image or a video ({{'type': 'text', 'text': ...}}), got "
        f"{_shown(found)}"
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


@dataclass(frozen=True)
class Wording:
    """How rows of datasets are put into words."""

    system: str = ""
    """What the system says first; empty: nothing."""
    short: str = ""
    """Behind questions that have one short answer."""
    caption: str = "Describe the picture."
    choice: str = "Answer with the letter."
    """Behind the options of a choice."""


def about(question: str, answer: str, wording: Wording, media: Sequence[str] = ("image",)) -> Conversation:
    """Return one turn: media, a question, an answer (empty: none yet)."""
    return with_turns([(question, answer)], wording, media)


def with_turns(
    turns: Sequence[tuple[str, str]], wording: Wording, media: Sequence[str] = ("image",)
) -> Conversation:
    """Return a conversation of questions with their answers; the media stand before the first question."""
    messages = [Message.of("system", wording.system)] if wording.system else []
    for i, (question, answer) in enumerate(turns):
        shown = [Part(kind) for kind in media] if i == 0 else []  # type: ignore[arg-type]
        # A line break, so that the first word is the token it always is.
        content: list[str | Part] = [*shown, f"\n{question}" if shown else question]
        messages.append(Message.of("user", *content))
        if answer:
            messages.append(Message.of("assistant", answer))
    return Conversation(tuple(messages))


def question_turn(entry: Mapping[str, Any], wording: Wording) -> tuple[str, str]:
    """Return question and answer of an entry of `questions`; of several answers the most frequent."""
    question = str(entry.get("question", "")).strip()
    return f"{question} {wording.short}".strip(), best_answer(entry)


def best_answer(entry: Mapping[str, Any]) -> str:
    """Return the answer to train of an entry of `questions`; empty where owners keep it back."""
    answers = entry.get("answers")
    if isinstance(answers, list) and answers:
        texts = [a.get("answer", "") if isinstance(a, dict) else str(a) for a in answers]
        return max(dict.fromkeys(texts), key=texts.count)
    if isinstance(answers, dict) and answers:
        return str(max(answers, key=lambda answer: answers[answer]))
    return str(entry.get("answer") or "")


def choice_turn(entry: Mapping[str, Any], wording: Wording) -> tuple[str, str]:
    """Return a question with lettered options, and the letter of the right one."""
    options = [f"({LETTERS[i]}) {text}" for i, text in enumerate(entry.get("options", []))]
    asked = "\n".join(filter(None, [str(entry.get("question", "")).strip(), *options, wording.choice]))
    answer = entry.get("answer")
    return asked, f"({LETTERS[answer]})" if isinstance(answer, int) else ""


def walk_turns(conversation: Conversation) -> Iterator[tuple[str, str]]:
    """Yield what users say with what the assistant answers (empty where it does not)."""
    waiting: str | None = None
    for message in conversation.messages:
        if message.role == "user":
            if waiting is not None:
                yield waiting, ""
            waiting = message.text("").strip()
        elif message.role == "assistant" and waiting is not None:
            yield waiting, message.text("").strip()
            waiting = None
    if waiting is not None:
        yield waiting, ""
