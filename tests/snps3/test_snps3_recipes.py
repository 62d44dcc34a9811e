"""SNP-S3's pre-training recipes: the published numbers, and that they run (small), from miniatures."""

import json
from pathlib import Path

import numpy as np
import pytest

from diptych.cli.main import run
from diptych.config.recipes import packaged_recipes
from diptych.systems.snps3.config import SnpS3Config
from diptych.systems.snps3.pretrain_config import SnpS3PretrainConfig
from diptych.train.build import check_config
from diptych.train.config import RunConfig, resolve_run
from diptych.train.schedule import Extent, lr_factor

# Reference page, section 10: visual encoder, steps, steps at which the rate falls.
PUBLISHED = {
    "coco_vg": ("pvt", 130_000, (110_000,)),
    "coco_vg_resnet": ("resnet", 400_000, (150_000,)),
    "cc3m": ("swin", 130_000, (110_000,)),
    "webvid2m": ("swin", 195_000, (0.5,)),
}


def config_of(name: str) -> RunConfig:
    return resolve_run(f"snps3/pretrain/{name}").config


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipes_have_the_published_numbers(name: str) -> None:
    encoder, steps, milestones = PUBLISHED[name]
    config = config_of(name)
    system, task, optim = config.system, config.task, config.optim
    assert isinstance(system, SnpS3Config)
    assert isinstance(task, SnpS3PretrainConfig)
    # The default model is the published one.
    own_shape = encoder != "swin"
    assert system == SnpS3Config.model_validate(
        {"encoder": encoder, "mask": "published", "sizes": "any" if own_shape else "square"}
    )
    assert config.data.loader.batch_size == 128
    assert config.data.image.resize == ("fit" if own_shape else "zoom_crop")
    assert (config.train.steps, config.schedule.milestones) == (steps, milestones)
    assert (config.train.clip, config.train.precision) == (5.0, "bf16")
    assert (optim.lr, optim.weight_decay, optim.betas, optim.eps) == (5e-5, 1e-3, (0.9, 0.98), 1e-8)
    assert (task.masking, task.words_top, task.text_mask_ratio) == ("published", 3000, 0.15)
    assert (task.window, task.guided, task.guided_by) == (30, 0.5, "step")
    assert (task.queue, task.momentum, task.temperature) == (16384, 0.9999, 0.05)
    assert (task.lvwm, task.lvwm_words, task.level2_group) == ("after", 3, 128 // 8)
    assert set(task.weights.values()) == {1.0}
    assert len(task.weights) == 6
    assert config.data.video.frames == (4 if name == "webvid2m" else 0)
    check_config(config)


def test_howto100m_differs_from_webvid_in_data_and_batch() -> None:
    config, webvid = config_of("howto100m"), config_of("webvid2m")
    check_config(config)
    assert (config.data.path, config.data.loader.batch_size) == ("data/howto100m", 64)
    assert config.data.video == webvid.data.video
    assert (config.task, config.optim, config.schedule) == (webvid.task, webvid.optim, webvid.schedule)
    # Ten epochs of the clips that somebody has: a number that only they know.
    assert config.init_from == webvid.init_from


def test_rates_rise_from_a_tenth_and_fall_to_a_tenth() -> None:
    config = config_of("cc3m")

    def factor(step: int) -> float:
        extent = Extent(config.train.steps, 0)
        return lr_factor(config.schedule, extent, step, step / config.train.steps, 1)

    assert factor(0) == pytest.approx(0.1, abs=1e-3)
    assert factor(1000) == pytest.approx(0.55, abs=1e-3)
    assert [factor(step) for step in (2000, 109_999, 110_000)] == pytest.approx([1, 1, 0.1])


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in packaged_recipes() if n.startswith("snps3/") and "/_" not in n])
def test_parts_of_every_recipe_fit_each_other(name: str) -> None:
    check_config(resolve_run(name).config)


def test_level_of_settings() -> None:
    """The command line over the script over the YAML, the last one of a line winning."""
    yaml = config_of("cc3m").optim.lr
    script = ["optim.lr=1e-4", "data.loader.batch_size=64"]
    assert resolve_run("snps3/pretrain/cc3m", script).config.optim.lr == 1e-4 != yaml
    both = resolve_run("snps3/pretrain/cc3m", [*script, "optim.lr=2e-4"]).config
    assert (both.optim.lr, both.data.loader.batch_size) == (2e-4, 64)


SMALL = [
    "data.text.tokenizer=vocab.txt",
    "data.text.max_tokens=30",
    "data.loader.workers=0",
    "data.loader.batch_size=4",
    "system.width=32",
    "system.layers=1",
    "system.heads=4",
    "system.hidden=48",
    "system.vocab_size=90",
    "system.max_text_tokens=30",
    "system.separator=3",
    "task.window=12",
    "task.queue=16",
    "task.level2_group=2",
    "train.steps=2",
    "schedule.warmup=1",
    "schedule.milestones=[]",
    "train.log_every=1",
    "train.device=cpu",
    "train.precision=fp32",
    "train.count_flops=false",
    "evaluate.device=cpu",
    "evaluate.batch_size=4",
]
SWIN = ["data.image.size=32", "system.image_size=32", "system.swin.width=8", "system.swin.depths=[1,1,1,1]"]
SWIN += ["system.swin.heads=[1,1,2,2]", "system.swin.window=[2,3,3]"]


@pytest.mark.slow
def test_published_recipes_run_from_raw_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Words, pictures, then clips, as docs/systems/snps3.md says, on miniatures of the raw files."""
    monkeypatch.chdir(tmp_path)
    for card in ("cc3m", "webvid"):
        assert run(["data", "miniature", card, "--out", f"raw/{card}"]) == 0
        assert run(["data", "prepare", card, "--raw", f"raw/{card}", "--out", f"data/{card}"]) == 0
    letters = [mark + letter for mark in ("", "##") for letter in "abcdefghijklmnopqrstuvwxyz"]
    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *letters,
        "dog",
        "beach",
        "kite",
        "coast",
        "aerial",
    ]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    (tmp_path / "kinds.tsv").write_text("dog\tNOUN\nbeach\tNOUN\nkite\tNOUN\ncoast\tNOUN\naerial\tADJ\n")
    mined = ["--out", "words/webvid", "--tagger", "kinds.tsv", "--tokenizer", "vocab.txt"]
    assert run(["words", "mine", "data/cc3m", "data/webvid", *mined]) == 0
    first = ["train", "snps3/pretrain/cc3m", *SMALL, *SWIN, "init_from.path=", "name=pictures"]
    assert run(first) == 0
    # Significant words are those of the first model.
    clips = ["train", "snps3/pretrain/webvid2m", *SMALL, *SWIN, "task.words=", "name=clips"]
    clips += ["init_from.path=runs/pictures"]
    assert run(clips) == 0
    assert run(["eval", "runs/clips"]) == 0
    (metrics,) = (json.loads(p.read_text()) for p in (tmp_path / "runs/clips/eval").glob("*/metrics.json"))
    assert 0 <= metrics["matching_accuracy"] <= 1
    rows = [json.loads(line) for line in (tmp_path / "runs/clips/metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["loss"]) for row in rows)
