"""Classification of pictures and clips, by the names of the classes where the model can compare with them.

So a model chooses among classes that it never saw labels of (zero-shot, open vocabulary), and trains on those
that it does. Legend: B pictures or clips, V views of each, N frames, C classes, D width.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from diptych.blocks.collective import ALONE, World
from diptych.data.batch import Batch
from diptych.data.text import Tokenizer
from diptych.errors import UsageError
from diptych.objectives.contrastive import ContrastiveHead
from diptych.objectives.likelihood import labelled_loss
from diptych.objectives.mixing import Mixed, mix_pictures, unmixed
from diptych.systems.protocol import Encoded, TargetRows, VisionLanguageModel
from diptych.systems.task import EvalData, Evaluation, Loss, StepContext, Task, TaskConfig
from diptych.tasks.classes import UNKNOWN, Classes, checked_classes, labels_seen, read_classes
from diptych.tasks.classification_config import ClassificationConfig
from diptych.tasks.classification_results import evaluate_classification
from diptych.tasks.fused import embed_pictures
from diptych.tasks.target_sets import Targets

if TYPE_CHECKING:
    from diptych.data.selection import Selection

ASSET = "classes"
"""Name of the list of classes among the task's assets; `target` says what it was made of."""
_LIMIT = 77
"""Tokens of a class name at most."""


