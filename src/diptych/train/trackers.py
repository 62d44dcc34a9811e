"""Where the rows of figures go: metrics.jsonl, TensorBoard and, if it is asked for, Weights & Biases."""

import importlib
import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch.utils.tensorboard import SummaryWriter

from diptych.errors import ConfigError, RunError
from diptych.train.config import RunConfig


class Tracker(Protocol):
    """Takes the rows of a run."""

    def row(self, row: Mapping[str, Any]) -> None:
        """Take a row; it has `step`, and rows come in the order of their steps."""
        ...

    def close(self, failed: bool) -> None:
        """The run has ended; `failed` tells whether by an error."""
        ...


def open_trackers(folder: Path, config: RunConfig) -> list[Tracker]:
    """Return the trackers of the run in `folder`; what they write to is opened at the first row.

    Raises:
        ConfigError: `train.wandb` is set and wandb is not installed.
    """
    trackers: list[Tracker] = [JsonLines(folder / "metrics.jsonl"), TensorBoard(folder / "tensorboard")]
    if config.train.wandb:
        trackers.append(Wandb(folder, config))
    return trackers


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of a row that can be drawn as curves."""
    return {
        name: value
        for name, value in row.items()
        if name not in ("step", "time") and isinstance(value, int | float) and not isinstance(value, bool)
    }


class JsonLines:
    """Appends rows to a file, one JSON object a line."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def row(self, row: Mapping[str, Any]) -> None:
        """Append a row."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def close(self, failed: bool) -> None:
        """Nothing is open."""


class TensorBoard:
    """Writes event files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def row(self, row: Mapping[str, Any]) -> None:
        """Write the scalars of a row."""
        if self._writer is None:
            # Rows after the checkpoint that a resumed run started from are hidden.
            self._writer = SummaryWriter(str(self._folder), purge_step=row["step"])
        for name, value in scalars(row).items():
            self._writer.add_scalar(name, value, row["step"])

    def close(self, failed: bool) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()


class Wandb:
    """Logs to a project of Weights & Biases: offline or online as wandb itself is set up (`WANDB_MODE`).

    The id of the run is kept in `wandb_id.txt`, so a resumed run goes on in the same one.
    """

    def __init__(self, folder: Path, config: RunConfig) -> None:
        self._folder, self._config = folder, config
        self._project = config.train.wandb
        self._run: Any = None
        try:
            self._wandb: Any = importlib.import_module("wandb")
        except ImportError as error:
            raise ConfigError(
                f"train.wandb = {self._project}, but wandb cannot be imported ({error}); install it with "
                f"pip install 'diptych[wandb]', or leave train.wandb empty"
            ) from error

    def row(self, row: Mapping[str, Any]) -> None:
        """Log the scalars of a row; rows that the project has already (after a kill) are not sent again."""
        if self._run is None:
            self._run = self._start()
        if row["step"] >= self._run.step:
            self._run.log(scalars(row), step=row["step"])

    def close(self, failed: bool) -> None:
        """Finish the run and wait until everything is sent."""
        if self._run is not None:
            self._run.finish(exit_code=int(failed))

    def _start(self) -> Any:
        try:
            return self._wandb.init(
                project=self._project,
                name=self._config.name,
                id=self._id(),
                resume="allow",
                dir=str(self._folder),
                config=self._config.model_dump(mode="json"),
            )
        except Exception as error:  # wandb raises many kinds: no key, no network, a project of others
            raise RunError(
                f"train.wandb = {self._project}: Weights & Biases cannot be used ({error}); log in with "
                f"`wandb login`, set WANDB_MODE=offline, or leave train.wandb empty"
            ) from error

    def _id(self) -> str:
        path = self._folder / "wandb_id.txt"
        if not path.exists():
            path.write_text(uuid.uuid4().hex[:12] + "\n", encoding="utf-8")
        return path.read_text(encoding="utf-8").strip()
