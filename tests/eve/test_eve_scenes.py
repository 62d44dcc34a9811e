"""Tiny recipes on emoji scenes: pre-training, questions, statements about pairs, each from the last."""

import json
from pathlib import Path

import pytest

from diptych.data.prepare import load_card, prepare
from diptych.evaluation.run import evaluate
from diptych.train.config import resolve_run
from diptych.train.engine import train

CHAIN = {
    "pretrain": "eve/pretrain/scenes_tiny",
    "vqa": "eve/finetune/vqa_scenes_tiny",
    "nlvr": "eve/finetune/nlvr_scenes_tiny",
}


@pytest.mark.slow
def test_each_recipe_starts_from_the_one_before(tmp_path: Path) -> None:
    options = {"size": "60", "resolution": "48", "style": "noto"}
    prepare(
        load_card("emoji-scenes"), None, tmp_path / "data", options=options, shard_size=100, progress=None
    )
    before: Path | None = None
    for name, recipe in CHAIN.items():
        start = [f"init_from.path={before}"] if before else []
        settings = ["data.loader.batch_size=8", "train.steps=2", "train.threads=1", "train.count_flops=false"]
        before = tmp_path / name
        train(resolve_run(recipe, [f"data.path={tmp_path / 'data'}", *settings, *start]), before)
        assert (before / "export" / "model.yaml").exists()
    for name, unit in {"vqa": "questions", "nlvr": "statements"}.items():
        evaluate(tmp_path / name, ["evaluate.threads=1"])
        (path,) = (tmp_path / name).glob("eval/*/metrics.json")
        metrics = json.loads(path.read_text())
        assert metrics["split"] == "test"
        assert metrics[unit] > 0
        assert 0 <= metrics["accuracy"] <= 1
