"""The configuration of a run: everything that `diptych train` reads."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from diptych.config.layers import Resolved, resolve
from diptych.config.schema import Section, Variants
from diptych.data.config import DataConfig
from diptych.data.tiling_config import TilingConfig
from diptych.evaluation.config import EvaluateConfig
from diptych.systems import SYSTEMS
from diptych.systems.protocol import SystemConfig
from diptych.systems.task import TaskConfig
from diptych.tasks import TASKS

Probability = Annotated[float, Field(ge=0, le=1)]


Rule = Literal["adamw", "adamw_published", "lamb", "sgd"]
Decay = Literal["ours", "published", "all"]


def fraction_or_steps(value: int | float) -> int | float:
    """Return a fraction of a run (below 1) as a float, a number of steps as an int.

    Raises:
        ValueError: neither.
    """
    if 0 <= value < 1:
        return float(value)
    if value != int(value) or value < 0:
        raise ValueError(f"expected a fraction below 1 or a whole number of steps, got {value}")
    return int(value)


class OptimGroup(Section):
    """Parameters that are trained in a way of their own. What is not set is as in `optim`."""

    match: tuple[str, ...] = Field(
        min_length=1,
        description="Patterns of parameter names, such as `model.backbone.*`. A parameter belongs to the "
        "first group that matches it.",
    )
    name: Rule | Literal["frozen"] | None = Field(
        None, description="The rule; `frozen`: these parameters are not trained at all."
    )
    lr: float | None = Field(
        None, gt=0, description="Peak learning rate; the schedule is that of the whole run."
    )
    weight_decay: float | None = Field(None, ge=0, description="Weight decay; `sgd` adds it to the gradient.")
    decay: Decay | None = Field(None, description="Which of these parameters are decayed.")
    betas: tuple[Probability, Probability] | None = Field(None, description="Decay of the two moments.")
    eps: float | None = Field(None, gt=0, description="Added to the root of the second moment.")
    momentum: float | None = Field(None, ge=0, lt=1, description="Momentum of `sgd`.")


class OptimConfig(Section):
    """The optimizer, and which parameters it decays."""

    name: Rule = Field(
        "adamw",
        description="`adamw`: torch's; `adamw_published`: the rule that published EVE and SOHO weights were "
        "trained with (eps before the bias correction, decay after the update); `lamb`: updates as long as "
        "the weights that they change, times the rate; `sgd`: with momentum.",
    )
    lr: float = Field(1e-3, gt=0, description="Peak learning rate.")
    weight_decay: float = Field(
        0.05, ge=0, description="Weight decay: decoupled, or with `sgd` added to the gradient."
    )
    decay: Decay = Field(
        "ours",
        description="Which parameters are decayed. `ours`: those with two or more dimensions, but no biases "
        "and position tables; `published`: by parts of their published names, which decays some norms and "
        "all tables; `all`: every parameter.",
    )
    betas: tuple[Probability, Probability] = Field((0.9, 0.98), description="Decay of the two moments.")
    eps: float = Field(1e-8, gt=0, description="Added to the root of the second moment.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of `sgd`.")
    lr_mult: float = Field(
        1.0, gt=0, description="Factor on the learning rate of parameters that `init_from` did not fill."
    )
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Factor on the learning rate from one block of the model to the one before it: heads and "
        "what is behind the blocks have the whole rate, the last block this much of it, the one before it "
        "the square, and so on down to the embeddings. 1: all have the same rate.",
    )
    groups: dict[str, OptimGroup] = Field(
        default_factory=dict,
        description="Parameters that are trained otherwise than the rest, by a name for them.",
    )


class ScheduleConfig(Section):
    """The learning rate over a run, as a fraction of `optim.lr`."""

    name: Literal["linear", "cosine", "constant", "step"] = Field(
        "cosine", description="The shape after warm-up; `step`: times `gamma` at each of `milestones`."
    )
    warmup: int | float = Field(
        0.1,
        ge=0,
        description="Linear warm-up: a number below 1 is a fraction of the run, from 1 on it is steps.",
    )
    final: float = Field(0.0, ge=0, le=1, description="Fraction of the peak at the end (linear, cosine).")
    floor: float = Field(
        0.0,
        ge=0,
        le=1,
        description="The fraction never falls below this after warm-up (linear, cosine; published for "
        "Uni-Perceiver, whose shape goes to 0 and stops short of it).",
    )
    zero_first_step: bool = Field(
        False,
        description="Start the warm-up at exactly 0 as published recipes do (it changes nothing).",
    )
    warmup_from: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="`step`: fraction of the rate that warm-up starts from, counted in batches as published.",
    )
    milestones: tuple[int | float, ...] = Field(
        (),
        description="`step`: when the rate falls; numbers below 1 are fractions of the run, others steps.",
    )
    gamma: float = Field(0.1, gt=0, le=1, description="`step`: factor on the rate at each milestone.")

    @field_validator("warmup")
    @classmethod
    def _fraction_or_steps(cls, value: int | float) -> int | float:
        return fraction_or_steps(value)

    @field_validator("milestones")
    @classmethod
    def _rising(cls, values: tuple[int | float, ...]) -> tuple[int | float, ...]:
        found = tuple(fraction_or_steps(value) for value in values)
        if len({type(value) for value in found}) > 1 or list(found) != sorted(found):
            raise ValueError(
                f"expected rising numbers that are all fractions of the run or all steps, got {values}"
            )
        return found


class TrainConfig(Section):
    """The loop. A step is one update of the weights."""

    steps: int = Field(1000, ge=1, description="Steps of the run; not used when `train.cpu_seconds` is set.")
    cpu_seconds: float = Field(
        0.0,
        ge=0,
        description="End after this many CPU seconds (process and workers, summed over resumes) instead of "
        "after `train.steps`; the schedule follows. 0: off.",
    )
    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16: autocast; weights stay fp32.")
    accumulate: int = Field(1, ge=1, description="Batches whose gradients are averaged into one step.")
    clip: float = Field(1.0, ge=0, description="Largest global norm of the gradient; 0: no clipping.")
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Decay of an average of the weights, which is exported in their place; 0: off.",
    )
    export: Literal["whole", "changes"] = Field(
        "whole",
        description="What the export at the end holds. `whole`: all weights; `changes`: those that differ "
        "from the export of `init_from.path`, which has to stay where it is (prompt tuning: a hundredth).",
    )
    checkpoint_every: int = Field(500, ge=0, description="Steps between checkpoints; 0: only at the end.")
    checkpoint_async: bool = Field(
        False,
        description="Copy a checkpoint to host memory and write it while training goes on; it counts when "
        "all ranks have written theirs.",
    )
    keep: int = Field(2, ge=1, description="Checkpoints kept; older ones are deleted.")
    log_every: int = Field(20, ge=1, description="Steps between rows of metrics.jsonl.")
    count_flops: bool = Field(
        True,
        description="Count the operations of a step; compare FLOP/s with what the device is measured to do.",
    )
    wandb: str = Field(
        "", description="Project of Weights & Biases that gets the rows too; empty: none (extra `wandb`)."
    )
    profile: int = Field(
        0, ge=0, description="Steps to trace into profile/ after the first three of a start; 0: none."
    )
    threads: int = Field(0, ge=0, description="CPU threads of the training process; 0: torch's default.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU if there is one.")
    parallel: Literal["auto", "none", "ddp", "fsdp"] = Field(
        "auto",
        description="ddp: every rank holds the whole model. fsdp: weights, gradients and optimizer are cut "
        "over the ranks. auto: ddp with several ranks.",
    )
    expert_parallel: int = Field(
        1, ge=1, description="Ranks that share the experts of a mixture; 1: every rank holds all of them."
    )
    activation_checkpointing: bool = Field(
        False, description="Run each block again in the backward pass instead of keeping what it computed."
    )
    compile: Literal["off", "inductor", "aot_eager", "eager"] = Field(
        "off",
        description="Compile each block with torch.compile; aot_eager and eager stop short of generating "
        "code, to find out what a failure is due to.",
    )
    task_gradients: int = Field(
        0,
        ge=0,
        description="Several tasks: steps between measurements of the gradient norm of each "
        "(`grad_norm/task/<label>`; a backward pass more for each task); 0: never.",
    )
    timeout: float = Field(1800.0, gt=0, description="Seconds that a rank waits for the others.")


class InitConfig(Section):
    """Weights to start from, and weights only. To go on with a run, give its command again."""

    path: str = Field("", description="Run directory or export to take weights from; empty: start afresh.")
    allow_missing: tuple[str, ...] = Field(
        (), description="Patterns (`itm.*`) of parameters that the source may lack; they keep fresh weights."
    )
    allow_unexpected: tuple[str, ...] = Field(
        (), description="Patterns of parameters of the source that the task may lack; they are dropped."
    )


class RunConfig(Section):
    """A whole run. `system` and `task` choose their class by their `name`."""

    name: str = Field("run", min_length=1, description="Name of the run; its directory is runs/<name>.")
    seed: int = Field(0, ge=0, lt=2**32, description="Decides fresh weights, sample order and random draws.")
    data: DataConfig = Field(DataConfig(), description="What to train on.")
    system: Annotated[SystemConfig, Variants("system", SYSTEMS)] = Field(description="The model.")
    task: Annotated[TaskConfig, Variants("task", TASKS)] = Field(description="What it is trained to do.")
    optim: OptimConfig = Field(OptimConfig(), description="The optimizer.")
    schedule: ScheduleConfig = Field(ScheduleConfig(), description="The learning rate over the run.")
    train: TrainConfig = Field(TrainConfig(), description="The loop.")
    init_from: InitConfig = Field(InitConfig(), description="Weights to start from.")
    evaluate: EvaluateConfig = Field(EvaluateConfig(), description="What `diptych eval` evaluates on.")

    @model_validator(mode="before")
    @classmethod
    def _tile_as_the_system(cls, values: Any) -> Any:
        """Let the loader cut pictures as the model takes them: both have to count the same tokens."""
        if not isinstance(values, Mapping):
            return values
        tiling, data = _value(values.get("system"), "tiling"), values.get("data")
        image = _value(data, "image")
        if tiling is None or _value(image, "resize") != "tiles":
            return values
        tiling = tiling if isinstance(tiling, TilingConfig) else TilingConfig.model_validate(tiling)
        # An evaluation may set `data`, but not `system`.
        limit = _value(_value(image, "tiling"), "eval_hd_num") or tiling.eval_hd_num
        tiling = tiling.with_(eval_hd_num=limit)
        if isinstance(data, DataConfig):
            return {**values, "data": data.with_(image=data.image.with_(tiling=tiling))}
        assert isinstance(data, Mapping)
        return {**values, "data": {**data, "image": {**data["image"], "tiling": tiling}}}


def _value(section: Any, name: str) -> Any:
    """Return a field of a section, or of the mapping that it is to be made of; None without it."""
    return section.get(name) if isinstance(section, Mapping) else getattr(section, name, None)


def resolve_run(
    recipe: str | Path | Mapping[str, Any] | None, arguments: Sequence[str] = ()
) -> Resolved[RunConfig]:
    """Resolve a recipe (path, packaged name or mapping) and `key=value` arguments into a run.

    Raises:
        ConfigError: unknown keys, wrong types or values; all of them, one a line.
    """
    return resolve(RunConfig, recipe, arguments)
