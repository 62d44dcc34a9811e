"""Pre-training runs on clips: two ranks train what one process trains, queues included."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.ranks import run_ranks

from diptych.blocks.collective import World
from diptych.cli.main import run
from diptych.systems.snps3.system import SYSTEM
from diptych.train.config import resolve_run
from diptych.train.engine import train

pytestmark = pytest.mark.slow


def recipe(folder: Path) -> dict[str, Any]:
    return {
        "name": "toy",
        "data": {
            "path": str(folder / "clips"),
            "split": "train",
            "image": {"size": 32},
            "video": {"frames": 2},
            "text": {"vocab_size": 120, "max_tokens": 16, "pick": "random"},
            "loader": {"batch_size": 6},
        },
        "system": SYSTEM.toy_config().model_dump(mode="json"),
        "task": {
            "name": "snps3_pretrain",
            "words": str(folder / "words" / "counts.json"),
            "masking": "significant",
            "lvwm": "after",
            "queue": 16,
            "momentum": 0.9,
            # Samples of a rank: the same groups on one and on two.
            "level2_group": 3,
            "head_dropout": 0.0,
        },
        "optim": {"lr": 0.003, "eps": 1e-4},
        "schedule": {"name": "constant"},
        "train": {"steps": 3, "log_every": 1, "checkpoint_every": 0, "threads": 1, "count_flops": False},
    }


def start(world: World, settings: dict[str, Any], folder: Path) -> int:
    return train(resolve_run(settings), folder, progress=False).step


def test_two_ranks_train_what_one_process_trains(tmp_path: Path) -> None:
    prepared = ["-o", "size=24", "-o", "resolution=32", "-o", "kinds=12", "-o", "style=noto"]
    assert run(["data", "prepare", "emoji-clips", "--out", str(tmp_path / "clips"), *prepared]) == 0
    words = ["--out", str(tmp_path / "words"), "--tagger", "emoji", "--workers", "1"]
    assert run(["words", "mine", f"{tmp_path / 'clips'}:train", *words]) == 0
    settings = recipe(tmp_path)
    assert start(World(), settings, tmp_path / "one") == 3
    assert run_ranks(start, settings, tmp_path / "two") == [3, 3]
    ours, theirs = (load_file(tmp_path / name / "export/model.safetensors") for name in ("two", "one"))
    assert ours.keys() == theirs.keys()
    assert int(theirs["moco.text_queue.filled"]) == 16
    assert int(theirs["moco.visual_queue.pointer"]) == 3 * 6 * 2 % 16
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=5e-6, msg=lambda text, n=name: n + text)
    rows = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("two", "one")
    ]
    for found, expected in zip(*rows, strict=True):
        for figure in (n for n in expected if n.startswith(("loss", "metric/"))):
            assert found[figure] == pytest.approx(expected[figure], rel=2e-5, abs=1e-6), figure
