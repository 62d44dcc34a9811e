"""GLUE: sentences with a slot, and which word it stands for; for systems that compare texts with words.

Legend: B examples, L tokens, C classes, D width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from diptych.blocks.collective import ALONE, World
from diptych.data.batch import Batch
from diptych.data.targets.names import class_names
from diptych.data.text import Tokenizer
from diptych.errors import DataError, UsageError
from diptych.objectives.likelihood import labelled_loss
from diptych.systems.protocol import VisionLanguageModel
from diptych.systems.task import EvalData, Evaluation, Loss, StepContext, Task, TaskConfig
from diptych.systems.uniperceiver.glue import SIMILAR, Slotted, pack, similarity_targets, task_name
from diptych.tasks.glue_config import GlueConfig
from diptych.tasks.glue_results import evaluate_glue
from diptych.tasks.target_sets import Targets

if TYPE_CHECKING:
    from diptych.data.selection import Selection

ASSET = "glue"
SCORES = "sts-b"
"""The task whose answers are scores."""


@dataclass(frozen=True)
class GlueTaskFacts:
    """What there is to know of a task."""

    task: str
    like: str
    """The task of GLUE whose prompt and figures it has."""
    classes: tuple[str, ...]
    """Words of the classes; of scores `SIMILAR`."""

    @property
    def scores(self) -> bool:
        """Whether its answers are scores."""
        return self.like == SCORES


class GlueTask(Task):
    """Training on classes or scores, evaluation by the figures of GLUE."""

    name: ClassVar[str] = "glue"
    config_class: ClassVar[type[TaskConfig]] = GlueConfig
    batch_fields: ClassVar[frozenset[str]] = frozenset({"captions"})
    facts: ClassVar[tuple[str, ...]] = ("captions", "task", "index", "label", "score")
    config: GlueConfig

    def __init__(
        self, model: VisionLanguageModel, config: GlueConfig, tokenizer: Tokenizer, about: GlueTaskFacts
    ) -> None:
        super().__init__(model, config, tokenizer)
        self.about = about
        self.targets = Targets.of_names([[word] for word in about.classes], tokenizer, "glue")

    @classmethod
    def needs(cls, config: TaskConfig) -> frozenset[str]:
        """Return `likelihood`."""
        return frozenset({"likelihood"})

    @classmethod
    def find_assets(
        cls, config: TaskConfig, sources: "Sequence[tuple[str, Selection]]", init: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return what there is to know of the task of the training data."""
        assert isinstance(config, GlueConfig)
        selections = [selection for _, selection in sources]
        known: dict[str, Any] = {}
        for selection in selections:
            known |= selection.dataset.info.get("facts", {}).get(ASSET, {})
        name = config.task if config.task != "auto" else _only_task(selections)
        return {ASSET: asdict(facts_of_task(name, known))}

    @classmethod
    def create(
        cls, model: VisionLanguageModel, config: TaskConfig, tokenizer: Tokenizer, assets: Mapping[str, Any]
    ) -> Self:
        """Build the task of its assets, or the task of GLUE that `task.task` names.

        Raises:
            UsageError: neither says which task it is.
        """
        assert isinstance(config, GlueConfig)
        found = assets.get(ASSET)
        if found is not None and config.task in ("auto", found["task"]):
            about = GlueTaskFacts(found["task"], found["like"], tuple(found["classes"]))
        elif config.task != "auto":
            about = facts_of_task(config.task, {})
        else:
            raise UsageError("task glue: which task it is is missing (assets.json); set task.task")
        return cls(model, config, tokenizer, about)

    def assets(self) -> dict[str, Any]:
        """Return what there is to know of the task."""
        return {ASSET: asdict(self.about)}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def pack(self, sentences: Sequence[str]) -> Slotted:
        """Return the tokens of an example, and where its slot is.

        Raises:
            DataError: not as many sentences as the task has.
        """
        return pack(
            self.about.like,
            sentences,
            self.tokenizer.tokens,
            slot=self.tokenizer.mask_id,
            end=self.tokenizer.sep_id,
            limit=min(self.config.limit, self.model.text_spec.max_tokens),
            published=self.config.published,
        )

    def logits(self, examples: Sequence[Sequence[str]], world: World = ALONE) -> Tensor:
        """Return a score for each class, [B, C] float32, of sentences of B examples."""
        packed = [self.pack(sentences) for sentences in examples]
        longest = max(len(each.ids) for each in packed)
        ids, mask = (x.to(self.device) for x in self.tokenizer.pad([p.ids for p in packed], longest))
        # A slot that a published cut has lost is read at the last token.
        slots = torch.tensor([min(each.slot, len(each.ids) - 1) for each in packed], device=self.device)
        states = self.model.read_text(ids, mask).tokens[:, -longest:]
        rows = torch.arange(len(packed), device=self.device)
        words = self.targets.features(self.model, world)
        return self.model.compare(states[rows, slots], words, self.config.temperature)

    def compute_loss(self, batch: Batch, context: StepContext) -> Loss:
        """Return the loss; part `glue`, metric `accuracy` of classes and `error` of scores."""
        assert batch.captions is not None  # the engine checks `batch_fields`
        world = context.world
        logits = self.logits(batch.captions, world)
        told = batch.extra["score" if self.about.scores else "label"]
        counted = torch.tensor([value is not None for value in told], device=self.device)
        known = [0 if value is None else value for value in told]
        if self.about.scores:
            targets = similarity_targets(torch.tensor(known, device=self.device))
            terms = -(targets * logits.log_softmax(1)).sum(1)
            off = (logits.detach().softmax(1) - targets).abs()[:, 1]
            metric = {"error": world.mean(off.masked_fill(~counted, 0.0).sum(), counted.sum())}
        else:
            labels = self._checked(known)
            terms = labelled_loss(logits, labels, self.config.label_smoothing)
            right = (logits.detach().argmax(1) == labels) & counted
            metric = {"accuracy": world.mean(right.float().sum(), counted.sum())}
        loss = self.config.weight * world.mean(terms.masked_fill(~counted, 0.0).sum(), counted.sum())
        return Loss(loss, {"glue": loss}, metric)

    def _checked(self, labels: Sequence[Any]) -> Tensor:
        """Return labels [B] int64 on the model's device.

        Raises:
            DataError: one is no number of a class.
        """
        known = range(len(self.about.classes))
        wrong = next((label for label in labels if label not in known), None)
        if wrong is not None:
            raise DataError(
                f"column 'label' says {wrong!r}, which is none of the {len(self.about.classes)} classes of "
                f"{self.about.task} ({', '.join(self.about.classes)}); train on samples of that task alone"
            )
        return torch.tensor(labels, device=self.device)

    def evaluate(self, data: EvalData, progress: Callable[[str, int, int], None]) -> Evaluation:
        """Answer every example of a split; see docs/glue.md."""
        return evaluate_glue(self, data, progress)


def facts_of_task(name: str, known: Mapping[str, Any]) -> GlueTaskFacts:
    """Return what there is to know of a task.

    Args:
        name: of a task of GLUE, or of `known`.
        known: task -> `like` and `classes`, as datasets tell it (`facts.glue`).

    Raises:
        UsageError: there is no such task.
    """
    own = known.get(name)
    if own is None:
        found = task_name(name)
        return GlueTaskFacts(found, found, SIMILAR if found == SCORES else class_names(found))
    return GlueTaskFacts(name, task_name(own["like"]), tuple(own.get("classes", SIMILAR)))


def _only_task(selections: "Sequence[Selection]") -> str:
    found: set[str] = set()
    for selection in selections:
        found |= set(selection.column("task")) if "task" in selection.columns else set()
    if len(found) == 1:
        return str(found.pop())
    names = ", ".join(sorted(map(str, found)))
    told = f"samples of {len(found)} tasks ({names})" if found else "no column `task`"
    raise UsageError(
        f"task glue: the training data has {told}; choose one, for example with data.split=cola_train, or "
        "set task.task"
    )
