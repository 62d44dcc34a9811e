"""A conversation with a trained model: pictures and videos, questions in turn, answers word by word."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from diptych.data.batch import Batch
from diptych.data.chat_media import Medium, joined, media_of
from diptych.data.config import DataConfig
from diptych.data.conversations import Conversation, Message, Part, walk_turns
from diptych.data.pictures import Picture
from diptych.errors import UsageError
from diptych.systems.mllm.generation import GenerationConfig, generate
from diptych.systems.mllm.rows import lay_out, move
from diptych.tasks.instruct import InstructTask

_UNFINISHED = "\ufffd"
"""What a tokenizer shows of a letter whose last bytes are in tokens to come."""


class Chat:
    """Turns of one conversation. Every question is asked with all that was said before.

    Attributes:
        conversation: what was said so far.
        settings: how answers are generated.
    """

    def __init__(
        self,
        task: InstructTask,
        data: DataConfig,
        pictures: Sequence[Picture] = (),
        *,
        system: str = "",
        settings: GenerationConfig | None = None,
        frames: int = 0,
    ) -> None:
        """Begin; the pictures and videos stand before the first question.

        Args:
            task: on its device, in eval mode.
            data: the settings that it was trained with.
            pictures: paths, bytes, PIL pictures or arrays.
            system: what the system says first; empty: what it said in training.
            settings: of generation; None: at most 256 tokens, the best word each time.
            frames: of videos; 0: as many as in training, or 8.

        Raises:
            DataError: a picture that cannot be read.
        """
        self._task, self._data, self._frames = task, data, frames
        told = system or task.config.system_text
        self.conversation = Conversation((Message.of("system", told),) if told else ())
        self.settings = settings or GenerationConfig(max_new_tokens=256)
        self._media: list[Medium] = []
        self._waiting = media_of(pictures, data, frames)

    def show(self, *pictures: Picture) -> "Chat":
        """Put more pictures or videos before the next question; return this conversation.

        Raises:
            DataError: one cannot be read.
        """
        self._waiting += media_of(pictures, self._data, self._frames)
        return self

    def ask(self, question: str) -> str:
        """Return the answer to a question.

        Raises:
            DataError: the question holds a special token, or all is longer than the model reads.
        """
        return "".join(self.stream(question))

    def stream(self, question: str) -> Iterator[str]:
        """Yield the answer to a question as it comes, in pieces of text; then it is part of the conversation.

        Raises:
            UsageError: the question is empty.
            DataError: as `ask`.
        """
        if not question.strip():
            raise UsageError("a question without words; ask something about the picture")
        shown = [Part(medium.kind) for medium in self._waiting]
        asked = Message.of("user", *shown, f"\n{question}" if shown else question)
        media = [*self._media, *self._waiting]
        whole = replace(self.conversation, messages=(*self.conversation.messages, asked))
        said = ""
        for piece in self._pieces(whole, media):
            said += piece
            yield piece
        answered = (*whole.messages, Message.of("assistant", said.strip()))
        self.conversation = replace(whole, messages=answered)
        self._media, self._waiting = media, []

    @property
    def turns(self) -> list[tuple[str, str]]:
        """Questions with their answers."""
        return list(walk_turns(self.conversation))

    def _pieces(self, whole: Conversation, media: Sequence[Medium]) -> Iterator[str]:
        task, tokenizer = self._task, self._task.tokenizer
        encoded, pictures = task.encode(_batch(media), [whole], answer=True)
        laid = move(lay_out(encoded, tokenizer.pad_id, tokenizer.picture_id, left=True), task.device)
        with torch.inference_mode():
            tokens = task.see(pictures, laid.order)
            steps = generate(task.network, laid.rows, tokens, self.settings, [tokenizer.eos_id])
        ids: list[int] = []
        shown = ""
        for step in steps:
            ids.append(int(step[0]))
            text = tokenizer.decode([i for i in ids if i not in tokenizer.special_ids])
            if not text.endswith(_UNFINISHED) and len(text) > len(shown):
                yield text[len(shown) :]
                shown = text


def _batch(media: Sequence[Medium]) -> Batch:
    """Return one row that shows all media."""
    views, grids = joined(media)
    none = torch.zeros(1, dtype=torch.int64)
    images = None if views is None else views[None]
    counts = [len(medium.grids) for medium in media]
    extra = {} if views is None else {"grids": [grids], "media": [counts]}
    return Batch(keys=["0"], positions=none, match_ids=none, images=images, extra=extra)
