"""Read what runs left behind: configuration, curves, evaluations. Nothing is computed again."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from diptych.errors import RunError


@dataclass(frozen=True)
class EvalView:
    """One folder `eval/<task>_<dataset>_<split>`."""

    path: Path
    metrics: dict[str, Any]

    @property
    def title(self) -> str:
        """Dataset and split in words."""
        return f"{self.metrics.get('dataset', '?')} · {str(self.metrics.get('split', '?')).replace('_', ' ')}"

    @cached_property
    def predictions(self) -> list[dict[str, Any]]:
        """Rows of predictions.jsonl."""
        path = self.path / "predictions.jsonl"
        return read_jsonl(path) if path.exists() else []

    @cached_property
    def experts(self) -> list[dict[str, Any]]:
        """Layers of experts.json, empty for a model without experts."""
        path = self.path / "experts.json"
        return list(read_json(path).get("layers", [])) if path.exists() else []

    @property
    def headline(self) -> dict[str, Any]:
        """Scores of the kind the evaluation names as its headline."""
        scores = self.metrics.get("scores", {})
        return dict(scores.get(self.metrics.get("headline", ""), {}))


@dataclass(frozen=True)
class RunView:
    """One run directory."""

    path: Path
    name: str
    config: dict[str, Any]
    sources: dict[str, str]
    environment: dict[str, Any]
    rows: list[dict[str, Any]]
    evaluations: list[EvalView]
    label: str = ""

    @property
    def title(self) -> str:
        """What to call the run on the page."""
        return self.label or self.name

    @property
    def last(self) -> Mapping[str, Any]:
        """The newest row of metrics.jsonl."""
        return self.rows[-1] if self.rows else {}

    @property
    def changed(self) -> list[tuple[str, Any, str]]:
        """Settings that something other than a default set: (dotted key, value, layer)."""
        return [
            (key, look_up_value(self.config, key), source)
            for key, source in self.sources.items()
            if source != "default" and look_up_value(self.config, key) is not None
        ]


def read_run(path: Path, label: str = "") -> RunView:
    """Read a run directory.

    Raises:
        RunError: the folder is no run directory, or a file of it is damaged.
    """
    config_path = path / "config.yaml"
    if not config_path.exists():
        raise RunError(
            f"{path}: no run directory (config.yaml is missing); expected a folder that `diptych train` wrote"
        )
    config = yaml.safe_load(config_path.read_text(encoding="utf-8")) or {}
    metrics = path / "metrics.jsonl"
    return RunView(
        path=path,
        name=str(config.get("name", path.name)),
        config=config,
        sources=_optional_json(path / "provenance.json"),
        environment=_optional_json(path / "environment.json"),
        rows=read_jsonl(metrics) if metrics.exists() else [],
        evaluations=[EvalView(p.parent, read_json(p)) for p in sorted(path.glob("eval/*/metrics.json"))],
        label=label,
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object, or say which file is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path}: cannot be read as JSON ({error}); run the step that wrote it again"
        ) from error
    if not isinstance(content, dict):
        raise RunError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines; a last line cut short by a kill is left out."""
    lines = path.read_text(encoding="utf-8").splitlines()
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            if number == len(lines):
                break
            raise RunError(f"{path}:{number}: not a JSON line ({error})") from error
    return rows


def look_up_value(config: Mapping[str, Any], dotted: str) -> Any:
    """Return the value at a dotted key, or None."""
    value: Any = config
    for part in dotted.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


@dataclass(frozen=True)
class Thumbnails:
    """Pictures of a prepared dataset as data URIs, by sample key."""

    uris: Mapping[str, str] = field(default_factory=dict)

    def get(self, key: str) -> str:
        """Return the data URI of a key, or an empty string if the dataset is not there any more."""
        return self.uris.get(key, "")