class ClassificationTask(Task):
    """Training on class labels, evaluation by accuracy."""

    name: ClassVar[str] = "classification"
    config_class: ClassVar[type[TaskConfig]] = ClassificationConfig
    batch_fields: ClassVar[frozenset[str]] = frozenset({"images"})
    config: ClassificationConfig

    def __init__(
        self,
        model: VisionLanguageModel,
        config: ClassificationConfig,
        tokenizer: Tokenizer,
        classes: Sequence[Sequence[str]],
        target: str = "auto",
    ) -> None:
        super().__init__(model, config, tokenizer)
        self.classes, self._target = Classes(classes), target
        self.head = _head_of(model, config)
        self.itc = ContrastiveHead(model.width) if self.head == "contrastive" else None
        self.classifier = nn.Linear(model.width, len(classes)) if self.head == "linear" else None
        limit = min(_LIMIT, model.text_spec.max_tokens)
        self.targets = Targets.of_names(classes, tokenizer, prompts=config.prompts, limit=limit)

    @classmethod
    def needs(cls, config: TaskConfig) -> frozenset[str]:
        """Return `encode_visual`, and what the head needs."""
        assert isinstance(config, ClassificationConfig)
        more = {"likelihood": {"likelihood"}, "linear": set()}.get(config.head, {"encode_text"})
        return frozenset({"encode_visual", *more})

    @classmethod
    def wanted_facts(cls, config: TaskConfig) -> tuple[str, ...]:
        """Return the label column."""
        assert isinstance(config, ClassificationConfig)
        return (config.label,)

    @classmethod
    def find_assets(
        cls, config: TaskConfig, sources: "Sequence[tuple[str, Selection]]", init: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the classes, from where `task.target` says."""
        assert isinstance(config, ClassificationConfig)
        if config.target != "auto":
            return {ASSET: read_classes(config.target), "target": config.target}
        if ASSET in init:
            return {ASSET: checked_classes(init[ASSET], "the classes of init_from"), "target": "auto"}
        return {ASSET: labels_seen([s for _, s in sources], config.label), "target": "auto"}

    @classmethod
    def create(
        cls, model: VisionLanguageModel, config: TaskConfig, tokenizer: Tokenizer, assets: Mapping[str, Any]
    ) -> Self:
        """Build the task with the classes of its assets, or of `task.target` where that is another list.

        Raises:
            UsageError: there are none.
        """
        assert isinstance(config, ClassificationConfig)
        known = ASSET in assets and config.target in ("auto", assets.get("target"))
        if not known and config.target == "auto":
            raise UsageError(
                "task classification: the list of classes is missing (assets.json); set task.target"
            )
        classes = assets[ASSET] if known else read_classes(config.target)
        target = str(assets.get("target", "auto")) if known else config.target
        return cls(model, config, tokenizer, checked_classes(classes, "the classes of the model"), target)

    def assets(self) -> dict[str, Any]:
        """Return the classes, and what they were made of."""
        return {ASSET: self.classes.names, "target": self._target}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def labels_of(self, batch: Batch) -> Tensor:
        """Return the class of each sample, [B] int64, `UNKNOWN` where none is told.

        Raises:
            DataError: a label that is none of the classes.
        """
        column = self.config.label
        told = batch.extra.get(column) or [None] * len(batch)
        return torch.tensor([self.classes.find(value, column) for value in told], dtype=torch.int64)

    def compute_loss(self, batch: Batch, context: StepContext) -> Loss:
        """Return the loss; part `classification`, metrics `accuracy` (of pictures that were not mixed)."""
        assert batch.images is not None  # the engine checks `batch_fields`
        labels = self.labels_of(batch).to(self.device)
        config, world = self.config, context.world
        seed = _seed(context)
        mixed: Mixed = (
            mix_pictures(batch.images, config.mixup, config.cutmix, config.mix_probability, seed)
            if config.mixup or config.cutmix
            else unmixed(batch.images)
        )
        counted = labels != UNKNOWN
        some = self._candidates(labels, world, seed)
        logits = self.logits(mixed.images, batch.image_sizes, world=world, seed=seed, some=some)
        if some is not None:
            # Their places among the candidates, which are in the order of their numbers.
            labels = torch.searchsorted(some.to(labels.device), labels)
        counted = counted & counted[mixed.partner]
        terms = mixed.share * labelled_loss(logits, labels, config.label_smoothing)
        if mixed.share < 1:
            other = labelled_loss(logits, labels[mixed.partner], config.label_smoothing)
            terms = terms + (1 - mixed.share) * other
        loss = world.mean(terms.masked_fill(~counted, 0.0).sum(), counted.sum())
        right = (logits.detach().argmax(1) == labels) & counted
        accuracy = world.mean(right.float().sum(), counted.sum())
        metrics = {"accuracy": accuracy} if mixed.share == 1 else {}
        return Loss(loss, {"classification": loss}, metrics)

    def _candidates(self, labels: Tensor, world: World, seed: int) -> Tensor | None:
        """Return the classes of a step [n] int64 on the CPU, the same on all ranks; None: all."""
        wanted = self.config.candidates
        if not 0 < wanted < len(self.classes) or self.classifier is not None:
            return None
        own = world.gather(labels).cpu()
        drawn = torch.randperm(len(self.classes), generator=torch.Generator().manual_seed(seed))[:wanted]
        found: Tensor = torch.unique(torch.cat([own[own != UNKNOWN], drawn]))
        return found

    def logits(
        self,
        images: Tensor,
        sizes: Tensor | None = None,
        *,
        world: World = ALONE,
        seed: int = 0,
        some: Tensor | None = None,
    ) -> Tensor:
        """Return a score for each class, [B, C] float32.

        Args:
            images: [B, 3, H, W], or clips [B, N, 3, H, W].
            sizes: `Batch.image_sizes`.
            world: the ranks that share a step, and the encoding of targets.
            seed: decides which synonyms are taken.
            some: classes [n] to score, on the CPU; None: all.
        """
        visual = embed_pictures(self.model, images, self.config.blind, sizes)
        seen = self.model.encode_visual(visual)
        return self.scores(seen, images.ndim == 5, world=world, seed=seed, some=some)

    def scores(
        self,
        seen: Encoded,
        clips: bool,
        *,
        world: World = ALONE,
        seed: int = 0,
        some: Tensor | None = None,
    ) -> Tensor:
        """Return a score for each class [B, C] of encoded pictures, or `clips`; see `logits`."""
        if self.classifier is not None:
            linear: Tensor = self.classifier(seen.pooled if seen.pooled_raw is None else seen.pooled_raw)
            return linear.float()
        names = self.config.synonyms if self.training else self.config.eval_synonyms
        encode = self._as_texts if self.itc else None
        targets = self.targets.features(
            self.model, world, synonyms=names, seed=seed, encode=encode, some=some
        )
        if self.itc is not None:
            features = self.itc.project_visual(seen.pooled)
            return features @ targets.t() / self.itc.current_temperature()
        assert seen.pooled_raw is not None  # the capability says so
        temperature = self.config.temperature
        if temperature == "auto":
            temperature = "video_cls" if clips else "img_cls"
        return self.model.compare(seen.pooled_raw, targets, temperature)

    def _as_texts(self, rows: TargetRows) -> Tensor:
        """Return the contrastive features [R, D] of names, padded to the longest."""
        assert self.itc is not None
        mask = torch.arange(int(rows.lengths.max())) < rows.lengths[:, None]
        mask = mask.to(rows.ids.device)
        ids = rows.ids.new_full(mask.shape, self.tokenizer.pad_id).masked_scatter(mask, rows.ids)
        return self.itc.project_text(self.model.encode_text(ids, mask).pooled)

    def evaluate(self, data: EvalData, progress: Callable[[str, int, int], None]) -> Evaluation:
        """Classify every sample of a split; of clips with several views the mean of probabilities counts."""
        return evaluate_classification(self, data, progress)


def _head_of(model: VisionLanguageModel, config: ClassificationConfig) -> str:
    if config.head != "auto":
        return config.head
    return "likelihood" if "likelihood" in model.capabilities else "contrastive"


def _seed(context: StepContext) -> int:
    """Return a seed for what is drawn once a step, the same on all ranks."""
    return (context.draws.seed * 1_000_003 + context.step) % 2**63
