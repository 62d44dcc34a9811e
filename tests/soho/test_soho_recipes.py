"""SOHO's recipes: the released numbers, and that they run (small), from miniatures and on emoji scenes."""

import json
from pathlib import Path

import numpy as np
import pytest

from diptych.cli.main import run
from diptych.config.recipes import packaged_recipes
from diptych.data.prepare import load_card, prepare
from diptych.evaluation.run import evaluate
from diptych.systems.soho.config import SohoConfig
from diptych.systems.soho.pretrain_config import SohoPretrainConfig
from diptych.tasks.vqa_config import VqaConfig
from diptych.train.build import check_config
from diptych.train.config import RunConfig, resolve_run
from diptych.train.engine import train
from diptych.train.schedule import Extent, lr_factor

# Reference page, sections 10, 11: batch of all ranks, steps, milestones (of all epochs), clipping, precision.
RELEASED = {
    "pretrain/vg_coco": (8 * 16, None, (25 / 40, 35 / 40), 10.0, "bf16"),
    "finetune/vqa": (8 * 32, 20 * -(-658_111 // 512), (12 / 20, 16 / 20), 4.0, "fp32"),
}


def config_of(name: str) -> RunConfig:
    return resolve_run(f"soho/{name}").config


def check_released(config: RunConfig) -> None:
    """Check what both released configurations share."""
    group = config.optim.groups["backbone"]
    assert (group.match, group.name, group.lr) == (("model.backbone.*",), "sgd", 1e-2)
    assert (group.momentum, group.weight_decay) == (0.9, 1e-4)
    optim = config.optim
    assert (optim.name, optim.lr, optim.weight_decay) == ("adamw_published", 1e-4, 0.01)
    assert (optim.decay, optim.betas, optim.eps) == ("all", (0.9, 0.999), 1e-6)
    assert config.train.accumulate == 2
    image = config.data.image
    assert (image.resize, image.long, image.short, image.multiple) == ("fit", 1000, 600, 32)
    assert image.interpolation == "opencv"
    assert config.data.text.max_tokens == 16
    assert config.data.text.tokenizer.endswith("vocab.txt")
    assert config.data.loader.bucket == "published"


@pytest.mark.parametrize("name", RELEASED)
def test_released_recipes_have_the_released_numbers(name: str) -> None:
    batch, steps, milestones, clip, precision = RELEASED[name]
    config = config_of(name)
    check_released(config)
    assert config.data.loader.batch_size == batch
    assert steps is None or config.train.steps == steps
    assert config.schedule.milestones == milestones
    assert (config.train.clip, config.train.precision) == (clip, precision)
    system = config.system
    assert isinstance(system, SohoConfig)
    expected = SohoConfig(neck=system.neck, dictionary=system.dictionary.published())
    backbone = expected.backbone.with_(frozen_stages=1, recompute=name.startswith("pretrain"))
    assert system == expected.with_(backbone=backbone)
    assert (system.dictionary.codes, system.dictionary.decay) == (2048, 0.4)
    check_config(config)


def test_rates_rise_over_a_thousand_batches_and_fall_at_the_milestones() -> None:
    config = config_of("finetune/vqa")
    steps = config.train.steps

    def factor(step: int) -> float:
        return lr_factor(config.schedule, Extent(steps, 0), step, step / steps, config.train.accumulate)

    # The second batch of a step decides: batch 1 of 1000.
    assert factor(0) == pytest.approx(1 - (1 - 1 / 1000) * (1 - 1 / 3))
    assert factor(499) == pytest.approx(1 - (1 - 999 / 1000) * (1 - 1 / 3))
    epoch = steps // 20
    assert [factor(s) for s in (500, 12 * epoch - 1, 12 * epoch)] == pytest.approx([1, 1, 0.1])
    assert [factor(s) for s in (16 * epoch - 1, 16 * epoch)] == pytest.approx([0.1, 0.01])


def test_what_the_two_released_tasks_do() -> None:
    pretrain, vqa = config_of("pretrain/vg_coco"), config_of("finetune/vqa")
    assert isinstance(pretrain.task, SohoPretrainConfig)
    assert (pretrain.task.visual_mask, pretrain.task.visual_mask_ratio) == ("published", 0.015)
    assert (pretrain.task.text_mask_ratio, pretrain.task.wrong_text) == (0.15, 0.5)
    assert (pretrain.data.text.per_picture, pretrain.system.model_dump()["neck"]) == (4, "gated")
    assert isinstance(vqa.task, VqaConfig)
    assert (vqa.task.head, vqa.task.loss, vqa.task.unanswerable) == ("dropout", "binary", "count")
    assert (vqa.data.image.train_long, vqa.data.image.train_short) == (1333, (400, 800))
    assert vqa.evaluate.batch_size == 1


def test_larger_recipes_differ_in_size_alone() -> None:
    for name in ("pretrain/vg_coco", "finetune/vqa"):
        released, larger = config_of(name), config_of(f"{name}_res101")
        same = released.model_dump(exclude={"name", "init_from", "system"})
        assert larger.model_dump(exclude={"name", "init_from", "system"}) == same
        assert isinstance(released.system, SohoConfig)
        backbone = released.system.backbone.with_(depth=101)
        assert larger.system == released.system.with_(backbone=backbone, layers=12)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [n.removeprefix("soho/") for n in packaged_recipes() if n.startswith("soho/")]
)
def test_parts_of_every_recipe_fit_each_other(name: str) -> None:
    if not name.rpartition("/")[2].startswith("_"):
        check_config(config_of(name))


SMALL = [
    "data.image.long=160",
    "data.image.short=96",
    "data.text.tokenizer=auto",
    "data.text.vocab_size=80",
    "data.loader.workers=0",
    "data.loader.batch_size=2",
    "system.backbone.stem_channels=4",
    "system.backbone.base_channels=4",
    "system.width=32",
    "system.layers=1",
    "system.heads=4",
    "system.hidden=48",
    "system.vocab_size=80",
    "train.steps=2",
    "train.accumulate=1",
    "train.log_every=1",
    "train.device=cpu",
    "train.precision=fp32",
    "train.count_flops=false",
    "evaluate.device=cpu",
]


@pytest.mark.slow
def test_published_recipes_run_from_raw_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both stages as docs/systems/soho.md says, on miniatures of the raw files."""
    monkeypatch.chdir(tmp_path)
    for card in ("soho-pretrain", "soho-vqa"):
        assert run(["data", "miniature", card, "--out", f"raw/{card}"]) == 0
        assert run(["data", "prepare", card, "--raw", f"raw/{card}", "--out", f"data/{card}"]) == 0
    assert run(["train", "soho/pretrain/vg_coco", *SMALL, "init_from.path=", "name=pre"]) == 0
    assert run(["eval", "runs/pre"]) == 0
    longer = ["data.image.train_long=192", "data.image.train_short=[64,128]"]
    assert run(["train", "soho/finetune/vqa", *SMALL, *longer, "init_from.path=runs/pre", "name=vqa"]) == 0
    assert run(["eval", "runs/vqa"]) == 0
    (submission,) = (tmp_path / "runs/vqa/eval").glob("*/submission.json")
    assert {row["question_id"] for row in json.loads(submission.read_text())} == {13000, 13001}
    assert run(["eval", "runs/vqa", "evaluate.split=val"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "runs/vqa/metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["loss"]) for row in rows)


CHAIN = {
    "pretrain": ("soho/pretrain/scenes_tiny", ""),
    "retrieval": ("soho/finetune/retrieval_scenes_tiny", "pretrain"),
    "vqa": ("soho/finetune/vqa_scenes_tiny", "pretrain"),
    "nlvr": ("soho/finetune/nlvr_scenes_tiny", "vqa"),
}
UNITS = {"pretrain": "samples", "retrieval": "pairs", "vqa": "questions", "nlvr": "statements"}


@pytest.mark.slow
def test_tiny_recipes_start_from_each_other(tmp_path: Path) -> None:
    options = {"size": "60", "resolution": "48", "style": "noto"}
    prepare(
        load_card("emoji-scenes"), None, tmp_path / "data", options=options, shard_size=100, progress=None
    )
    for name, (recipe, before) in CHAIN.items():
        start = [f"init_from.path={tmp_path / before}"] if before else []
        settings = ["data.loader.batch_size=8", "train.steps=2", "train.threads=1", "evaluate.where=null"]
        train(resolve_run(recipe, [f"data.path={tmp_path / 'data'}", *settings, *start]), tmp_path / name)
        evaluate(tmp_path / name, ["evaluate.threads=1"])
        (path,) = (tmp_path / name).glob("eval/*/metrics.json")
        metrics = json.loads(path.read_text())
        assert metrics["split"] == "test"
        assert metrics[UNITS[name]] > 0
