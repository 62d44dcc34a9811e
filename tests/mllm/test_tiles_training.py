"""Training on tiles: sources with limits of their own, rates by depth, an evaluation, going on."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from diptych.cli.main import run
from diptych.data.sample import Sample
from diptych.data.shards import ShardWriter
from diptych.data.text import Tokenizer
from diptych.systems.mllm.system import SYSTEM
from diptych.systems.mllm.vision import VisionConfig
from diptych.train.build import build_task
from diptych.train.config import resolve_run
from diptych.train.engine import train
from diptych.train.optim import build_optimizer

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220), "grey": (120, 120, 120)}


def shards(folder: Path, seed: int) -> Path:
    """Write pictures of one colour each, of several shapes, with the colour as caption."""
    rng = np.random.default_rng(seed)
    with ShardWriter(folder, "toy", 8) as writer:
        for i in range(16):
            name, colour = list(COLOURS.items())[i % 4]
            size = tuple(int(side) for side in rng.integers(8, 60, 2))
            out = io.BytesIO()
            Image.new("RGB", size, colour).save(out, "PNG")
            writer.write(Sample(f"k{i:02d}", {"png": out.getvalue()}, (name,)))
    return folder


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("tiles")
    sources: dict[str, Any] = {
        "few": {"path": str(shards(folder / "few", 1))},
        "many": {
            "path": str(shards(folder / "many", 2)),
            "batch_size": 2,
            "settings": {"image": {"tiling": {"hd_num": 6}}},
        },
    }
    system = SYSTEM.toy_config()
    tiling = system.tiling.with_(kind="hd", hd_num=3, eval_hd_num=4, random_size=True)
    return {
        "name": "tiles",
        "data": {
            "sources": sources,
            "mixture": {"draw": "batches"},
            "image": {"size": 16, "resize": "tiles"},
            "text": {"vocab_size": 200},
            "loader": {"batch_size": 4, "workers": 0},
        },
        "system": system.with_(tiling=tiling).model_dump(mode="json"),
        "task": {"name": "instruct", "caption": "Which colour?", "max_tokens": 100},
        "optim": {"lr": 1e-3, "layer_decay": 0.5},
        "train": {"steps": 6, "log_every": 1, "checkpoint_every": 3, "device": "cpu", "threads": 1},
    }


@pytest.mark.slow
def test_a_run_its_evaluation_and_going_on(recipe: dict[str, Any], tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(resolve_run(recipe), whole, progress=False)
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 6
    assert losses[-1] < losses[0]
    state = load_file(whole / "export" / "model.safetensors")
    assert state["model.connector.newline"].shape == (32,)
    path = recipe["data"]["sources"]["few"]["path"]
    assert run(["eval", str(whole), f"evaluate.path={path}", "evaluate.split=train"]) == 0
    assert len(list(whole.glob("eval/*/metrics.json"))) == 1
    # A run that was stopped after its third step ends with the same weights.
    shutil.copytree(whole, parts)
    shutil.rmtree(parts / "export")
    shutil.rmtree(parts / "checkpoints" / "step_00000006")
    train(resolve_run(recipe), parts, progress=False)
    again = load_file(parts / "export" / "model.safetensors")
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)


def test_rates_fall_in_the_encoder_alone(recipe: dict[str, Any]) -> None:
    seen = {
        "model_type": "clip_vision_model",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
    }
    changed = {**recipe["system"], "vision": VisionConfig(settings=seen).model_dump(mode="json")}
    groups = {"language": {"match": ["model.language.*"], "lr": 2e-4}}
    rates = {"lr": 1e-3, "layer_decay": 0.5, "groups": groups}
    config = resolve_run({**recipe, "system": changed, "optim": rates})
    task = build_task(config.config, Tokenizer.train(list(COLOURS), 100))
    optimizer = build_optimizer(task, config.config.optim, ())
    scales = {n: round(group["lr_scale"], 6) for group in optimizer.param_groups for n in group["names"]}
    layer = "model.vision.model.encoder.layers"
    assert [scales[f"{layer}.{i}.mlp.fc1.weight"] for i in range(3)] == [0.25, 0.5, 1.0]
    assert scales["model.vision.model.embeddings.class_embedding"] == 0.125
    assert scales["model.connector.newline"] == 1.0
    assert {scales[n] for n in scales if n.startswith("model.language.")} == {0.2}
