"""Visual question answering: choose the answer to a question about a picture from a list.

For any system that fuses both modalities. Legend: B questions, A answers, L text tokens, D width.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.blocks.collective import ALONE, World
from diptych.data.batch import Batch
from diptych.data.text import Tokenizer
from diptych.errors import UsageError
from diptych.objectives.answers import (
    AnswerHead,
    DropoutAnswerHead,
    LinearAnswerHead,
    answer_loss,
    competing_answer_loss,
)
from diptych.systems.protocol import Fused, VisionLanguageModel
from diptych.systems.target_sets import Targets
from diptych.systems.task import EvalData, Evaluation, Loss, StepContext, Task, TaskConfig
from diptych.tasks.fused import embed_batch, visible_text
from diptych.tasks.vqa_answers import Answers, checked_answers, frequent_answers, read_answers
from diptych.tasks.vqa_config import VqaConfig
from diptych.tasks.vqa_results import evaluate_vqa

if TYPE_CHECKING:
    from diptych.data.selection import Selection

ASSET = "answers"
"""Name of the list of answers among the task's assets."""


class VqaTask(Task):
    """Training with soft scores, evaluation by the official accuracy."""

    name: ClassVar[str] = "vqa"
    config_class: ClassVar[type[TaskConfig]] = VqaConfig
    batch_fields: ClassVar[frozenset[str]] = frozenset({"images", "text_ids", "text_mask"})
    examples: ClassVar[str] = "questions"
    config: VqaConfig

    def __init__(
        self, model: VisionLanguageModel, config: VqaConfig, tokenizer: Tokenizer, answers: Sequence[str]
    ) -> None:
        super().__init__(model, config, tokenizer)
        self.answers = Answers(answers)
        self.vqa: AnswerHead | DropoutAnswerHead | LinearAnswerHead | None = None
        self.answer_targets: Targets | None = None
        if config.head == "likelihood":
            limit = model.text_spec.max_tokens
            self.answer_targets = Targets.of_names(
                [[name] for name in answers], tokenizer, "answers", limit=limit
            )
            return
        if config.head == "dropout":
            self.vqa = DropoutAnswerHead(model.width, 4 * model.width, len(self.answers))
        elif config.head == "linear":
            self.vqa = LinearAnswerHead(model.width, len(self.answers))
        else:
            self.vqa = AnswerHead(model.width, 2 * model.width, len(self.answers))
        nn.init.constant_(self.vqa.classifier.bias, config.answer_bias)

    @classmethod
    def needs(cls, config: TaskConfig) -> frozenset[str]:
        """Return `fuse`, and `likelihood` for that head."""
        assert isinstance(config, VqaConfig)
        return frozenset({"fuse", "likelihood"} if config.head == "likelihood" else {"fuse"})

    @classmethod
    def find_assets(
        cls, config: TaskConfig, sources: "Sequence[tuple[str, Selection]]", init: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the list of answers, from where `task.answers` says."""
        assert isinstance(config, VqaConfig)
        if config.answers != "auto":
            return {ASSET: read_answers(config.answers)}
        if ASSET in init:
            return {ASSET: checked_answers(init[ASSET], "the answers of init_from")}
        selections = [selection for _, selection in sources]
        named = [selection.dataset.info.get("facts", {}).get(ASSET) for selection in selections]
        first = next((names for names in named if names), None)
        if first is not None:
            return {ASSET: checked_answers(first, "the answers that the dataset names")}
        return {ASSET: frequent_answers(_entries(selections), config.answer_count)}

    @classmethod
    def create(
        cls,
        model: VisionLanguageModel,
        config: TaskConfig,
        tokenizer: Tokenizer,
        assets: Mapping[str, Any],
    ) -> Self:
        """Build the task with the answers of its assets.

        Raises:
            UsageError: there are none.
        """
        assert isinstance(config, VqaConfig)
        if ASSET not in assets and config.answers == "auto":
            raise UsageError("task vqa: the list of answers is missing (assets.json); set task.answers")
        answers = assets[ASSET] if ASSET in assets else read_answers(config.answers)
        return cls(model, config, tokenizer, checked_answers(answers, "the answers of the model"))

    def assets(self) -> dict[str, Any]:
        """Return the list of answers."""
        return {ASSET: self.answers.names}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def fuse(self, batch: Batch) -> Fused:
        """Read pictures [B, 3, H, W] and questions [B, L] together."""
        assert batch.text_ids is not None  # the engine checks `batch_fields`
        assert batch.text_mask is not None
        blind = self.config.blind
        ids, mask = visible_text(batch.text_ids, batch.text_mask, self.tokenizer, blind)
        if self.answer_targets is not None:
            ids, mask = with_slot(ids, mask, self.tokenizer)
        visual = embed_batch(self.model, batch, blind, share=self.config.share_pictures)
        return self.model.fuse(visual, ids, mask)

    def logits(self, batch: Batch) -> Tensor:
        """Return a score for each answer, [B, A] float32."""
        return self.scores(self.fuse(batch))

    def scores(self, fused: Fused, world: World = ALONE) -> Tensor:
        """Return a score for each answer [B, A] of pictures and questions that were read together.

        Args:
            fused: what `fuse` returned.
            world: the ranks that share a step, and the encoding of answers.
        """
        if self.vqa is not None:
            found: Tensor = self.vqa(fused.pooled)
            return found
        assert self.answer_targets is not None
        # The slot stands in front of the end token, the last one that is no padding.
        slots = fused.text_mask[:, -fused.text.shape[1] :].sum(1) - 2
        states = fused.text[torch.arange(len(slots), device=slots.device), slots]
        return self.model.compare(states, self.answer_targets.features(self.model, world), "downstream")

    def probabilities(self, logits: Tensor) -> Tensor:
        """Turn logits [B, A] into how right each answer is, 0 to 1, as the loss takes them."""
        return logits.softmax(1) if self.config.loss == "softmax" else logits.sigmoid()

    def targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return soft targets [B, A] and which questions count [B] bool: those with an answer in the list.

        With `task.unanswerable=count` all do.
        """
        targets = self.answers.targets(questions_of(batch)).to(self.device, non_blocking=True)
        answerable = targets.sum(1) > 0
        return targets, answerable if self.config.unanswerable == "skip" else torch.ones_like(answerable)

    def compute_loss(self, batch: Batch, context: StepContext) -> Loss:
        """Return the loss; parts `vqa` and, if it is trained, `routing`.

        Questions none of whose answers is in the list are left out (published files of EVE have none), or
        by `task.unanswerable` have all answers wrong.
        """
        world = context.world
        targets, counted = self.targets(batch)
        fused = self.fuse(batch)
        logits = self.scores(fused, world)
        compute = competing_answer_loss if self.config.loss == "softmax" else answer_loss
        parts = {"vqa": compute(logits, targets, counted, world)}
        chosen = targets.gather(1, logits.detach().argmax(1, keepdim=True))[:, 0]
        metrics = {
            "accuracy": world.mean(chosen.masked_fill(~counted, 0.0).sum(), counted.sum()),
            "answerable": (targets.sum(1) > 0).float().mean(),
        }
        routing = fused.aux.get("routing")
        if routing is not None:
            weighted = self.config.gate_weight * routing
            (parts if self.config.add_gate_loss else metrics)["routing"] = (
                weighted if self.config.add_gate_loss else weighted.detach()
            )
        return Loss(torch.stack(list(parts.values())).sum(), parts, metrics)

    def evaluate(self, data: EvalData, progress: Callable[[str, int, int], None]) -> Evaluation:
        """Answer every question of a split; see `docs/evaluation.md` for the rules."""
        return evaluate_vqa(self, data, progress)


def with_slot(ids: Tensor, mask: Tensor, tokenizer: Tokenizer) -> tuple[Tensor, Tensor]:
    """Return texts [B, L + 1] with the slot in front of their end token, and their mask."""
    rows, ends = torch.arange(len(ids), device=ids.device), mask.sum(1) - 1
    longer = F.pad(ids, (0, 1), value=tokenizer.pad_id)
    longer[rows, ends], longer[rows, ends + 1] = tokenizer.mask_id, tokenizer.sep_id
    kept = F.pad(mask, (0, 1), value=False)
    kept[rows, ends + 1] = True
    return longer, kept


def questions_of(batch: Batch) -> list[dict[str, Any]]:
    """Return the entry of each question of a batch.

    Raises:
        UsageError: the rows of the batch are no questions.
    """
    found: list[dict[str, Any]] | None = batch.extra.get("questions")
    if found is None or any(entry is None for entry in found):
        raise UsageError("task vqa trains on questions; set data.examples=questions")
    return found


def _entries(selections: "Sequence[Selection]") -> Iterator[dict[str, Any]]:
    """Yield the questions of all sources; only their JSON is read."""
    from diptych.data.examples import all_entries

    for selection in selections:
        for entries in all_entries(selection, "questions"):
            yield from (entry for entry in entries if isinstance(entry, dict))
