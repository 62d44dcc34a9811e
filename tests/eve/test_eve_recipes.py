"""The recipes of the published settings: the numbers of the reference page, and that they run (small)."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from published_layout import published_checkpoint
from safetensors.torch import save_file

from diptych.cli.main import run
from diptych.config.recipes import packaged_recipes
from diptych.data.sample import Sample
from diptych.data.shards import ShardWriter
from diptych.data.text import Tokenizer
from diptych.systems.eve.config import EveConfig, base, large
from diptych.train.build import check_config
from diptych.train.config import resolve_run

# Reference page, section 6: image side, batch, rate, lr_mult, epochs, schedule, warm-up, clipping, precision.
# The last number is the samples of an epoch: captions, questions, statements of the training splits.
PUBLISHED: dict[str, tuple[Any, ...]] = {
    "coco_base": (384, 256, 3e-5, 10, 10, "linear", 0.1, 1.0, "bf16", 566_747),
    "coco_large": (384, 256, 5e-5, 10, 10, "linear", 0.1, 1.0, "bf16", 566_747),
    "flickr_base": (384, 128, 1e-5, 5, 10, "linear", 0.1, 1.0, "bf16", 145_000),
    "flickr_large": (384, 128, 1e-5, 5, 10, "linear", 0.1, 1.0, "bf16", 145_000),
    "vqa_base": (480, 128, 3e-5, 10, 10, "linear", 0.1, 3.0, "fp32", 443_757 + 214_354),
    "vqa_large": (480, 128, 3e-5, 10, 10, "linear", 0.1, 3.0, "fp32", 443_757 + 214_354),
    "nlvr_base": (384, 128, 3.5e-5, 15, 10, "cosine", 0.2, 3.0, "fp32", 86_373),
    "nlvr_large": (384, 128, 3.5e-5, 15, 10, "cosine", 0.2, 3.0, "fp32", 86_373),
}
# Section 8: steps, rate.
PRETRAINING = {"base": (480_000, 5e-4), "large": (280_000, 2e-4)}
FOUR = ["coco", "vg", "cc3m", "sbu"]
SIZES = {"base": base, "large": large}


def sizes_of(config: EveConfig) -> dict[str, Any]:
    kept = ("image_size", "patch_size", "width", "layers", "heads", "hidden", "vocab_size", "max_text_tokens")
    return {
        name: getattr(config, name) for name in (*kept, "moe_layers", "experts", "drop_path", "activation")
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_fine_tuning_recipes_have_the_published_numbers(name: str) -> None:
    side, batch, lr, mult, epochs, shape, warmup, clip, precision, samples = PUBLISHED[name]
    config = resolve_run(f"eve/finetune/{name}").config
    assert (config.data.image.size, config.data.loader.batch_size) == (side, batch)
    assert (config.optim.lr, config.optim.lr_mult, config.optim.weight_decay) == (lr, mult, 0.01)
    assert (config.optim.name, config.optim.decay) == ("adamw_published", "published")
    assert (config.optim.betas, config.optim.eps) == ((0.9, 0.98), 1e-8)
    assert (config.schedule.name, config.schedule.warmup, config.schedule.final) == (shape, warmup, 0.0)
    assert config.train.steps == epochs * -(-samples // batch)
    assert (config.train.clip, config.train.precision) == (clip, precision)
    assert config.data.image.resize == "random_crop"
    assert (config.data.image.scale, config.data.image.flip) == ((0.5, 1.0), 0.5)
    assert config.data.text.max_tokens == 40
    assert isinstance(config.system, EveConfig)
    assert sizes_of(config.system) == sizes_of(SIZES[name.rpartition("_")[2]](side))
    router = config.system.router
    assert router.with_(noise="always") == router.published()
    check_config(config)


def test_what_the_tasks_do_differently() -> None:
    retrieval, vqa, nlvr = (resolve_run(f"eve/finetune/{n}_base").config for n in ("coco", "vqa", "nlvr"))
    assert retrieval.task.model_dump()["k_test"] == 128
    assert retrieval.task.model_dump()["eval_final_norm"] is False
    words = [(c.data.text.clean, c.data.text.max_words) for c in (retrieval, vqa, nlvr)]
    assert words == [("caption", 30), ("question", 30), ("caption", 40)]
    assert [c.data.examples for c in (retrieval, vqa, nlvr)] == ["captions", "questions", "statements"]
    augment = [(c.data.augment.randaugment_ops, c.data.augment.randaugment_level) for c in (vqa, nlvr)]
    assert augment == [(2, 7.0), (2, 7.0)]
    assert retrieval.data.augment.randaugment_ops == 0
    assert retrieval.data.augment.jitter == (0.4, 0.4, 0.4)
    assert vqa.data.image.flip_unless == ("left", "right")
    assert nlvr.task.model_dump()["interaction"] == "biattn"


@pytest.mark.parametrize("size", PRETRAINING)
def test_pretraining_recipes(size: str) -> None:
    for mixture, sources in (("4m", FOUR), ("16m", [*FOUR, "cc12m"])):
        config = resolve_run(f"eve/pretrain/{mixture}_{size}").config
        assert list(config.data.sources) == sources
        assert (config.train.steps, config.optim.lr) == PRETRAINING[size]
        assert config.data.loader.batch_size == 2048
        assert config.task.name == "eve_pretrain"
        assert isinstance(config.system, EveConfig)
        assert sizes_of(config.system) == sizes_of(SIZES[size]())
        check_config(config)


def test_every_published_recipe_is_among_these() -> None:
    named = {f"eve/finetune/{name}" for name in PUBLISHED}
    named |= {f"eve/pretrain/{m}_{s}" for m in ("4m", "16m") for s in PRETRAINING}
    full = {name for name in packaged_recipes() if name.endswith(("_base", "_large"))}
    assert full == named


# ------------------------------------------------------------------------------------------------
# The same recipes on pictures of 32 pixels, from a checkpoint in the published layout.

TINY = {
    "system": "image_size=32 patch_size=8 width=64 layers=3 heads=1 hidden=40 vocab_size=50 "
    "max_text_tokens=12 moe_layers=[2] experts=3",
    "data": "image.size=32 text.max_tokens=12 loader.batch_size=4 loader.workers=0 split=null",
    "train": "steps=2 device=cpu precision=fp32 checkpoint_every=0 log_every=1 count_flops=false",
    "evaluate": "device=cpu",
}
QUESTIONS = ("what is this", "what is left of it", "is it red")


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def samples(kind: str) -> list[Sample]:
    """Return eight samples, half of them for training."""
    found = []
    for i in range(8):
        split = "train" if i % 2 else "test"
        media = {"png": picture(i)}
        meta: dict[str, Any] = {}
        captions: tuple[str, ...] = ()
        if kind == "coco":
            captions = (f"a cat {i % 3}", "a red dog")
        elif kind == "vqa":
            asked = [
                {"question": q, "answer": ["yes", "no", "yes"], "question_id": 10 * i + n}
                for n, q in enumerate(QUESTIONS)
            ]
            meta = {"questions": asked}
        else:
            media = {"0.png": picture(i), "1.png": picture(i + 50)}
            meta = {"statements": [{"statement": "both are red", "label": bool(i % 3)}]}
        found.append(Sample(f"s{i}", media, captions, f"m{i}", split, meta))
    return found


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the export of a published checkpoint without heads."""
    folder = tmp_path_factory.mktemp("start")
    texts = ["a cat", "a red dog", "both are red", *QUESTIONS]
    Tokenizer.train([*texts, *texts], 50).save(folder / "words")
    save_file(published_checkpoint(), folder / "eve.safetensors")
    arguments = ["convert", "eve", str(folder / "eve.safetensors"), str(folder / "export"), "--heads", "none"]
    assert run([*arguments, "--tokenizer", str(folder / "words")]) == 0
    return folder / "export"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["coco", "vqa", "nlvr"])
