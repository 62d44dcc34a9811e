"""Trained multimodal language models as folders of Hugging Face."""

import shutil
from pathlib import Path

from diptych.errors import UsageError
from diptych.train.build import load_task
from diptych.train.export import FACTS, find_weights
from diptych.train.files import sync_tree


def write_hf_folder(path: Path, out: Path) -> Path:
    """Write a folder whose language model transformers loads alone, and Diptych as a whole.

    `out` gets config.json, model.safetensors, the tokenizer and its chat template, and `export/`, a copy of
    the export. It appears at once or not at all.

    Raises:
        UsageError: the model has no language model, or `path` is a checkpoint and no export.
        CheckpointError: nothing there, or damaged.
    """
    from diptych.data.chat import ChatTokenizer
    from diptych.systems.mllm.hf_export import write_language
    from diptych.systems.mllm.model import MllmModel

    folder = find_weights(path)
    if not (folder / FACTS).exists():
        raise UsageError(f"{path}: a checkpoint of an unfinished run; expected an export, or a finished run")
    config, task = load_task(folder)
    if not isinstance(task.model, MllmModel) or not isinstance(task.tokenizer, ChatTokenizer):
        raise UsageError(
            f"{path}: system.name = {config.system.name} has no language model to write; expected mllm"
        )
    aside = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        write_language(task.model.language, task.tokenizer, aside)
        shutil.copytree(folder, aside / "export", ignore=shutil.ignore_patterns("eval"))
        sync_tree(aside)
        if out.exists():
            shutil.rmtree(out)
        aside.replace(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return out
