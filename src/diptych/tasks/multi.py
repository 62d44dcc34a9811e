"""Several tasks on one model: each sample trains the task that its source is labelled with.

T tasks, B samples of a rank's batch.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from diptych.blocks.collective import ALONE, World, set_world
from diptych.config.schema import Variants
from diptych.data.batch import Batch
from diptych.data.draws import Draws
from diptych.data.text import Tokenizer
from diptych.errors import UsageError
from diptych.resolve import look_up, nearest
from diptych.systems.protocol import VisionLanguageModel
from diptych.systems.task import EvalData, Evaluation, Loss, StepContext, Task, TaskConfig
from diptych.tasks import TASKS

if TYPE_CHECKING:
    from diptych.data.selection import Selection


class _SingleTasks(Mapping[str, str]):
    """All tasks but this one: a view, since tasks may be added to the table at any time."""

    def __getitem__(self, name: str) -> str:
        if name == "multi":
            raise KeyError(name)
        return TASKS[name]

    def __iter__(self) -> Iterator[str]:
        return (name for name in TASKS if name != "multi")

    def __len__(self) -> int:
        return sum(1 for _ in self)


SINGLE_TASKS = _SingleTasks()
Entry = Annotated[TaskConfig, Variants("task", SINGLE_TASKS)]


class MultiTaskConfig(TaskConfig):
    """Tasks by names of your choice; `data.sources.<name>.task` says which samples are whose."""

    name: Literal["multi"] = "multi"
    tasks: dict[str, Entry] = Field({}, description="The tasks, under the labels that the sources carry.")
    weights: dict[str, float] = Field(
        {}, description="Factor on the loss of a task, by its label; 1 where nothing is said."
    )
    evaluate: str = Field(
        "", description="Label of the task that `diptych eval` evaluates; empty: the first."
    )

    @model_validator(mode="after")
    def _known_labels(self) -> Self:
        for label in [*self.weights, *([self.evaluate] if self.evaluate else [])]:
            if label not in self.tasks:
                known = ", ".join(self.tasks) or "none"
                raise ValueError(
                    f"no task is called '{label}'{nearest(label, self.tasks)} (task.tasks has: {known})"
                )
        if not self.tasks:
            raise ValueError("tasks: expected at least one, such as task.tasks.coco.name=retrieval")
        return self

    def entries(self) -> Mapping[str, TaskConfig]:
        """Return the tasks by label."""
        return self.tasks

    @property
    def evaluated(self) -> str:
        """Label of the task that an evaluation is about."""
        return self.evaluate or next(iter(self.tasks))


class MultiTask(Task):
    """Trains several tasks at once.

    The loss is the mean over the samples of the global batch: each task's loss counts by the share of samples
    that are its own, times its weight. Where whole batches are drawn (`data.mixture.draw`), each holds one
    task, and the loss of a step is the mean over its batches, each times the weight of its task.

    Heads of equal name and shape are one module, as they are where one task follows the other (`itc.` of
    pre-training and of retrieval).

    A task that is present on all ranks meets the other ranks (contrastive negatives of all of them). One that
    only some ranks have works on the rank's own samples.
    """

    name: ClassVar[str] = "multi"
    config_class: ClassVar[type[TaskConfig]] = MultiTaskConfig
    batch_fields: ClassVar[frozenset[str]] = frozenset({"labels"})
    config: MultiTaskConfig

    def __init__(
        self,
        model: VisionLanguageModel,
        config: MultiTaskConfig,
        tokenizer: Tokenizer,
        assets: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(model, config, tokenizer)
        # A plain dictionary: the parameters below are registered once, under their own names.
        self.tasks: dict[str, Task] = {}
        for label, entry in config.tasks.items():
            kind: type[Task] = look_up(SINGLE_TASKS, entry.name, "task")
            task = kind.create(model, entry, tokenizer, (assets or {}).get(label, {}))
            self._adopt(label, task)
            self.tasks[label] = task

    def _adopt(self, label: str, task: Task) -> None:
        for name, head in task.named_children():
            if name == "model":
                continue
            ours = self._modules.get(name)
            if ours is None:
                self.add_module(name, head)
                continue
            if _shapes(ours) != _shapes(head):
                raise UsageError(
                    f"task.tasks.{label}: its head '{name}' has another shape than that of an earlier task; "
                    "give both the same settings, so that they share it"
                )
            setattr(task, name, ours)

    @classmethod
    def needs(cls, config: TaskConfig) -> frozenset[str]:
        """Return what any of the tasks needs."""
        assert isinstance(config, MultiTaskConfig)
        found: frozenset[str] = frozenset()
        for entry in config.tasks.values():
            task: type[Task] = look_up(SINGLE_TASKS, entry.name, "task")
            found |= task.needs(entry)
        return found

    @classmethod
    def find_assets(
        cls, config: TaskConfig, sources: "Sequence[tuple[str, Selection]]", init: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return label -> assets of each task, from the sources that it is trained on."""
        assert isinstance(config, MultiTaskConfig)
        found = {}
        for label, entry in config.tasks.items():
            task: type[Task] = look_up(SINGLE_TASKS, entry.name, "task")
            own = [(of, selection) for of, selection in sources if of == label]
            found[label] = task.find_assets(entry, own, init.get(label, {}))
        return {label: assets for label, assets in found.items() if assets}

    @classmethod
    def create(
        cls, model: VisionLanguageModel, config: TaskConfig, tokenizer: Tokenizer, assets: Mapping[str, Any]
    ) -> Self:
        """Build all tasks with their own assets."""
        assert isinstance(config, MultiTaskConfig)
        return cls(model, config, tokenizer, assets)

    def assets(self) -> dict[str, Any]:
        """Return label -> assets."""
        own = {label: task.assets() for label, task in self.tasks.items()}
        return {label: assets for label, assets in own.items() if assets}

    def train(self, mode: bool = True) -> Self:
        """Switch all tasks between training and evaluation."""
        super().train(mode)
        for task in self.tasks.values():
            task.training = mode
        return self

    def compute_loss(self, batch: Batch, context: StepContext) -> Loss:
        """Return the weighted sum over tasks; parts and metrics are called `<label>/<name>`."""
        rows = self._rows(batch)
        pieces: dict[str, Tensor] = {}
        parts: dict[str, Tensor] = {}
        metrics: dict[str, Tensor] = {}
        for label, share, world in self._shares(rows, context.world):
            found = self._one(label, batch.take(rows[label]), context, world)
            factor = share * self.config.weights.get(label, 1.0)
            pieces[label] = found.total * factor
            metrics[f"{label}/loss"] = found.total.detach()
            parts |= {f"{label}/{name}": value * factor for name, value in found.parts.items()}
            metrics |= {f"{label}/{name}": value for name, value in found.metrics.items()}
        set_world(self, context.world)
        return Loss(torch.stack(list(pieces.values())).sum(), parts, metrics, pieces)

    def _shares(self, rows: Mapping[str, Tensor], world: World) -> list[tuple[str, float, World]]:
        """Return the tasks of this rank, what their mean loss counts for, and whom they meet.

        Tasks that all ranks have come first: their ranks talk to each other in the same order.
        """
        counts = torch.tensor([float(len(rows[label])) for label in self.tasks])
        counts = counts.to(next(self.parameters()).device)
        present, totals = world.sum(torch.stack([(counts > 0).float(), counts])).tolist()
        samples, own = sum(totals), counts.tolist()
        together, apart = [], []
        for i, label in enumerate(self.tasks):
            if present[i] == world.size:
                together.append((label, totals[i] / samples, world))
            elif own[i]:
                # A share of the global batch, of which the mean over ranks is taken afterwards.
                apart.append((label, own[i] * world.size / samples, ALONE))
        return together + apart

    def _one(self, label: str, batch: Batch, context: StepContext, world: World) -> Loss:
        task = self.tasks[label]
        lacking = [name for name in task.batch_fields if getattr(batch, name) is None]
        if lacking:
            raise UsageError(
                f"task.tasks.{label} needs {', '.join(sorted(lacking))}, which the samples labelled "
                f"'{label}' do not have; check data.sources"
            )
        set_world(self, world)
        draws = Draws(context.draws.seed, batch.positions)
        loss: Loss = task(batch, StepContext(context.step, context.progress, draws, world))
        return loss

    def _rows(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.labels is not None  # the engine checks `batch_fields`
        unknown = sorted(set(batch.labels) - set(self.tasks))
        if unknown:
            raise UsageError(
                f"data.sources: samples are labelled '{unknown[0]}'{nearest(unknown[0], self.tasks)}, which "
                f"is none of task.tasks ({', '.join(self.tasks)}); set data.sources.<name>.task"
            )
        return {
            label: torch.tensor([i for i, own in enumerate(batch.labels) if own == label], dtype=torch.int64)
            for label in self.tasks
        }

    def evaluate(self, data: EvalData, progress: Callable[[str, int, int], None]) -> Evaluation:
        """Evaluate the task that `evaluate` names, or the first."""
        return self.tasks[self.config.evaluated].evaluate(data, progress)


def _shapes(module: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in module.state_dict().items()}
