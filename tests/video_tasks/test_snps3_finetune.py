"""SNP-S3's recipes of fine-tuning: published numbers; small runs from raw files and on emoji clips."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.cli.main import run
from diptych.config.recipes import packaged_recipes
from diptych.data.prepare import load_card, prepare
from diptych.errors import ConfigError
from diptych.evaluation.run import evaluate
from diptych.systems.snps3.config import SnpS3Config
from diptych.tasks.multiple_choice_config import MultipleChoiceConfig
from diptych.tasks.retrieval_levels_config import RetrievalLevelsConfig
from diptych.tasks.vqa_config import VqaConfig
from diptych.train.build import check_config
from diptych.train.config import RunConfig, resolve_run
from diptych.train.engine import train

FOLDER = "snps3/finetune/"
NAMES = [
    name.removeprefix(FOLDER)
    for name in packaged_recipes()
    if name.startswith(FOLDER) and not name.rpartition("/")[2].startswith("_")
]
# Reference page, section 11: rate, step of the fall, steps; split that is trained on.
PUBLISHED: dict[str, tuple[float, int, int, str]] = {
    "msrvtt_7k": (1e-5, 15_000, 25_000, "train_7k"),
    "msrvtt_9k": (1e-5, 15_000, 25_000, "train_9k"),
    "didemo": (1e-5, 15_000, 25_000, "train"),
    "msvd": (1e-6, 8_000, 16_000, "train"),
    "msrvtt_qa": (1e-5, 15_000, 25_000, "train"),
    "msvd_qa": (1e-5, 10_000, 18_000, "train"),
}
ENCODERS = {"swin": PUBLISHED, "pvt": PUBLISHED, "resnet": {"msrvtt_7k", "msvd", "msrvtt_qa", "msvd_qa"}}


def config_of(name: str, *settings: str) -> RunConfig:
    return resolve_run(FOLDER + name, settings).config


FAST = {"msrvtt_7k_swin", "msvd_pvt", "msrvtt_qa_resnet", "choice_clips_tiny", "qa_clips_tiny"}


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_parts_of_every_recipe_fit_each_other(name: str) -> None:
    check_config(config_of(name))


def test_there_is_a_recipe_for_every_table() -> None:
    expected = {f"{task}_{encoder}" for encoder, tasks in ENCODERS.items() for task in tasks}
    assert {name for name in NAMES if not name.endswith("_tiny")} == expected


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("task", PUBLISHED)
def test_published_numbers(task: str, encoder: str) -> None:
    if task not in ENCODERS[encoder]:
        return
    config, (rate, fall, steps, split) = config_of(f"{task}_{encoder}"), PUBLISHED[task]
    assert (config.optim.lr, config.optim.weight_decay, config.optim.betas) == (rate, 1e-4, (0.9, 0.98))
    assert (config.schedule.milestones, config.schedule.gamma, config.train.steps) == ((fall,), 0.1, steps)
    assert (config.train.clip, config.train.precision) == (5.0, "fp32")
    assert (config.data.loader.batch_size, config.data.text.max_tokens, config.data.split) == (32, 30, split)
    assert (config.data.video.frames, config.data.video.policy) == (16, "segments")
    system = config.system
    assert isinstance(system, SnpS3Config)
    sizes = "square" if encoder == "swin" else "any"
    assert system == SnpS3Config(encoder=encoder, frames=16, sizes=sizes, mask="published")
    image = config.data.image
    if encoder == "swin":
        # The shorter side is 268 in an evaluation, int(1.2 * 224), and up to 336 in training.
        assert (image.resize, image.size, image.zoom_eval) == ("zoom_crop", 224, 1.2)
        assert tuple(int(224 * zoom) for zoom in image.zoom) == (268, 336)
    else:
        assert (image.resize, image.long, image.multiple) == ("fit", 448, 32)
    if task.endswith("qa"):
        assert isinstance(config.task, VqaConfig)
        assert (config.task.head, config.task.loss, config.data.examples) == (
            "linear",
            "softmax",
            "questions",
        )
    else:
        assert isinstance(config.task, RetrievalLevelsConfig)
        assert (config.task.level1, config.task.queue, config.task.momentum) == ("queue", 16384, 0.9999)
        assert (config.task.temperature, config.task.hard, config.task.k_test) == (0.05, "none", 0)


SMALL = [
    "data.text.tokenizer=auto",
    "data.text.vocab_size=80",
    "data.loader.workers=0",
    "data.loader.batch_size=2",
    "data.video.frames=2",
    "data.image.size=32",
    "system.image_size=32",
    "system.frames=2",
    "system.swin.width=4",
    "system.swin.depths=[1,1,1,1]",
    "system.swin.heads=[1,1,1,1]",
    "system.pvt.widths=[4,4,8,8]",
    "system.pvt.heads=[1,1,1,1]",
    "system.pvt.depths=[1,1,1,1]",
    "system.width=16",
    "system.layers=1",
    "system.heads=2",
    "system.hidden=16",
    "system.vocab_size=80",
    "system.separator=3",
    "train.steps=2",
    "train.log_every=1",
    "train.device=cpu",
    "train.count_flops=false",
    "evaluate.device=cpu",
]
QUEUE = "task.queue=16"
RAW = {
    "msrvtt_7k_swin": ("msr-vtt", "msrvtt", [QUEUE], ["sentences=1k"]),
    "msvd_pvt": (
        "msvd",
        "msvd",
        [
            QUEUE,
            "data.image.size=64",
            "data.image.long=64",
            "data.image.short=64",
            "data.image.train_short=[48,64]",
        ],
        [],
    ),
    "didemo_swin": ("didemo", "didemo", [QUEUE], []),
    "msrvtt_qa_swin": ("msrvtt-qa", "msrvtt-qa", [], []),
    "msvd_qa_swin": ("msvd-qa", "msvd-qa", [], []),
}


def metrics_of(path: Path) -> dict[str, Any]:
    (found,) = path.glob("eval/*/metrics.json")
    return json.loads(found.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", RAW)
def test_published_recipes_run_from_raw_files(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From miniatures of the raw files to figures."""
    monkeypatch.chdir(tmp_path)
    card, data, settings, options = RAW[name]
    own = [part for option in options for part in ("-o", option)]
    assert run(["data", "miniature", card, "--out", "raw"]) == 0
    assert run(["data", "prepare", card, "--raw", "raw", "--out", f"data/{data}", *own]) == 0
    assert run(["train", FOLDER + name, *SMALL, *settings, "init_from.path=", "--run-dir", "run"]) == 0
    assert run(["eval", "run"]) == 0
    metrics = metrics_of(tmp_path / "run")
    if "qa" in name:
        assert metrics["questions"] > 0
        assert set(metrics["kinds"]) <= {"what", "who", "how", "when", "where", "other"}
    else:
        assert metrics["headline"] == "level2"
        assert metrics["candidates"]["pairs"] == metrics["images"] * metrics["texts"]
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["loss"]) for row in rows)


