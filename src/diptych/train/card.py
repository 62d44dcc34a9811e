"""Model cards: what an export is, in a README.md beside its weights."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import PurePath
from typing import Any

import yaml
from torch import Tensor

import diptych

CARD = "README.md"
_USES = {
    "retrieval": (
        'pictures, texts = model.encode_image(["a.jpg", "b.jpg"]), model.encode_text(["a dog", "a cat"])',
        "similarities = pictures @ texts.T  # [2, 2]",
    ),
    "vqa": ('model.answer("a.jpg", "What colour is the car?")[0].text',),
    "nlvr": ('model.judge([("left.jpg", "right.jpg")], "Both pictures show a dog.")  # probability [1]',),
}
_PIPELINES = {"vqa": "visual-question-answering", "retrieval": "zero-shot-image-classification"}


def model_card(
    settings: Mapping[str, Any], state: Mapping[str, Tensor], *, step: int, tokens: int | None
) -> str:
    """Return the text of a model card (Markdown).

    Args:
        settings: sections of `RunConfig`, at least `system`; what is missing is left out.
        state: the weights.
        step: steps that they were trained for; 0: unknown.
        tokens: size of the tokenizer's vocabulary; None: there is none.
    """
    system, task = settings["system"]["name"], (settings.get("task") or {}).get("name", "")
    title = settings.get("name") or f"{system}{f', {task}' if task else ''}"
    head: dict[str, Any] = {"library_name": "diptych", "tags": [tag for tag in (system, task) if tag]}
    if task in _PIPELINES:
        head["pipeline_tag"] = _PIPELINES[task]
    rows = [f"| {name} | {value} |" for name, value in _facts(settings, state, step, tokens).items()]
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False).strip()}\n---",
        f"# {title}",
        "\n".join(["| | |", "|---|---|", *rows]),
        "## Use",
        _use(system, task),
        *_about(system),
        "The settings of its training are in `model.yaml`. Diptych is under Apache-2.0; the terms of these\n"
        "weights are up to whoever trained them, and to their data.",
    ]
    return "\n\n".join(parts) + "\n"


def _facts(
    settings: Mapping[str, Any], state: Mapping[str, Tensor], step: int, tokens: int | None
) -> dict[str, str]:
    system, data = settings["system"], settings.get("data") or {}
    experts = sum(t.numel() for n, t in state.items() if ".experts." in n)
    found = {
        "system": system["name"],
        "task": (settings.get("task") or {}).get("name", "none: heads are missing, train it from here"),
        "weights": f"{sum(t.numel() for t in state.values()):,}"
        + (f", of which {experts:,} in experts" if experts else ""),
    }
    if "image" in data:
        found["pictures"] = _pictures(data["image"])
    if "text" in data:
        found["texts"] = f"up to {data['text']['max_tokens']} tokens"
    found["tokenizer"] = f"{tokens:,} tokens" if tokens is not None else "not included"
    if data.get("path"):
        # The name of the dataset, not where it lies on the machine that trained.
        found["trained on"] = PurePath(data["path"]).name
    if step:
        found["steps"] = f"{step:,}"
    found["made with"] = f"Diptych {diptych.__version__}"
    return found


def _pictures(image: Mapping[str, Any]) -> str:
    if image.get("resize") == "fit":
        return f"of any shape, within {image['long']} x {image['short']} pixels"
    return f"{image['size']} x {image['size']} pixels"


def _use(system: str, task: str) -> str:
    """Return an example in Python."""
    if not task:
        return "Train a task from it: set `init_from.path` to this folder."
    load = f'model = diptych.load("{system}", "path/of/this/folder")'
    lines = ["import diptych", "", load, *_USES.get(task, ())]
    return "\n".join(["```python", *lines, "```"])


def _about(system: str) -> list[str]:
    """Return the section that the system's folder has about itself, if it has one."""
    text = files("diptych.systems").joinpath(system, "card.md")
    return [f"## About\n\n{text.read_text(encoding='utf-8').strip()}"] if text.is_file() else []
