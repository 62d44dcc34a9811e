"""Instruction tuning: what an assistant says in conversations about pictures is learned, token by token.

For systems that converse (`mllm`). Conversations come from the data (`conversations`), or are made of
questions, captions and choices. Legend: B samples, T tokens of pictures, R rows, L tokens of a row, V words.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from diptych.data.batch import Batch
from diptych.data.chat import ChatTokenizer, Encoded
from diptych.data.conversations import Conversation, Wording
from diptych.data.text import Tokenizer
from diptych.errors import ConfigError, DataError
from diptych.systems.mllm.generation import GenerationConfig, generate
from diptych.systems.mllm.model import MllmModel
from diptych.systems.mllm.rows import cut, lay_out, move
from diptych.systems.protocol import VisionLanguageModel
from diptych.systems.task import EvalData, Evaluation, Loss, StepContext, Task, TaskConfig
from diptych.tasks.instruct_data import FACTS, conversations_of, frames_of, pictures_of
from diptych.tasks.instruct_queries import ASSET, QueryTexts, find_words, instruction_of
from diptych.tasks.instruct_results import evaluate_instruct

if TYPE_CHECKING:
    from diptych.data.selection import Selection

Blind = Literal["none", "image"]


class WordingConfig(TaskConfig):
    """Settings shared by tasks that put rows of datasets into conversations."""

    system_text: str = Field("", description="What the system says first; empty: nothing.")
    short: str = Field("", description="Words behind questions that have one short answer.")
    caption: str = Field("Describe the picture.", description="What is asked where captions are answers.")
    choice: str = Field("Answer with the letter.", description="Words behind the options of a choice.")

    @property
    def wording(self) -> Wording:
        """The texts."""
        return Wording(self.system_text, self.short, self.caption, self.choice)


class InstructConfig(WordingConfig):
    """Settings of instruction tuning."""

    name: Literal["instruct"] = "instruct"
    turns: int = Field(
        1,
        ge=0,
        description="Rows of samples with several questions: so many of them, drawn anew each time, are one "
        "conversation; 0: all.",
    )
    max_tokens: int = Field(
        1024, ge=8, description="Conversations are cut to so many tokens, those of pictures included."
    )
    pack: bool = Field(
        False,
        description="Put several conversations into a row of `max_tokens`; none sees another, positions "
        "start anew.",
    )
    blind: Blind = Field("none", description="Control: `image` takes the pictures out of the conversations.")
    ask_queries: bool = Field(
        False,
        description="With `system.connector.kind=qformer`: show the Q-Former the system's text and the first "
        "question, so that its queries know what to look for (VideoChat2, stage 3).",
    )
    query_words: str = Field(
        "",
        description="The Q-Former's tokenizer (BERT's vocabulary), kept with the run; empty: that of "
        "`init_from`, else the language model's.",
    )
    query_tokens: int = Field(512, ge=2, description="What the Q-Former reads is cut to so many tokens.")
    answer: GenerationConfig = Field(
        GenerationConfig(max_new_tokens=16), description="How answers are generated in evaluations."
    )

    @property
    def evaluated(self) -> str:
        """Name that an evaluation goes by; that of the control is another."""
        return self.name if self.blind == "none" else f"{self.name}-blind"


class InstructTask(Task):
    """Next-token prediction of the assistant's turns; evaluation by generated answers."""

    name: ClassVar[str] = "instruct"
    config_class: ClassVar[type[TaskConfig]] = InstructConfig
    batch_fields: ClassVar[frozenset[str]] = frozenset()
    examples: ClassVar[str] = "any"
    facts: ClassVar[tuple[str, ...]] = FACTS
    config: InstructConfig
    model: VisionLanguageModel
    tokenizer: ChatTokenizer

    def __init__(
        self,
        model: VisionLanguageModel,
        config: InstructConfig,
        tokenizer: Tokenizer,
        assets: Mapping[str, Any] | None = None,
    ) -> None:
        """Take a model that converses; a tokenizer without a chat template gets one.

        Raises:
            ConfigError: the tokenizer has more tokens than the model's table of words.
        """
        chat = tokenizer if isinstance(tokenizer, ChatTokenizer) else ChatTokenizer.around(tokenizer)
        if chat.vocab_size > model.text_spec.vocab_size:
            raise ConfigError(
                f"the chat tokenizer has {chat.vocab_size} tokens, but system.language has room for "
                f"{model.text_spec.vocab_size}; raise system.language.settings.vocab_size"
            )
        super().__init__(model, config, chat)
        self._query_words = (assets or {}).get(ASSET)
        self.queries: QueryTexts | None = None
        if config.ask_queries:
            self.queries = QueryTexts(self._query_words, chat, self.network, config.query_tokens)

    @classmethod
    def find_assets(
        cls, config: TaskConfig, sources: "Sequence[tuple[str, Selection]]", init: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the Q-Former's tokenizer: `task.query_words`, or that of the model it starts from."""
        assert isinstance(config, InstructConfig)
        return find_words(config.query_words, init)

    @classmethod
    def create(
        cls, model: VisionLanguageModel, config: TaskConfig, tokenizer: Tokenizer, assets: Mapping[str, Any]
    ) -> Self:
        """Build the task with its assets."""
        assert isinstance(config, InstructConfig)
        return cls(model, config, tokenizer, assets)

    @classmethod
    def needs(cls, config: TaskConfig) -> frozenset[str]:
        """Return `converse`."""
        return frozenset({"converse"})

    @property
    def network(self) -> MllmModel:
        """The model, as what it is."""
        return cast(MllmModel, self.model)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def compute_loss(self, batch: Batch, context: StepContext) -> Loss:
        """Return the mean over all learned tokens of the (global) batch; part `next_token`."""
        chats = conversations_of(batch, self.config.wording, self.config.turns, context.draws)
        loss, right, count = self.predict(batch, chats)
        world = context.world
        part = world.mean(loss, count)
        metrics = {"token_accuracy": world.mean(right.float(), count)}
        return Loss(part, {"next_token": part}, metrics)

    def predict(self, batch: Batch, chats: Sequence[Conversation]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the summed losses of all learned tokens, how many are foretold rightly, and their number."""
        encoded, pictures = self.encode(batch, chats)
        length = self.config.max_tokens if self.config.pack else 0
        laid = lay_out(encoded, self.tokenizer.pad_id, self.tokenizer.picture_id, length=length)
        laid = move(laid, self.device)
        states = self.network.read(laid.rows, self.see(pictures, laid.order))
        learned = laid.targets != -100
        # Only learned tokens go through the table of words: with a small model it is most of the work.
        scores = self.network.language.scores(states[learned])
        wanted = laid.targets[learned]
        loss = F.cross_entropy(scores, wanted, reduction="sum")
        return loss, (scores.argmax(1) == wanted).sum(), learned.sum()

    def encode(
        self, batch: Batch, chats: Sequence[Conversation], *, answer: bool = False, begun: str = ""
    ) -> tuple[list[Encoded], "list[Any]"]:
        """Return the conversations as tokens, and the pictures of each.

        Args:
            batch: B samples.
            chats: [B] what is said about each.
            answer: they wait for an answer.
            begun: what the answer begins with.
        """
        pictures: list[Any] = pictures_of(batch)
        encoded = []
        for i, chat in enumerate(chats):
            if self.config.blind == "image":
                chat, pictures[i] = chat.blind(), None
            counts = []
            if pictures[i] is not None:
                frames = pictures[i].frames or frames_of(chat, pictures[i].grids)
                counts = self.network.places(pictures[i].grids, frames)
                asked = self.instruction(chat) if self.queries else ""
                pictures[i] = replace(pictures[i], frames=frames, asked=asked)
            found = self.tokenizer.encode_chat(chat, counts, answer=answer, begun=begun)
            most = self.model.text_spec.max_tokens
            if answer and len(found.ids) >= most:
                raise DataError(
                    f"a conversation of {len(found.ids)} tokens waits for an answer, but the language model "
                    f"reads {most} in all; begin a new one, or show fewer or smaller pictures"
                )
            # What waits for an answer is never cut: its end is the question.
            limit = 0 if answer else self.config.max_tokens
            encoded.append(cut(found, limit, self.tokenizer.picture_id))
        return encoded, pictures

    def instruction(self, chat: Conversation) -> str:
        """Return what the Q-Former is told of a conversation."""
        return instruction_of(chat)

    def see(self, pictures: "Sequence[Any]", order: Sequence[int]) -> Tensor | None:
        """Return the tokens of all pictures, in the order of the rows."""
        shown = [pictures[i] for i in order if pictures[i] is not None]
        if not self.network.anyone_sees(bool(shown)):
            return None
        if not shown:
            return self.network.see_nothing(self.queries.ask([""], self.device) if self.queries else None)
        views = torch.cat([found.views for found in shown]).to(self.device)
        grids = [grid for found in shown for grid in found.grids]
        frames = [count for found in shown for count in found.frames]
        asked = None
        if self.queries is not None:
            texts = [found.asked for found in shown for _ in found.frames]
            asked = self.queries.ask(texts, self.device)
        return self.network.see(views, grids, frames, asked)

    @torch.inference_mode()
    def answers(
        self,
        batch: Batch,
        chats: Sequence[Conversation],
        settings: GenerationConfig | None = None,
        *,
        begun: str = "",
    ) -> list[str]:
        """Return the assistant's next words in each conversation, [B].

        Answers are made to begin with `begun`, which is not returned.
        """
        encoded, pictures = self.encode(batch, chats, answer=True, begun=begun)
        laid = lay_out(encoded, self.tokenizer.pad_id, self.tokenizer.picture_id, left=True)
        laid = move(laid, self.device)
        tokens = self.see(pictures, laid.order)
        stop = [self.tokenizer.eos_id]
        steps = list(generate(self.network, laid.rows, tokens, settings or self.config.answer, stop))
        return [self.tokenizer.decode_answer(row) for row in torch.stack(steps, 1).tolist()]

    def assets(self) -> dict[str, Any]:
        """Return the Q-Former's tokenizer, where it has one of its own."""
        return {} if self._query_words is None else {ASSET: self._query_words}

    def evaluate(self, data: EvalData, progress: Callable[[str, int, int], None]) -> Evaluation:
        """Answer every question of a split, or measure how well answers in conversations are foretold."""
        return evaluate_instruct(self, data, progress)