@pytest.mark.slow
def test_a_retrieval_model_chooses_without_further_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MSRVTT-MC as published: with the weights of retrieval, momentum copies left behind."""
    monkeypatch.chdir(tmp_path)
    for card in ("msr-vtt", "msrvtt-mc"):
        assert run(["data", "miniature", card, "--out", f"raw/{card}"]) == 0
        assert run(["data", "prepare", card, "--raw", f"raw/{card}", "--out", f"data/{card}"]) == 0
    settings = [*SMALL, QUEUE, "init_from.path=", "data.path=data/msr-vtt"]
    assert run(["train", FOLDER + "msrvtt_7k_swin", *settings, "--run-dir", "run"]) == 0
    asked = ["task.name=multiple_choice", "data.examples=choices", "evaluate.path=data/msrvtt-mc"]
    assert run(["eval", "run", *asked, "evaluate.split=test"]) == 0
    metrics = metrics_of(tmp_path / "run")
    assert (metrics["task"], metrics["dataset"]) == ("multiple_choice", "msrvtt-mc")
    assert metrics["scored"] == metrics["questions"] > 0
    # Questions need a head that retrieval does not train.
    with pytest.raises(ConfigError, match="need other weights"):
        evaluate("run", ["task.name=retrieval", "evaluate.split=test_1k"])


CHAIN = {
    "retrieval": ("retrieval_clips_tiny", ""),
    "choice": ("choice_clips_tiny", "retrieval"),
    "qa": ("qa_clips_tiny", ""),
}
UNITS = {"retrieval": "texts", "choice": "questions", "qa": "questions"}


@pytest.mark.slow
def test_tiny_recipes_start_from_each_other(tmp_path: Path) -> None:
    options = {"size": "60", "resolution": "48", "style": "noto", "kinds": "12", "frames": "5"}
    prepare(load_card("emoji-clips"), None, tmp_path / "data", options=options, shard_size=100, progress=None)
    for name, (recipe, before) in CHAIN.items():
        start = f"init_from.path={tmp_path / before if before else ''}"
        settings = ["data.loader.batch_size=4", "train.steps=2", "train.threads=1", start]
        train(resolve_run(FOLDER + recipe, [f"data.path={tmp_path / 'data'}", *settings]), tmp_path / name)
        evaluate(tmp_path / name, ["evaluate.threads=1"])
        metrics = metrics_of(tmp_path / name)
        assert metrics["split"] == "test"
        assert metrics[UNITS[name]] > 0
        if name != "retrieval":
            assert metrics["ordered"]["count"] + metrics["unordered"]["count"] == metrics["scored"]
    assert isinstance(config_of("choice_clips_tiny").task, MultipleChoiceConfig)
