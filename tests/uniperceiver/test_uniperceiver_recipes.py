"""Uni-Perceiver: recipes of classification, retrieval, questions have the published numbers, and run."""

import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from diptych.cli.main import run
from diptych.errors import ConfigError
from diptych.evaluation.run import evaluate
from diptych.systems.uniperceiver.config import UniPerceiverConfig
from diptych.systems.uniperceiver.system import SYSTEM
from diptych.train.build import check_config
from diptych.train.config import RunConfig, resolve_run
from diptych.train.optim import parameter_groups
from diptych.train.schedule import Extent, lr_factor

# Reference page, section 15: batch of a GPU, rate, weight decay, steps, warm-up, drop path, label smoothing,
# lowest rate, clip.
PUBLISHED = {
    "imagenet_1k": (128, 2e-5, 1e-8, 20_000, 2_000, 0.1, 0.1, 1e-8, 0.1),
    "imagenet_1k_384": (64, 2e-5, 1e-6, 40_000, 4_000, 0.1, 0.1, 1e-6, 0.0),
    "kinetics_400": (8, 5e-6, 1e-4, 40_000, 2_000, 0.1, 0.0, 1e-6, 0.1),
    "coco_retrieval": (256, 5e-6, 1e-4, 10_000, 500, 0.2, 0.1, 1e-6, 0.1),
    "flickr_retrieval": (256, 5e-6, 1e-4, 5_000, 200, 0.1, 0.1, 1e-6, 0.1),
    "msvd_retrieval": (16, 5e-6, 1e-4, 2_000, 200, 0.1, 0.1, 1e-6, 0.1),
    "vqa": (64, 4e-5, 0.05, 20_000, 1_000, 0.1, None, 1e-8, 0.0),
}
GPUS = 16


def config_of(name: str) -> RunConfig:
    return resolve_run(f"uniperceiver/{name}").config


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_numbers(name: str) -> None:
    batch, rate, decay, steps, warmup, drop, smoothing, lowest, clip = PUBLISHED[name]
    config = config_of(f"finetune/{name}")
    system, optim = config.system, config.optim
    assert isinstance(system, UniPerceiverConfig)
    side = 384 if "384" in name else 224
    base = {"image_size": side, "drop_path": drop, "grid_scale": system.grid_scale}
    if name == "vqa":
        base |= {"learn_temperatures": False, "temperature": 0.03, "share_norm": False}
    assert system == UniPerceiverConfig.model_validate(base)
    assert system.grid_scale == pytest.approx(160 / side, abs=1e-5)
    assert config.data.loader.batch_size == GPUS * batch
    assert (optim.lr, optim.weight_decay, config.train.clip) == (rate, decay, clip)
    assert optim.betas == ((0.9, 0.999) if "imagenet" in name else (0.9, 0.95))
    assert optim.eps == (1e-8 if name == "vqa" else 1e-6)
    assert (config.train.steps, config.schedule.warmup) == (steps, warmup)
    last = lr_factor(config.schedule, Extent(steps, 0), steps - 1, 1.0)
    assert rate * last == pytest.approx(lowest, rel=0.01)
    if smoothing is not None:
        assert getattr(config.task, "label_smoothing") == smoothing  # noqa: B009
    check_config(config)


@pytest.mark.parametrize(
    "name", ["imagenet_1k", "kinetics_400", "coco_retrieval", "flickr_retrieval", "msvd_retrieval"]
)
def test_zero_shot_recipes_fit_the_converted_model(name: str) -> None:
    config = config_of(f"zeroshot/{name}")
    check_config(config)
    assert config.init_from.path == "models/uniperceiver-base"


@pytest.mark.slow
def test_an_evaluation_by_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["data", "prepare", "emoji", "--out", "data/emoji"]) == 0
    few = [
        "train.steps=2",
        "data.loader.batch_size=8",
        "task.candidates=16",
        "system.width=32",
        "system.layers=1",
    ]
    assert (
        run(["train", "uniperceiver/pretrain/names_emoji_tiny", "data.where=concept_index < 40", *few]) == 0
    )
    limited = ["evaluate.where=concept_index < 300", "evaluate.batch_size=16"]
    assert run(["eval", "uniperceiver/zeroshot/emoji_tiny", *limited]) == 0
    capsys.readouterr()
    (folder,) = Path("runs/uniperceiver-emoji-names/eval").iterdir()
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["classes"] == 137  # the names of the held-out concepts, not those of the training
    assert metrics["target"] == "data/emoji:unseen_both#name"
    assert 0 < metrics["scored"] < 137
    Path("two.txt").write_text("one\ntwo\n")
    with pytest.raises(ConfigError, match="need other weights"):
        evaluate("uniperceiver/zeroshot/emoji_tiny", ["task.head=linear", "task.target=two.txt", *limited])
    with pytest.raises(ConfigError, match=r"give init_from\.path=MODEL"):
        evaluate("uniperceiver/zeroshot/emoji_tiny", ["init_from.path="])


@pytest.mark.parametrize(("name", "decay"), [("vqa", 0.05), ("glue_cola", 0.05), ("coco_retrieval", 0.0)])
def test_tables_are_decayed_where_published(name: str, decay: float) -> None:
    config = config_of(f"finetune/{name}")
    model = SYSTEM.build(SYSTEM.toy_config())
    task: Any = nn.ModuleDict({"model": model})
    groups = parameter_groups(task, config.optim, ())
    found = {n: group["weight_decay"] for group in groups for n in group["names"]}
    tables = {f"model.{n}" for n in model.undecayed()}
    assert len(tables) == 5
    assert {found[n] for n in tables} == {decay}
    assert found["model.likelihood.scales.caption"] == found["model.text.norm.weight"] == 0.0
    assert found["model.layers.0.qkv.weight"] == config.optim.weight_decay
