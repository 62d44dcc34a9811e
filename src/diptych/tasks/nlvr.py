"""Reasoning over two pictures: is a statement about them true?

For any system that fuses both modalities. Legend: B statements, L text tokens, S sequence, D width.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from diptych.data.batch import Batch
from diptych.data.text import Tokenizer
from diptych.errors import UsageError
from diptych.objectives.answers import AnswerHead, class_loss
from diptych.objectives.two_pictures import CLASSES, PairedAttentionHead
from diptych.systems.protocol import Fused, VisionLanguageModel, Visual, join_visuals
from diptych.systems.task import EvalData, Evaluation, Loss, StepContext, Task, TaskConfig
from diptych.tasks.fused import embed_pictures, visible_text
from diptych.tasks.nlvr_config import NlvrConfig
from diptych.tasks.nlvr_results import evaluate_nlvr, label_of

HEAD_WIDTH = 64
"""Channels of an attention head, as in both published sizes, where the model has no number of heads."""


class NlvrTask(Task):
    """Two passes, one with each picture, and a classifier over both."""

    name: ClassVar[str] = "nlvr"
    config_class: ClassVar[type[TaskConfig]] = NlvrConfig
    batch_fields: ClassVar[frozenset[str]] = frozenset({"images", "text_ids", "text_mask"})
    examples: ClassVar[str] = "statements"
    config: NlvrConfig
    nlvr: AnswerHead | PairedAttentionHead

    def __init__(self, model: VisionLanguageModel, config: NlvrConfig, tokenizer: Tokenizer) -> None:
        super().__init__(model, config, tokenizer)
        width = model.width
        if config.interaction == "plain":
            self.nlvr = AnswerHead(2 * width, 2 * width, CLASSES)
        else:
            self.nlvr = PairedAttentionHead(width, _heads(model, config), config.dropout)

    @classmethod
    def needs(cls, config: TaskConfig) -> frozenset[str]:
        """Return `fuse`."""
        return frozenset({"fuse"})

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.nlvr.classifier.weight.device

    def read(self, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        """Return logits [B, 2] float32 (class 1: true), and the balance loss of each pass (or none)."""
        assert batch.images is not None  # the engine checks `batch_fields`
        assert batch.text_ids is not None
        assert batch.text_mask is not None
        if batch.images.dim() != 5 or batch.images.shape[1] != 2:
            raise UsageError(
                f"task nlvr reads two pictures a statement, [B, 2, 3, H, W], but got "
                f"{list(batch.images.shape)}; set data.examples=statements"
            )
        blind = self.config.blind
        text = visible_text(batch.text_ids, batch.text_mask, self.tokenizer, blind)
        sizes = batch.image_sizes
        pictures = [
            embed_pictures(self.model, batch.images[:, i], blind, None if sizes is None else sizes[:, i])
            for i in (0, 1)
        ]
        first, second = self._passes(pictures, *text)
        routing = [f.aux["routing"] for f in (first, second) if "routing" in f.aux]
        if isinstance(self.nlvr, AnswerHead):
            return self.nlvr(torch.cat([first.pooled, second.pooled], 1)), routing
        states = [torch.cat([f.visual, f.text], 1) for f in (first, second)]
        masks = [torch.cat([f.visual_mask, f.text_mask], 1) for f in (first, second)]
        return self.nlvr(states[0], states[1], (masks[0], masks[1])), routing

    def _passes(self, pictures: list[Tensor | Visual], ids: Tensor, mask: Tensor) -> list[Fused]:
        if self.config.passes == "separate":
            return [self.model.fuse(picture, ids, mask) for picture in pictures]
        both = self.model.fuse(join_visuals(pictures), torch.cat([ids, ids]), torch.cat([mask, mask]))
        halves = [slice(None, len(ids)), slice(len(ids), None)]
        return [
            Fused(
                both.visual[half],
                both.text[half],
                both.pooled[half],
                both.visual_mask[half],
                both.text_mask[half],
                both.aux,
            )
            for half in halves
        ]

    def labels(self, batch: Batch) -> Tensor:
        """Return which statements are true, [B] int64.

        Raises:
            UsageError: statements without a label cannot be trained on.
        """
        labels = [label_of(entry) for entry in statements_of(batch)]
        unknown = [key for key, label in zip(batch.keys, labels, strict=True) if label is None]
        if unknown:
            raise UsageError(
                f"task nlvr: the statements of sample '{unknown[0]}' have no `label` (true or false); train"
                " on a split that has labels (data.split)"
            )
        return torch.tensor([int(bool(label)) for label in labels], device=self.device)

    def compute_loss(self, batch: Batch, context: StepContext) -> Loss:
        """Return cross-entropy + routing loss; parts `nlvr` and `routing`."""
        world = context.world
        labels = self.labels(batch)
        logits, routing = self.read(batch)
        parts = {"nlvr": class_loss(logits, labels, world)}
        if routing:
            parts["routing"] = self.config.gate_weight * torch.stack(routing).mean()
        right = (logits.detach().argmax(1) == labels).float().sum()
        metrics = {"accuracy": world.mean(right, len(labels))}
        return Loss(torch.stack(list(parts.values())).sum(), parts, metrics)

    def evaluate(self, data: EvalData, progress: Callable[[str, int, int], None]) -> Evaluation:
        """Judge every statement of a split; see `docs/evaluation.md` for the rules."""
        return evaluate_nlvr(self, data, progress)


def statements_of(batch: Batch) -> list[dict[str, Any]]:
    """Return the entry of each statement of a batch.

    Raises:
        UsageError: the rows of the batch are no statements.
    """
    found: list[dict[str, Any]] | None = batch.extra.get("statements")
    if found is None or any(entry is None for entry in found):
        raise UsageError("task nlvr trains on statements; set data.examples=statements")
    return found


def _heads(model: VisionLanguageModel, config: NlvrConfig) -> int:
    """Return the attention heads of the paired attention.

    Raises:
        UsageError: they do not divide the width.
    """
    heads = config.heads or model.heads or max(1, model.width // HEAD_WIDTH)
    if model.width % heads:
        raise UsageError(
            f"task.heads: {heads} attention heads do not divide the model's width {model.width}; set another "
            "number"
        )
    return heads
