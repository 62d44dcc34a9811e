"""Two ranks learn to write what one process learns: words of all ranks count, the vocabulary is shared."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.ranks import run_ranks

from diptych.blocks.collective import World
from diptych.cli.main import run
from diptych.train.config import resolve_run
from diptych.train.engine import train

pytestmark = pytest.mark.slow


def start(world: World, settings: list[str], folder: Path) -> int:
    recipe = "uniperceiver/finetune/caption_scenes_tiny"
    return train(resolve_run(recipe, settings), folder, progress=False).step


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_two_ranks_train_what_one_process_trains(tmp_path: Path) -> None:
    options = ["size=20", "resolution=48", "style=noto", "kinds=12"]
    prepared = [part for option in options for part in ("-o", option)]
    assert run(["data", "prepare", "emoji-scenes", "--out", str(tmp_path / "data"), *prepared]) == 0
    settings = [
        f"data.path={tmp_path / 'data'}",
        "init_from.path=",
        "data.loader.batch_size=6",
        "data.text.vocab_size=90",
        "system.vocab_size=90",
        "system.width=32",
        "system.hidden=48",
        "system.layers=1",
        "train.steps=3",
        "train.log_every=1",
        "train.checkpoint_every=0",
        "train.threads=1",
        "train.device=cpu",
        "optim.eps=1e-4",
    ]
    assert start(World(), settings, tmp_path / "one") == 3
    assert run_ranks(start, settings, tmp_path / "two") == [3, 3]
    ours, theirs = (load_file(tmp_path / name / "export/model.safetensors") for name in ("two", "one"))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=5e-6, msg=lambda text, n=name: n + text)
    for found, expected in zip(rows_of(tmp_path / "two"), rows_of(tmp_path / "one"), strict=True):
        for figure in ("loss", "metric/accuracy"):
            assert found[figure] == pytest.approx(expected[figure], rel=2e-5, abs=1e-6), figure
