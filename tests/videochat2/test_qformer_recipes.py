"""Recipes of the Q-Former: the published numbers, and that the tiny one runs."""

from pathlib import Path

import pytest

from diptych.blocks.qformer import QFormerConfig
from diptych.blocks.video_vit import VideoVitConfig
from diptych.cli.main import run
from diptych.systems.qformer.config import QFormerSystemConfig
from diptych.systems.qformer.model import QFormerModel
from diptych.tasks.qformer_align_config import QFormerAlignConfig
from diptych.train.build import check_config
from diptych.train.config import resolve_run


def test_published_recipe_has_the_published_numbers() -> None:
    config = resolve_run("qformer/pretrain/videochat2_stage1").config
    system, task, optim = config.system, config.task, config.optim
    assert isinstance(system, QFormerSystemConfig)
    assert isinstance(task, QFormerAlignConfig)
    assert system.video == VideoVitConfig(width=1024, layers=23, heads=16, hidden=4096, patch_size=16)
    assert system.qformer == QFormerConfig(
        queries=32, extra_queries=0, width=768, layers=12, vocab_size=30523
    )
    assert (system.frames, system.image_size, system.embed_dim, system.aggregate) == (4, 224, 768, "mean")
    assert (task.contrast_weight, task.matching_weight, task.caption_weight) == (1, 1, 1)
    assert (task.caption_smoothing, task.pair, task.negative_floor, task.k_test) == (0.1, "concat", 1e-4, 128)
    assert (task.temperature, task.temperature_bounds) == (0.07, (0.001, 0.5))
    assert (optim.lr, optim.weight_decay, optim.betas) == (1e-4, 0.02, (0.9, 0.999))
    assert (config.data.loader.batch_size, config.data.text.max_tokens) == (4096, 32)
    assert (config.train.clip, config.schedule.floor, config.schedule.warmup) == (0, 0.01, 0.02)
    assert config.data.sources["cc3m"].settings == {"video": {"frames": 1}}
    check_config(config)


def test_parameters_of_the_published_size() -> None:
    import torch

    with torch.device("meta"):
        model = QFormerModel(QFormerSystemConfig())
    counts = {
        part: sum(p.numel() for n, p in model.named_parameters() if n.startswith(f"{part}."))
        for part in ("visual", "qformer")
    }
    # 23 layers of 12 D^2 + 11 D (no key bias, no layer scale), and the patches.
    assert counts["visual"] == 23 * (12 * 1024**2 + 12 * 1024) + 1024 * (3 * 256 + 1)
    words = (30523 + 512) * 768 + 2 * 768 + 32 * 768
    layer = 4 * (768**2 + 768) + 2 * 768 + 2 * (2 * 768 * 3072 + 768 + 3072 + 2 * 768)
    cross = 2 * (768**2 + 768) + 2 * (768 * 1024 + 768) + 2 * 768
    assert counts["qformer"] == words + 12 * layer + 6 * cross


@pytest.mark.slow
def test_tiny_recipe_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prepared = ["-o", "size=40", "-o", "resolution=48", "-o", "kinds=12", "-o", "style=noto"]
    assert run(["data", "prepare", "emoji-clips", "--out", "data/emoji-clips", *prepared]) == 0
    small = [
        "data.loader.batch_size=8",
        "train.steps=2",
        "train.checkpoint_every=0",
        "data.loader.cache_mb=0",
    ]
    assert run(["train", "qformer/pretrain/clips_tiny", *small]) == 0
    assert run(["eval", "runs/qformer-clips-pretrain", "evaluate.split=train"]) == 0
    assert list(Path("runs/qformer-clips-pretrain/eval").glob("qformer_align_*/metrics.json"))
