"""Captioning of pictures and clips, for any system that writes (capability `generate`).

Legend: B pictures, N frames, L tokens of a caption, M words of all captions, V vocabulary, D width.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from diptych.blocks.collective import ALONE, World
from diptych.data.batch import Batch
from diptych.data.text import Tokenizer
from diptych.objectives.likelihood import labelled_loss
from diptych.systems.protocol import VisionLanguageModel, Writing, Written
from diptych.systems.task import EvalData, Evaluation, Loss, StepContext, Task, TaskConfig
from diptych.tasks.captioning_config import CaptioningConfig
from diptych.tasks.captioning_results import evaluate_captioning
from diptych.tasks.fused import embed_pictures
from diptych.tasks.target_sets import Targets


class CaptioningTask(Task):
    """Training to say each word of a caption after those before it; evaluation by the usual figures."""

    name: ClassVar[str] = "captioning"
    config_class: ClassVar[type[TaskConfig]] = CaptioningConfig
    batch_fields: ClassVar[frozenset[str]] = frozenset({"images", "text_ids", "text_mask"})
    config: CaptioningConfig

    def __init__(self, model: VisionLanguageModel, config: CaptioningConfig, tokenizer: Tokenizer) -> None:
        super().__init__(model, config, tokenizer)
        self.words: Targets | None = None
        if "likelihood" in model.capabilities:
            self.words = Targets.of_vocabulary(tokenizer)

    @classmethod
    def needs(cls, config: TaskConfig) -> frozenset[str]:
        """Return `generate`."""
        return frozenset({"generate"})

    @classmethod
    def wanted_facts(cls, config: TaskConfig) -> tuple[str, ...]:
        """Return the fact that names a picture."""
        assert isinstance(config, CaptioningConfig)
        return (config.image_id,)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def vocabulary(self, world: World = ALONE) -> Tensor | None:
        """Return the features of all words [V, D], where the model compares with them."""
        return None if self.words is None else self.words.features(self.model, world)

    def compute_loss(self, batch: Batch, context: StepContext) -> Loss:
        """Return the loss: the mean over the words of the global batch; metric `accuracy` of words."""
        assert batch.images is not None  # the engine checks `batch_fields`
        assert batch.text_ids is not None
        assert batch.text_mask is not None
        start = int(self.tokenizer.opens)
        ids, mask = batch.text_ids[:, start:], batch.text_mask[:, start:].bool()
        visual = embed_pictures(self.model, batch.images, self.config.blind, batch.image_sizes)
        words = self.vocabulary(context.world)
        logits = self.model.caption_logits(visual, ids, mask, words, self.config.temperature)
        labels = ids[mask]
        terms = labelled_loss(logits, labels, self.config.label_smoothing)
        count = mask.sum()
        loss = self.config.weight * context.world.mean(terms.sum(), count)
        right = (logits.detach().argmax(1) == labels).float().sum()
        return Loss(loss, {"captioning": loss}, {"accuracy": context.world.mean(right, count)})

    @torch.no_grad()
    def write(self, images: Tensor, sizes: Tensor | None = None, writing: Writing | None = None) -> Written:
        """Write captions of pictures [B, 3, H, W] or clips [B, N, 3, H, W], in eval mode.

        Args:
            images: on the model's device.
            sizes: `Batch.image_sizes`.
            writing: how; None: as the settings say.
        """
        visual = embed_pictures(self.model, images, self.config.blind, sizes)
        return self.model.generate(visual, self.vocabulary(), writing or self.config.writing())

    def say(self, ids: Tensor) -> str:
        """Return the text of a caption [L], up to its end."""
        found = ids.tolist()
        end = found.index(self.tokenizer.sep_id) if self.tokenizer.sep_id in found else len(found)
        return " ".join(self.tokenizer.decode(found[:end]).split())

    def evaluate(self, data: EvalData, progress: Callable[[str, int, int], None]) -> Evaluation:
        """Write a caption of each picture of a split; see docs/captioning.md."""
        return evaluate_captioning(self, data, progress)


def caption_task(tasks: Sequence[Task]) -> CaptioningTask:
    """Return the captioning task among those that a model was trained on, else one with default settings."""
    found = next((task for task in tasks if isinstance(task, CaptioningTask)), None)
    return found or CaptioningTask(tasks[0].model, CaptioningConfig(), tasks[0].tokenizer)


def write_ranked(
    task: CaptioningTask, images: Tensor, sizes: Tensor | None, writing: Writing | None
) -> list[tuple[tuple[str, float], ...]]:
    """Return captions and their probabilities of each picture, the best first; as `CaptioningTask.write`."""
    found = task.write(images.to(task.device), None if sizes is None else sizes.to(task.device), writing)
    chances = found.log_probs.sum(2).exp().tolist()
    return [
        tuple((task.say(beam), chance) for beam, chance in zip(ids, row, strict=True))
        for ids, row in zip(found.ids, chances, strict=True)
    ]
