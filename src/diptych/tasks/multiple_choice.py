"""Multiple choice: which of a few texts belongs to a picture or clip.

For any system that fuses both modalities, or encodes both. Legend: B pictures or clips, C options, L text
tokens, n parts of a picture (clips of a video), P image tokens, D width.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from diptych.data.batch import Batch
from diptych.data.text import Tokenizer
from diptych.errors import DataError, UsageError
from diptych.objectives.answers import class_loss
from diptych.objectives.contrastive import ContrastiveHead
from diptych.objectives.matching import MatchingHead
from diptych.objectives.pair_scores import PairScorer
from diptych.systems.protocol import VisionLanguageModel, Visual
from diptych.systems.task import EvalData, Evaluation, Loss, StepContext, Task, TaskConfig
from diptych.tasks.fused import embed_batch
from diptych.tasks.multiple_choice_config import MultipleChoiceConfig
from diptych.tasks.multiple_choice_results import evaluate_choices

UNKNOWN = -1
"""Place of the right option where the data do not tell."""


class MultipleChoiceTask(Task):
    """Cross-entropy over the options, evaluation by accuracy."""

    name: ClassVar[str] = "multiple_choice"
    config_class: ClassVar[type[TaskConfig]] = MultipleChoiceConfig
    batch_fields: ClassVar[frozenset[str]] = frozenset({"images", "text_ids", "text_mask"})
    examples: ClassVar[str] = "choices"
    config: MultipleChoiceConfig

    def __init__(
        self, model: VisionLanguageModel, config: MultipleChoiceConfig, tokenizer: Tokenizer
    ) -> None:
        super().__init__(model, config, tokenizer)
        joint = config.scores == "joint"
        # Under the names of the tasks whose heads these are.
        self.match = PairScorer(model.width, config.dropout) if joint and config.head == "scorer" else None
        self.itm = MatchingHead(model.width) if joint and config.head == "matching" else None
        self.itc = None if joint or model.aligned else ContrastiveHead(model.width)

    @classmethod
    def needs(cls, config: TaskConfig) -> frozenset[str]:
        """Return `fuse`, or both encoders for scores by features."""
        if isinstance(config, MultipleChoiceConfig) and config.scores == "features":
            return frozenset({"encode_visual", "encode_text"})
        return frozenset({"fuse"})

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def logits(self, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        """Return the score of each option, [B, C] float32, and the balance losses of experts.

        Raises:
            UsageError: the rows of the batch are no options.
        """
        assert batch.text_ids is not None  # the engine checks `batch_fields`
        assert batch.text_mask is not None
        if batch.text_ids.dim() != 3:
            raise UsageError(
                "task multiple_choice: expected several texts a picture [B, C, L], got token ids of shape "
                f"{list(batch.text_ids.shape)}; set data.examples=choices"
            )
        visual = embed_batch(self.model, batch, self.config.blind, share=self.config.share_pictures)
        compute = self._by_features if self.config.scores == "features" else self._by_reading
        return compute(visual, batch.text_ids, batch.text_mask)

    def _by_reading(self, visual: Tensor | Visual, ids: Tensor, mask: Tensor) -> tuple[Tensor, list[Tensor]]:
        B, C = ids.shape[:2]
        rows = torch.arange(B, device=ids.device).repeat_interleave(C)
        fused = self.model.fuse(visual[rows], ids.flatten(0, 1), mask.flatten(0, 1))
        if self.match is not None:
            scores: Tensor = self.match(fused.pooled)
        else:
            assert self.itm is not None
            odds: Tensor = self.itm(fused.pooled)
            scores = odds[:, 1] - odds[:, 0]
        return scores.view(B, C), [fused.aux["routing"]] if "routing" in fused.aux else []

    def _by_features(self, visual: Tensor | Visual, ids: Tensor, mask: Tensor) -> tuple[Tensor, list[Tensor]]:
        pictures = self.model.encode_visual(visual)
        texts = self.model.encode_text(ids.flatten(0, 1), mask.flatten(0, 1))
        temperature: Tensor | float = self.config.temperature
        if self.itc is not None:
            parts, read = (
                self.itc.project_visual(pictures.pooled)[:, None],
                self.itc.project_text(texts.pooled),
            )
            temperature = self.itc.current_temperature()
        else:
            assert pictures.parts is not None  # aligned models give them
            parts, read = pictures.parts, texts.pooled
        cosines = torch.einsum("bnd,bcd->bcn", parts, read.view(*ids.shape[:2], -1))
        routing = [encoded.aux["routing"] for encoded in (pictures, texts) if "routing" in encoded.aux]
        # As in retrieval: the parts of a picture count by the logarithm of their summed exponentials.
        return cosines.logsumexp(2) / temperature, routing

    def compute_loss(self, batch: Batch, context: StepContext) -> Loss:
        """Return the loss; parts `choice` and `routing`. Rows without a right option are left out."""
        logits, routing = self.logits(batch)
        targets = torch.tensor([right_option(entry) for entry in choices_of(batch)]).to(logits.device)
        known = targets != UNKNOWN
        parts = {"choice": class_loss(logits[known], targets[known], context.world)}
        right = (logits.detach().argmax(1) == targets).float().sum()
        metrics = {"accuracy": context.world.mean(right, known.sum())}
        if routing:
            parts["routing"] = self.config.gate_weight * torch.stack(routing).mean()
        return Loss(torch.stack(list(parts.values())).sum(), parts, metrics)

    def evaluate(self, data: EvalData, progress: Callable[[str, int, int], None]) -> Evaluation:
        """Choose among the options of every row of a split; see `docs/answering.md` for the rules."""
        return evaluate_choices(self, data, progress)


def choices_of(batch: Batch) -> list[dict[str, Any]]:
    """Return the entry of each row of a batch.

    Raises:
        UsageError: the rows of the batch are no choices.
    """
    found: list[dict[str, Any]] | None = batch.extra.get("choices")
    if found is None or any(entry is None for entry in found):
        raise UsageError("task multiple_choice trains on choices; set data.examples=choices")
    return found


def right_option(entry: Mapping[str, Any]) -> int:
    """Return the place of the right option of an entry; UNKNOWN where it has none (test splits).

    Raises:
        DataError: it is no place among the options.
    """
    answer = entry.get("answer")
    if answer is None:
        return UNKNOWN
    options = entry.get("options")
    count = len(options) if isinstance(options, list) else 0
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < count:
        raise DataError(
            f"question {entry.get('question_id')!r}: answer {answer!r}: expected the place of the right one "
            f"of its {count} options, counted from 0"
        )
    return answer
