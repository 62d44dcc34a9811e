"""Pictures without captions: they are read where the task needs no text, beside others in one run too."""

import io
from pathlib import Path

import pytest
from PIL import Image

from diptych.data.config import DataConfig
from diptych.data.index import ShardDataset
from diptych.data.loader import Loader
from diptych.data.sample import Sample
from diptych.data.shards import ShardWriter
from diptych.data.text import Tokenizer
from diptych.resolve import look_up
from diptych.systems import SYSTEMS
from diptych.tasks.classification_config import ClassificationConfig
from diptych.tasks.multi import MultiTaskConfig
from diptych.train import engine
from diptych.train.build import wordless
from diptych.train.config import resolve_run


def picture(shade: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (16, 16), (shade, 10, 10)).save(out, "png")
    return out.getvalue()


def dataset(folder: Path, captions: tuple[str, ...]) -> Path:
    with ShardWriter(folder, folder.name) as writer:
        for i in range(8):
            meta = {"label": ("dark", "bright")[i % 2]}
            writer.write(Sample(f"s{i}", {"png": picture(250 * (i % 2))}, captions, split="train", meta=meta))
    return folder


def test_tasks_that_need_no_text() -> None:
    tasks = {"a": {"name": "classification"}, "b": {"name": "vqa"}}
    assert wordless(MultiTaskConfig.model_validate({"tasks": tasks})) == {"a"}
    assert wordless(ClassificationConfig()) == {""}


@pytest.mark.parametrize("silent", [True, False])
def test_beside_samples_with_captions(silent: bool, tmp_path: Path) -> None:
    told, mute = dataset(tmp_path / "told", ("a cat",)), dataset(tmp_path / "mute", ())
    sources = {"told": {"path": str(told)}, "mute": {"path": str(mute)}}
    config = DataConfig.model_validate(
        {"sources": sources, "image": {"size": 16}, "loader": {"batch_size": 8, "on_error": "count"}}
    )
    opened = {name: ShardDataset.open(tmp_path / name).select("train", None) for name in sources}
    tokenizer = Tokenizer.train(["a cat"] * 3, 40, "uniperceiver")
    labels = {"mute"} if silent else set()
    batch = next(iter(Loader(opened, config, tokenizer, seed=1, facts=("label",), wordless=labels)))
    assert batch.labels is not None
    if not silent:
        assert set(batch.labels) == {"told"}
        assert batch.skipped["no caption"] > 0
        return
    assert not batch.skipped
    for label, text, mask in zip(batch.labels, batch.texts, batch.text_mask, strict=True):
        assert text == ("" if label == "mute" else "a cat")
        assert (int(mask.sum()) == 1) == (label == "mute")
    assert set(batch.extra["label"]) <= {"dark", "bright"}


@pytest.mark.slow
def test_a_run_on_pictures_and_labels_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dataset(tmp_path / "mute", ())
    tokenizer = Tokenizer.train(["dark", "bright", "a"] * 3, 40, "uniperceiver").save(tmp_path / "words")
    system = look_up(SYSTEMS, "uniperceiver", "system").toy_config()
    recipe = {
        "data": {
            "path": "mute",
            "split": "train",
            "image": {"size": 16},
            "text": {"tokenizer": str(tokenizer), "max_tokens": 12},
            "loader": {"batch_size": 4},
        },
        "system": system.model_dump(mode="json"),
        "task": {"name": "classification"},
        "optim": {"lr": 3e-3},
        "train": {"steps": 30, "device": "cpu"},
        "evaluate": {"split": "train", "device": "cpu"},
    }
    engine.train(resolve_run(recipe), tmp_path / "run", progress=False)
    from diptych.evaluation.run import evaluate, read_metrics

    metrics = read_metrics(evaluate(tmp_path / "run"))
    assert metrics["classes"] == 2
    assert metrics["accuracy"] == 1.0
