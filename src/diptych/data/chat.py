"""Conversations as tokens: chat templates, room for pictures, and which tokens are learned.

Legend: L tokens of a conversation, n pictures.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import jinja2
import jinja2.sandbox
from tokenizers import Tokenizer as RawTokenizer

from diptych.data.chat_templates import TEMPLATES
from diptych.data.conversations import Conversation
from diptych.data.text import FILE_NAME, Tokenizer
from diptych.errors import DataError

PICTURE = "<|picture|>"
"""The token that stands where a token of a picture or a video will be. Its own embedding is never used."""
START, END = "<|im_start|>", "<|im_end|>"
"""Marks of turns of the template `chatml`."""
SETTINGS, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
"""Files beside tokenizer.json, as transformers writes them."""


@dataclass(frozen=True)
class Encoded:
    """A conversation as tokens."""

    ids: list[int]
    """L token ids; `PICTURE` at places of pictures."""
    learned: list[bool]
    """L: whether a token is to be predicted: what the assistant says and the end of its turn."""

    @property
    def targets(self) -> list[int]:
        """L token ids, -100 where nothing is learned."""
        return [i if learned else -100 for i, learned in zip(self.ids, self.learned, strict=True)]


class ChatTokenizer(Tokenizer):
    """The tokenizer of a chat model with its template, from a folder that transformers wrote.

    Attributes:
        picture_id: id of `PICTURE`, which is added behind the others.
        eos_id: the token that ends an answer.
    """

    def __init__(self, raw: RawTokenizer, settings: Mapping[str, Any], origin: str = "tokenizer") -> None:
        """Take the parsed tokenizer.json and the settings beside it, `chat_template` among them.

        Raises:
            DataError: no template, or one that cannot be parsed; special tokens that are missing.
        """
        raw.no_padding()
        raw.no_truncation()
        raw.add_special_tokens([PICTURE])
        self._raw, self._origin = raw, origin
        self._clip = None
        self.opens = False
        self.settings = dict(settings)
        self.eos_id = self._named("eos_token")
        self.pad_id = self._named("pad_token", self.eos_id)
        self.unk_id = self._named("unk_token", self.pad_id)
        self.cls_id = self._named("bos_token", self.eos_id)
        self.sep_id = self.mask_id = self.eos_id
        self.picture_id = self._id(PICTURE)
        self._template = _compiled(self._source(), origin)

    def _id(self, token: str) -> int:
        found = self._raw.token_to_id(token)
        assert found is not None  # it was added
        return found

    def _named(self, role: str, otherwise: int | None = None) -> int:
        told = self.settings.get(role)
        token = told.get("content") if isinstance(told, dict) else told
        found = self._raw.token_to_id(token) if isinstance(token, str) else None
        if found is None and otherwise is None:
            raise DataError(f"{self._origin}: {role} = {token!r} is no token of the vocabulary")
        return int(found if found is not None else otherwise or 0)

    def _source(self) -> str:
        source = self.settings.get("chat_template")
        if not isinstance(source, str):
            known = ", ".join(TEMPLATES)
            raise DataError(
                f"{self._origin}: the tokenizer has no chat template; set system.language.template to one "
                f"({known}, or Jinja text)"
            )
        return TEMPLATES.get(source, source)

    @classmethod
    def from_folder(cls, folder: Path, template: str = "") -> Self:
        """Read tokenizer.json with the settings beside it; `template` replaces the folder's own.

        Raises:
            DataError: a file is missing or damaged.
        """
        try:
            raw = RawTokenizer.from_str((folder / FILE_NAME).read_text(encoding="utf-8"))
            path = folder / SETTINGS
            settings = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            if (folder / TEMPLATE).exists():
                settings["chat_template"] = (folder / TEMPLATE).read_text(encoding="utf-8")
        except Exception as error:  # the Rust parser raises plain Exception for every kind of wrong content
            raise DataError(f"{folder}: no tokenizer of a chat model ({error})") from error
        if template:
            settings["chat_template"] = template
        return cls(raw, settings, str(folder))

    @classmethod
    def around(cls, tokenizer: Tokenizer, template: str = "chatml") -> Self:
        """Make a chat tokenizer of one without a template; the marks of turns become tokens of it."""
        raw = RawTokenizer.from_str(tokenizer.to_json())
        raw.add_special_tokens([START, END])
        names = {"bos_token": tokenizer.cls_id, "pad_token": tokenizer.pad_id, "unk_token": tokenizer.unk_id}
        settings = {role: raw.id_to_token(i) for role, i in names.items()}
        return cls(raw, {**settings, "eos_token": END, "chat_template": template})

    @classmethod
    def is_in(cls, folder: Path) -> bool:
        """Tell whether a folder holds the tokenizer of a chat model."""
        return (folder / FILE_NAME).exists() and (folder / SETTINGS).exists()

    def save(self, folder: str | Path) -> Path:
        """Write tokenizer.json, tokenizer_config.json and the template; return the first's path."""
        file = super().save(folder)
        settings = {name: value for name, value in self.settings.items() if name != "chat_template"}
        text = json.dumps(settings, indent=1, ensure_ascii=False)
        file.with_name(SETTINGS).write_text(text + "\n", encoding="utf-8")
        file.with_name(TEMPLATE).write_text(self._source(), encoding="utf-8")
        return file

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that stand for no text."""
        return frozenset((self.pad_id, self.cls_id, self.eos_id, self.picture_id))

    @functools.cached_property
    def _specials(self) -> list[str]:
        added = self._raw.get_added_tokens_decoder().values()
        return [token.content for token in added if token.special]

    def render(self, conversation: Conversation, *, answer: bool = False) -> str:
        """Return a conversation as the template writes it, `PICTURE` once for each picture.

        Args:
            conversation: the turns.
            answer: put the beginning of an assistant's turn behind them.
        """
        messages = [
            {"role": message.role, "content": message.text(PICTURE)} for message in conversation.messages
        ]
        return self._rendered(messages, answer=answer)

    def _rendered(self, messages: Sequence[Mapping[str, str]], *, answer: bool) -> str:
        names = {
            f"{role}_token": self._raw.id_to_token(i)
            for role, i in (("bos", self.cls_id), ("eos", self.eos_id))
        }
        try:
            return self._template.render(messages=messages, add_generation_prompt=answer, **names)
        except (jinja2.TemplateError, TypeError) as error:
            raise DataError(
                f"{self._origin}: the chat template refuses the conversation ({error})"
            ) from error

    def encode_chat(
        self, conversation: Conversation, counts: Sequence[int], *, answer: bool = False, begun: str = ""
    ) -> Encoded:
        """Return a conversation as tokens.

        Learned is what the assistant says with the mark that ends its turn; not the beginning of the turn,
        and nothing of others. All is one text to the tokenizer: tokens are told apart by the letters they
        stand for, so what is trained is what `answer=True` makes a model go on from.

        Args:
            conversation: the turns.
            counts: [n] tokens of each picture or video, in their order.
            answer: for generation: put the beginning of an assistant's turn behind it, and learn nothing.
            begun: with `answer`: what the answer begins with.

        Raises:
            DataError: another number of pictures, a text with special tokens in it, or a template whose
                beginning of a conversation changes with what follows.
        """
        self._check(conversation, counts)
        text = self.render(conversation, answer=answer) + begun
        spans = [] if answer else self._answers(conversation)
        found = self._raw.encode(text, add_special_tokens=False)
        sizes = iter(counts)
        ids: list[int] = []
        learned: list[bool] = []
        for token, (start, end) in zip(found.ids, found.offsets, strict=True):
            times = next(sizes) if token == self.picture_id else 1
            ids += [token] * times
            inside = any(start < last and end > first for first, last in spans)
            learned += [inside and token != self.picture_id] * times
        return Encoded(ids, learned)

    def _check(self, conversation: Conversation, counts: Sequence[int]) -> None:
        media = len(conversation.media)
        if media != len(counts):
            raise DataError(f"a conversation about {media} pictures or videos, but {len(counts)} are there")
        for message in conversation.messages:
            text = message.text("")
            token = next((token for token in self._specials if token in text), None)
            if token is not None:
                raise DataError(f"a text with the special token {token!r}: {text[:60]!r}; take it out")

    def _answers(self, conversation: Conversation) -> list[tuple[int, int]]:
        """Return first and last + 1 letter of what the assistant says, turn by turn."""
        messages = [
            {"role": message.role, "content": message.text(PICTURE)} for message in conversation.messages
        ]
        whole = self._rendered(messages, answer=False)
        spans = []
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._rendered(messages[:i], answer=True)
            after = self._rendered(messages[: i + 1], answer=False)
            if not (after.startswith(before) and whole.startswith(after[: len(before)])):
                raise DataError(
                    f"{self._origin}: the chat template writes the beginning of a conversation otherwise "
                    "when an answer follows; set system.language.template to one that does not"
                )
            spans.append((len(before), self._end(whole, after, before, message["content"])))
        return spans

    def _end(self, whole: str, after: str, before: str, content: str) -> int:
        """Return where an answer ends, its mark included; by the settings the last one reaches the end."""
        if len(after) == len(whole) and self.settings.get("learn_rest"):
            return len(whole)
        spoken = len(before) + len(content.strip())
        marks = [(after.find(token, spoken), token) for token in self._specials]
        ends = [place + len(token) for place, token in marks if place >= 0]
        return min(ends, default=len(after))

    def decode_answer(self, ids: Sequence[int]) -> str:
        """Return what was generated as text, without special tokens and spaces around it."""
        return self.decode([i for i in ids if i not in self.special_ids]).strip()

    def __getstate__(self) -> Any:
        return self.to_json(), self.settings

    def __setstate__(self, state: Any) -> None:
        ChatTokenizer.__init__(self, RawTokenizer.from_str(state[0]), state[1])


@functools.lru_cache(maxsize=16)
def _compiled(source: str, origin: str) -> jinja2.Template:
    """Compile a template as transformers does: blocks trimmed, in a sandbox."""

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = refuse
    environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    try:
        return environment.from_string(source)
    except jinja2.TemplateError as error:
        raise DataError(f"{origin}: the chat template cannot be read ({error})") from error
