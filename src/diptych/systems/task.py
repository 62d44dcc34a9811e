"""The task contract: batch fields, loss, prediction and metrics in one place. The engine knows only tasks."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

from torch import Tensor, nn

from diptych.blocks.collective import ALONE, World
from diptych.config.schema import Section
from diptych.data.batch import Batch
from diptych.data.draws import Draws
from diptych.data.text import Tokenizer
from diptych.systems.protocol import VisionLanguageModel

if TYPE_CHECKING:
    from diptych.data.selection import Selection


class TaskConfig(Section):
    """Base of every task's configuration; subclasses declare `name: Literal["..."]`."""

    name: str

    def entries(self) -> "Mapping[str, TaskConfig]":
        """Return the tasks that it consists of by label; itself, where it is one task."""
        return {"": self}

    @property
    def evaluated(self) -> str:
        """Name that an evaluation goes by: the task's, or the label of the one that is evaluated."""
        return self.name


@dataclass(frozen=True)
class StepContext:
    """Where training stands. What is random about a sample comes from `draws` alone."""

    step: int
    progress: float
    """0 at the start, 1 at the end of training."""
    draws: Draws
    """What is random about the samples of the batch; the same whatever rank they are on."""
    world: World = ALONE
    """The ranks that share the step. The mean of their losses must be the loss of the global batch."""


@dataclass(frozen=True)
class Loss:
    """The scalar to minimise, and its named parts for the logs (already weighted as they enter the total)."""

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    """Further scalars worth a curve (accuracies, temperature, tokens kept) that are not part of the loss."""
    pieces: Mapping[str, Tensor] = field(default_factory=dict)
    """With several tasks: label -> what it adds to the total, with its graph; empty for one."""


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation leaves: `metrics` -> metrics.json, `predictions` -> rows of predictions.jsonl."""

    metrics: dict[str, Any]
    predictions: list[dict[str, Any]]
    extra: dict[str, Any] = field(default_factory=dict)
    """File stem -> JSON content of further files (`experts`)."""
    texts: dict[str, str] = field(default_factory=dict)
    """File name -> content of further files that are no JSON."""


@dataclass(frozen=True)
class EvalData:
    """A split to evaluate on. `batches()` yields each sample once, in order, with `captions` filled."""

    dataset: str
    split: str
    size: int
    batches: Callable[[], Iterator[Batch]]
    max_tokens: int = 0
    """Tokens that texts are cut to, as in training; 0: the model's limit."""
    world: World = ALONE
    """The ranks that evaluate together. All return the same; rank 0's is written."""
    frames: int = 0
    """Frames of a clip; a row may have those of several clips of its video behind each other (`views`)."""
    part: "EvalData | None" = None
    """With several ranks this rank's part: the parts of all ranks, in their order, are the split."""

    @property
    def mine(self) -> "EvalData":
        """What this rank reads: its part, or everything; `world.collect` joins what the ranks found."""
        return self if self.part is None else self.part


class Task(nn.Module, ABC):
    """A model with the heads, loss and metrics of one task.

    The state dict is what exports hold: the system's weights under `model.`, heads under names that tasks
    share (`itc.`, `itm.`, `mlm.`, `mim.`), so that weights carry over from pre-training to fine-tuning.
    """

    name: ClassVar[str]
    config_class: ClassVar[type[TaskConfig]]
    batch_fields: ClassVar[frozenset[str]]
    """Fields of `Batch` that must not be None in training."""
    examples: ClassVar[str] = "samples"
    """What a row of a batch is, as `data.examples` says it."""
    facts: ClassVar[tuple[str, ...]] = ()
    """Facts of samples (top level of their `meta`) that batches bring in `extra`, one value a sample and None
    where there is none; `captions` brings all captions of samples in training too."""
    several_texts: ClassVar[bool] = False
    """Whether it takes several texts of each picture (`data.text.per_picture`)."""

    def __init__(self, model: VisionLanguageModel, config: TaskConfig, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.tokenizer = tokenizer

    @classmethod
    @abstractmethod
    def needs(cls, config: TaskConfig) -> frozenset[str]:
        """Return the system's capabilities that the task uses; checked when the configuration is read."""

    @classmethod
    def wanted_facts(cls, config: TaskConfig) -> tuple[str, ...]:
        """Return the facts of samples that batches bring: `facts`, where settings have no say."""
        return cls.facts

    @classmethod
    def find_assets(
        cls, config: TaskConfig, sources: "Sequence[tuple[str, Selection]]", init: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return what the task has to know of its data beyond settings (the answers it chooses from).

        Called once when a run starts. It is JSON, and kept beside the weights wherever they go.

        Args:
            config: of the task.
            sources: label and samples of each source of the training data.
            init: the assets of the model that training starts from; may be empty.
        """
        return {}

    @classmethod
    def create(
        cls, model: VisionLanguageModel, config: TaskConfig, tokenizer: Tokenizer, assets: Mapping[str, Any]
    ) -> Self:
        """Build the task on a model; `assets` are what `find_assets` returned, or empty."""
        return cls(model, config, tokenizer)

    def assets(self) -> dict[str, Any]:
        """Return the assets that the task was built with."""
        return {}

    @abstractmethod
    def compute_loss(self, batch: Batch, context: StepContext) -> Loss:
        """Return the loss of a batch on the model's device; its images are uint8, or float in 0..1."""

    def forward(self, batch: Batch, context: StepContext) -> Loss:
        """Return `compute_loss`, so that distributed wrappers see one forward."""
        return self.compute_loss(batch, context)

    @abstractmethod
    def evaluate(self, data: EvalData, progress: Callable[[str, int, int], None]) -> Evaluation:
        """Predict and score a split (eval mode, no gradients); `progress(stage, done, total)` reports."""
