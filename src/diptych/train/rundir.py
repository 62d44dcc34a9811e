"""The directory of a run: what makes it the same run, what it records, and what a resume cuts off.

```
config.yaml provenance.json environment.json log.txt metrics.jsonl tensorboard/ tokenizer/tokenizer.json
checkpoints/ export/ eval/
```
"""

import fcntl
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import torch

import diptych
from diptych.config.layers import Resolved, dump_yaml, resolve
from diptych.config.surface import diff
from diptych.errors import ConfigError, RunError
from diptych.train.checkpoint import Checkpoints
from diptych.train.config import RunConfig
from diptych.train.files import write_json, write_text
from diptych.train.ranks import launched_size

FREE_KEYS = (
    "name",
    "data.path",  # a dataset may move; the fingerprint in loader.json says whether it is the same
    "data.sources.*.path",
    "data.loader.workers",
    "data.remote.",
    "data.loader.cache_mb",
    "data.loader.on_error",
    "train.checkpoint_every",
    "train.checkpoint_async",
    "train.keep",
    "train.log_every",
    "train.count_flops",
    "train.wandb",
    "train.profile",
    "train.threads",
    "train.device",
    "train.parallel",
    "train.expert_parallel",
    "train.activation_checkpointing",
    "train.compile",
    "train.timeout",
    "evaluate.",
)
"""Settings that may change while a run goes on: they do not enter the mathematics of its steps.

Another number of threads or another device may round differently in the last bits.
"""


RESTART_PATIENCE = 30.0
"""Seconds that ranks which torchrun has started again wait for the lock of those before them."""


class RunDirectory:
    """A run directory that belongs to one configuration."""

    def __init__(self, path: Path, config: RunConfig) -> None:
        self.path = path
        self.config = config

    @classmethod
    @contextmanager
    def opened(cls, path: Path, resolved: Resolved[RunConfig], *, resume: bool) -> Iterator["RunDirectory"]:
        """Create the directory, or go on with it; locked against a second process while the context lasts.

        Raises:
            RunError: it holds a run of another recipe (the message lists the differing keys), something that
            is no
                run, or a run that another process is training; or it exists and `resume` is off.
        """
        path.mkdir(parents=True, exist_ok=True)
        with _lock(path):
            _check(path, resolved.config, resume)
            write_text(path / "config.yaml", dump_yaml(resolved.config))
            write_json(path / "provenance.json", dict(resolved.sources))
            yield cls(path, resolved.config)

    @property
    def export(self) -> Path:
        """Where the finished model lies."""
        return self.path / "export"

    @property
    def finished(self) -> bool:
        """Whether training has ended and the model is exported."""
        return (self.export / "model.yaml").exists()

    def record_environment(self, step: int) -> None:
        """Note the machine and the versions in environment.json: of the start, and of each resume."""
        path = self.path / "environment.json"
        now = environment()
        if step == 0 or not path.exists():
            write_json(path, {**now, "resumes": []})
            return
        earlier = json.loads(path.read_text(encoding="utf-8"))
        changed = {key: value for key, value in now.items() if earlier.get(key) != value}
        earlier.setdefault("resumes", []).append({"step": step, "changed": changed})
        write_json(path, earlier)

    def cut_metrics(self, step: int) -> None:
        """Drop the rows of metrics.jsonl after `step`, which will be written again."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                continue  # a line that a kill cut short
        write_text(path, "".join(kept))


def environment() -> dict[str, Any]:
    """Return versions, machine and threads as environment.json holds them."""
    packages = ("torch", "numpy", "tokenizers", "safetensors", "pillow", "pyarrow", "duckdb", "pydantic")
    return {
        "diptych": diptych.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: version(name) for name in packages},
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "ranks": launched_size(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    }


def free(key: str) -> bool:
    """Whether a dotted key may change while a run goes on."""
    patterns = (f"{name}*" if name.endswith(".") else name for name in FREE_KEYS)
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def _check(path: Path, config: RunConfig, resume: bool) -> None:
    recorded = path / "config.yaml"
    if not recorded.exists():
        others = sorted(p.name for p in path.iterdir() if not p.name.startswith("."))
        if others:
            raise RunError(
                f"{path}: exists and holds no run ({', '.join(others[:5])}; config.yaml is missing); "
                f"choose another "
                f"directory with name=... or --run-dir, or empty this one"
            )
        return
    if not resume:
        raise RunError(f"{path}: holds a run already; choose another name=..., or delete the directory")
    try:
        before = resolve(RunConfig, recorded).config
    except ConfigError as error:
        raise RunError(
            f"{path}: holds a run whose config.yaml this version of Diptych cannot read ({error}); "
            f"choose another name=..., or delete the directory"
        ) from error
    if Checkpoints(path / "checkpoints").newest() is None and not (path / "export").exists():
        return  # nothing of it was kept, so nothing is lost when it starts anew with other settings
    changes = [line for line in diff(before, config) if not free(line.partition(": ")[0])]
    if changes:
        raise RunError(
            f"{path}: holds a run of another recipe (there -> now): {'; '.join(changes)}. Choose another "
            f"name=... or "
            f"--run-dir for a new run, delete the directory to start over, or give the settings of "
            f"{recorded} to go on with it"
        )


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold a lock that the kernel lets go when the process ends, however it ends."""
    with (path / ".lock").open("w") as file:
        # torchrun restarts ranks when the earlier ones are gone; over a network their lock may go later.
        restarted = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
        deadline = time.monotonic() + (RESTART_PATIENCE if restarted else 0.0)
        while not _locked(file):
            if time.monotonic() >= deadline:
                raise RunError(
                    f"{path}: another process is training in this directory; wait for it, stop it, or choose "
                    f"another name=..."
                )
            time.sleep(0.2)
        yield


def _locked(file: TextIO) -> bool:
    try:
        # Not flock: forked loader processes would hold it for seconds after the trainer was killed.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> str | None:
    """Return the commit of the source tree that diptych runs from, if it is one."""
    root = Path(diptych.__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
