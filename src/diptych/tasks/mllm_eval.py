"""Evaluation of multimodal language models as benchmarks do it: MVBench, ChartQA, short answers, captions.

For systems that converse (`mllm`). Training is that of `instruct`, so a model trained there can be evaluated
here: `diptych eval RUN task.name=mllm_eval task.kind=choices`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from diptych.data.batch import Batch
from diptych.data.conversations import (
    Conversation,
    Message,
    Part,
    choice_turn,
    question_turn,
    with_turns,
)
from diptych.errors import DataError
from diptych.metrics.short_answers import option_line
from diptych.systems.task import EvalData, Evaluation, TaskConfig
from diptych.tasks.instruct import InstructTask
from diptych.tasks.instruct_data import media_of
from diptych.tasks.mllm_eval_config import MllmEvalConfig
from diptych.tasks.mllm_eval_results import evaluate_choices, evaluate_mllm_captions, evaluate_short

STOP = "###"
"""What ends a turn of VideoChat2's models: answers are cut there."""
ONLY = "Only give the best option."


class MllmEvalTask(InstructTask):
    """Generated answers, scored by the rules of benchmarks."""

    name: ClassVar[str] = "mllm_eval"
    config_class: ClassVar[type[TaskConfig]] = MllmEvalConfig
    facts: ClassVar[tuple[str, ...]] = ("conversations", "questions", "choices")
    config: MllmEvalConfig

    def choice_chat(self, entry: Mapping[str, Any], media: Sequence[str]) -> Conversation:
        """Return the conversation that asks a question with options."""
        if self.config.prompt == "letters":
            wording = self.config.wording
            return with_turns([(choice_turn(entry, wording)[0], "")], wording, media)
        told = self.config.choice_system
        options = [option_line(i, str(text)) for i, text in enumerate(entry["options"])]
        asked = [f"Question: {str(entry.get('question', '')).strip()}", "Options:", *options, ONLY]
        text = "\n".join(filter(None, [told, *asked]))
        shown = [Part(kind) for kind in media]  # type: ignore[arg-type]
        user = Message.of("user", *shown, f"\n{text}" if shown else text)
        return Conversation((Message.of("system", told), user) if told else (user,))

    def short_chat(self, entry: Mapping[str, Any], media: Sequence[str]) -> Conversation:
        """Return the conversation that asks a question with a short answer."""
        wording = self.config.wording
        return with_turns([(question_turn(entry, wording)[0], "")], wording, media)

    def caption_chat(self, media: Sequence[str]) -> Conversation:
        """Return the conversation that asks for a caption."""
        return with_turns([(self.config.caption, "")], self.config.wording, media)

    def instruction(self, chat: Conversation) -> str:
        """Return what the Q-Former reads."""
        if self.config.query_about == "system" and chat.messages[0].role == "system":
            return chat.messages[0].text("").strip()
        return super().instruction(chat)

    def choose(self, batch: Batch, entries: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return what is said to questions with options, [B], with the forced bracket in front."""
        media, mvbench = media_of(batch), self.config.prompt == "mvbench"
        begun = self.config.begin if mvbench else ""
        found = self.answers(batch, [self.choice_chat(entry, media) for entry in entries], begun=begun)
        front = "(" if begun.endswith("(") else ""
        return [f"{front}{first_line(text)}" for text in found]

    def reply(self, batch: Batch, entries: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return short answers to questions, [B]."""
        media = media_of(batch)
        found = self.answers(batch, [self.short_chat(entry, media) for entry in entries])
        return [first_line(text) for text in found]

    def describe(self, batch: Batch) -> list[str]:
        """Return captions, [B]."""
        chats = [self.caption_chat(media_of(batch))] * len(batch)
        return [" ".join(cut_answer(text).split()) for text in self.answers(batch, chats)]

    def evaluate(self, data: EvalData, progress: Callable[[str, int, int], None]) -> Evaluation:
        """Answer and score what `task.kind` says; see `docs/systems/videochat2.md` for the rules."""
        if self.config.kind == "choices":
            return evaluate_choices(self, data, progress)
        if self.config.kind == "short":
            return evaluate_short(self, data, progress)
        return evaluate_mllm_captions(self, data, progress)


def cut_answer(text: str) -> str:
    """Return an answer without what follows VideoChat2's end of a turn, or leads up to the answer."""
    return text.partition(STOP)[0].rpartition("Assistant:")[2].strip()


def first_line(text: str) -> str:
    """Return the first line of an answer."""
    return (cut_answer(text).splitlines() or [""])[0].strip()


def entries_of(batch: Batch, *, options: bool) -> list[tuple[int, Mapping[str, Any]]]:
    """Return the questions of a batch with the rows that they belong to.

    Args:
        batch: rows are samples with `choices` or `questions`, or one of these each.
        options: whether questions with options are wanted.

    Raises:
        DataError: a question without options where they are wanted.
    """
    found: list[tuple[int, Mapping[str, Any]]] = []
    for name in ("choices", "questions"):
        for i, value in enumerate(batch.extra.get(name) or ()):
            entries = value if isinstance(value, list) else [value] if value else []
            found += [(i, entry) for entry in entries]
        if found:
            break
    if options and (bare := next((e for _, e in found if not e.get("options")), None)) is not None:
        raise DataError(f"a question without options: {bare}; set task.kind=short for it")
    return sorted(found, key=lambda pair: pair[0])