def test_recipes_train_and_evaluate_small(
    name: str, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with ShardWriter(tmp_path / "shards", "toy", 10**6) as writer:
        for sample in samples(name):
            writer.write(sample)
    tiny = [f"{section}.{setting}" for section, all in TINY.items() for setting in all.split()]
    tiny += [f"data.path={tmp_path / 'shards'}", f"init_from.path={start}", "name=tiny"]
    assert run(["train", f"eve/finetune/{name}_base", *tiny]) == 0
    log = (tmp_path / "runs" / "tiny" / "log.txt").read_text()
    assert "init_from" in log
    rows = [json.loads(line) for line in (tmp_path / "runs/tiny/metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    assert all(np.isfinite(row["loss"]) for row in rows)
    assert run(["eval", "runs/tiny", "evaluate.split=null"]) == 0
    metrics = list((tmp_path / "runs" / "tiny" / "eval").glob("*/metrics.json"))
    assert len(metrics) == 1


@pytest.mark.slow
def test_mixture_recipe_trains_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with ShardWriter(tmp_path / "shards", "toy", 10**6) as writer:
        for sample in samples("coco"):
            writer.write(sample)
    tiny = [f"{section}.{setting}" for section, all in TINY.items() for setting in all.split()]
    tiny += [f"data.sources.{name}.path={tmp_path / 'shards'}" for name in [*FOUR, "cc12m"]]
    tiny += ["task.decoder_width=16", "task.decoder_heads=2", "schedule.warmup=1", "data.text.vocab_size=50"]
    assert run(["train", "eve/pretrain/16m_base", *tiny, "data.loader.batch_size=8", "name=tiny"]) == 0
    assert (tmp_path / "runs/tiny/export/README.md").exists()
