"""How far a run is, and the learning rate there: pure functions of the configuration."""

import math
from dataclasses import dataclass

from diptych.train.config import ScheduleConfig, TrainConfig


@dataclass(frozen=True)
class Extent:
    """How long a run is: a number of steps, or a budget of CPU seconds."""

    steps: int | None
    """None: the budget decides."""
    cpu_seconds: float

    @classmethod
    def of(cls, config: TrainConfig) -> "Extent":
        """Read the extent from the configuration: a budget of CPU seconds goes before `steps`."""
        return cls(None if config.cpu_seconds > 0 else config.steps, config.cpu_seconds)

    def progress(self, step: int, cpu_seconds: float) -> float:
        """Return 0 at the start and 1 at the end of training.

        Args:
            step: steps that are done.
            cpu_seconds: CPU seconds that are used up (only read when they are the budget).
        """
        if self.steps is not None:
            return min(1.0, step / self.steps)
        return min(1.0, cpu_seconds / self.cpu_seconds)


def lr_factor(
    config: ScheduleConfig, extent: Extent, step: int, progress: float, accumulate: int = 1
) -> float:
    """Return the fraction of the peak learning rate for the step with number `step` (from 0).

    With a number of steps this is the schedule published for EVE: `W = int(warmup * steps)` steps of warm-up,
    then the shape over `(step - W) / (steps - W)`. Warm-up runs through 1/(W+1), 2/(W+1), ...; with
    `zero_first_step` through 0/W, 1/W, .... With a budget of CPU seconds, progress takes the place of the
    step. `step` is the schedule published for SOHO, whose warm-up counts the `accumulate` batches of a step.
    """
    if config.name == "step":
        return _stepped(config, extent, step, progress, accumulate)
    if extent.steps is None:
        return _budget_factor(config, step, progress)
    warm = config.warmup if isinstance(config.warmup, int) else int(config.warmup * extent.steps)
    if step < warm:
        return step / warm if config.zero_first_step else (step + 1) / (warm + 1)
    return _shape(config, (step - warm) / max(1, extent.steps - warm))


def _stepped(config: ScheduleConfig, extent: Extent, step: int, progress: float, accumulate: int) -> float:
    """Return `gamma` to the number of milestones passed, times the warm-up, which may overlap with them."""

    def share(of: int | float) -> float:
        """Return where the step stands on the way to `of`; from 1 on it is past it."""
        if isinstance(of, int):
            return step / of if of else 1.0
        where = progress if extent.steps is None else step / extent.steps
        return where / of if of else 1.0

    warmup = config.warmup
    if isinstance(warmup, float) and extent.steps is not None:
        warmup = int(warmup * extent.steps)
    done = share(warmup)
    if isinstance(warmup, int) and warmup:
        # The last batch of the step decides: batches 0 to W * accumulate - 1 are warm-up.
        done = ((step + 1) * accumulate - 1) / (warmup * accumulate)
    rise = 1.0 if done >= 1 else config.warmup_from + (1 - config.warmup_from) * done
    passed: int = sum(share(milestone) >= 1 for milestone in config.milestones)
    return rise * config.gamma**passed


def _budget_factor(config: ScheduleConfig, step: int, progress: float) -> float:
    """Return the factor when CPU seconds decide: the length in steps is unknown until the run has ended."""
    if isinstance(config.warmup, int):
        warm = 0 if config.zero_first_step else 1
        return min(1.0, (step + warm) / (config.warmup + warm)) * _shape(config, progress)
    if progress < config.warmup:
        return progress / config.warmup
    return _shape(config, (progress - config.warmup) / (1 - config.warmup))


def _shape(config: ScheduleConfig, t: float) -> float:
    """Return the factor after warm-up; `t` goes from 0 to 1."""
    t = min(1.0, t)
    if config.name == "linear":
        return max(config.floor, config.final + (1 - config.final) * (1 - t))
    if config.name == "cosine":
        return max(config.floor, config.final + (1 - config.final) * 0.5 * (1 + math.cos(math.pi * t)))
    return 1.0
