"""Starting from another model's weights: strict, and open about every name that does not match."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor

from diptych.errors import CheckpointError
from diptych.systems.task import Task
from diptych.train.config import InitConfig
from diptych.train.diagnose import shorten
from diptych.train.export import Weights

MODEL = "model."
"""Prefix of the system's weights in a task."""


@dataclass(frozen=True)
class Filled:
    """What `fill` did."""

    fresh: list[str]
    """Names of the task that kept their fresh values."""
    report: list[str]
    """Sentences for the log."""


def fill(task: Task, weights: Weights, config: InitConfig) -> Filled:
    """Copy weights into a task by name.

    Raises:
        CheckpointError: names that only one side has and no pattern allows, or tensors of another shape; the
            message lists all of them, both ways.
    """
    own = task.state_dict()
    source, resized = _adapted(task, weights.state)
    misshapen = [n for n in own if n in source and source[n].shape != own[n].shape]
    # A tensor of another shape is of no use: as good as missing where that is allowed.
    unusable = {n for n in misshapen if _matches(n, config.allow_missing)}
    missing = [n for n in own if n not in source or n in unusable]
    unexpected = sorted(n for n in source if n not in own)
    problems = [
        _problem(
            "the source lacks", [n for n in missing if not _matches(n, config.allow_missing)], "allow_missing"
        ),
        _problem(
            "the task has no place for",
            [n for n in unexpected if not _matches(n, config.allow_unexpected)],
            "allow_unexpected",
        ),
        _shapes([n for n in misshapen if n not in unusable], own, source),
    ]
    found = [problem for problem in problems if problem]
    if found:
        raise CheckpointError(f"init_from.path = {weights.folder}: {'; '.join(found)}")
    usable = {n: source[n] for n in own if n in source and n not in unusable}
    task.load_state_dict(usable, strict=False)
    report = [f"init_from: {len(usable)} of {len(own)} tensors from {weights.folder} (step {weights.step})"]
    if resized:
        report.append(f"init_from: resized to this picture size: {shorten(resized)}")
    if missing:
        report.append(f"init_from: fresh, not in the source: {shorten(missing)}")
    if unexpected:
        report.append(f"init_from: dropped, not in the task: {shorten(unexpected)}")
    return Filled(missing, report)


def _adapted(task: Task, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Let the system fit tables and names to itself; return the weights, and whose shape has changed."""
    own = {n.removeprefix(MODEL): t for n, t in state.items() if n.startswith(MODEL)}
    fitted = {MODEL + n: t for n, t in task.model.adapt_state(own).items()}
    others = {n: t for n, t in state.items() if not n.startswith(MODEL)}
    return others | fitted, [n for n, t in fitted.items() if n in state and t.shape != state[n].shape]


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _problem(what: str, names: Sequence[str], option: str) -> str:
    if not names:
        return ""
    head = names[0].partition(".")[0]
    return f"{what} {shorten(names)} (if that is meant: init_from.{option}=['{head}.*'])"


def _shapes(names: Sequence[str], own: dict[str, Tensor], source: dict[str, Tensor]) -> str:
    if not names:
        return ""
    shown = [f"{n} is {list(source[n].shape)} there and {list(own[n].shape)} here" for n in names]
    return f"other shapes: {shorten(shown)} (make the system's settings equal)"
