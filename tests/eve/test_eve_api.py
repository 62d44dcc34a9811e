"""`diptych.load` and `diptych predict`: the evaluation's numbers, any kind of picture, clear refusals."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import diptych
from diptych.cli.main import run
from diptych.config.layers import resolve
from diptych.data.index import ShardDataset
from diptych.data.loader import evaluation_batches
from diptych.data.pictures import square_pictures
from diptych.data.sample import Sample
from diptych.data.shards import ShardWriter
from diptych.data.text import Tokenizer
from diptych.errors import CheckpointError, DataError, UsageError
from diptych.evaluation.run import evaluate
from diptych.systems.eve.config import EveConfig
from diptych.systems.eve.convert import to_published
from diptych.train.build import build_task
from diptych.train.config import RunConfig
from diptych.train.export import write_export

WORDS = ("red cat", "blue dog", "small house", "green tree", "old car", "what is this", "both are red")
SYSTEM = {
    "name": "eve",
    "image_size": 32,
    "patch_size": 8,
    "width": 64,
    "layers": 2,
    "heads": 1,
    "hidden": 24,
    "vocab_size": 100,
    "max_text_tokens": 12,
    "init": "fan_in",
    "word_std": 1.0,
    "moe_layers": [1],
    "experts": 3,
}
DATA = {"image": {"size": 32}, "text": {"max_tokens": 12, "clean": "caption", "padding": "longest"}}
TASKS = {
    "retrieval": {"name": "retrieval"},
    "contrastive": {"name": "retrieval", "matching": False},
    "vqa": {"name": "vqa"},
    "nlvr": {"name": "nlvr"},
    "multi": {"name": "multi", "tasks": {"a": {"name": "retrieval"}, "b": {"name": "vqa"}}},
}
ANSWERS = {"answers": ["yes", "no", "cat", "dog"]}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([*WORDS, *WORDS], 100)


def settings(kind: str) -> RunConfig:
    data = DATA | {"examples": {"vqa": "questions", "nlvr": "statements"}.get(kind, "samples")}
    return resolve(RunConfig, {"system": SYSTEM, "data": data, "task": TASKS[kind]}).config


@pytest.fixture(scope="module")
def exports(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return an export with random heads of each kind of task."""
    folder = tmp_path_factory.mktemp("exports")
    found = {}
    for kind in TASKS:
        assets = {"vqa": ANSWERS, "multi": {"b": ANSWERS}}.get(kind, {})
        task = build_task(settings(kind), tokenizer, assets)
        with torch.no_grad():
            for name, parameter in task.named_parameters():
                if not name.startswith("model.") and parameter.dim() > 1:
                    torch.nn.init.normal_(parameter, std=0.05 if kind == "nlvr" else 0.5)
        found[kind] = write_export(folder / kind, task.state_dict(), tokenizer, settings(kind), assets=assets)
    return found


def pixels(seed: int, side: int = 48) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side + 5, 3), dtype=np.uint8)


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    paths = []
    for i in range(3):
        paths.append(tmp_path / f"{i}.{('png', 'jpg', 'png')[i]}")
        Image.fromarray(pixels(i)).save(paths[-1])
    return paths


def test_any_kind_of_picture_gives_the_same(exports: dict[str, Path], tmp_path: Path) -> None:
    model = diptych.load("eve", exports["retrieval"])
    array = pixels(7)
    path = tmp_path / "a.png"
    Image.fromarray(array).save(path)
    kinds = [path, str(path), path.read_bytes(), Image.open(path), array]
    features = model.encode_image(kinds)
    assert features.shape == (5, 64)
    assert features.dtype == torch.float32
    # One by one: within a batch, which thread gets a row decides its last bits.
    alone = [model.encode_image(kind) for kind in kinds]
    assert all(torch.equal(one, alone[0]) for one in alone)
    torch.testing.assert_close(features, alone[0].expand(5, -1), atol=1e-5, rtol=0)
    torch.testing.assert_close(model.encode_image(array), features[:1], atol=1e-5, rtol=0)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(5))
    own = model.encode_image(array, project=False)
    assert own.shape == (1, 64)
    assert not torch.allclose(own.norm(dim=1), torch.ones(1))


def test_transparency_grey_and_rotation(exports: dict[str, Path]) -> None:
    model = diptych.load("eve", exports["retrieval"])
    grey = pixels(1)[..., 0]
    torch.testing.assert_close(model.encode_image(grey), model.encode_image(np.stack([grey] * 3, 2)))
    clear = np.dstack([pixels(1), np.zeros(pixels(1).shape[:2], np.uint8)])
    white = np.full_like(pixels(1), 255)
    torch.testing.assert_close(model.encode_image(clear), model.encode_image(white))
    turned = Image.fromarray(pixels(1))
    exif = turned.getexif()
    exif[0x0112] = 3  # upside down
    buffer = io.BytesIO()
    turned.save(buffer, "png", exif=exif)
    upright = np.ascontiguousarray(pixels(1)[::-1, ::-1])
    torch.testing.assert_close(model.encode_image(buffer.getvalue()), model.encode_image(upright))


def test_the_same_as_the_task_computes(exports: dict[str, Path], photos: list[Path]) -> None:
    """Vectors and matching scores equal those of the task's own parts on an evaluation batch."""
    model = diptych.load("eve", exports["retrieval"], batch_size=2)
    texts = ["Red cat!", "a small house", "old car"]
    images = square_pictures(photos, model.config.data.image)
    task = model.task
    ids, mask = task.tokenizer.encode(["red cat", "a small house", "old car"], 12)
    with torch.no_grad():
        visual = task.embed(images)
        expected_images = task.itc.project_visual(task.model.encode_visual(visual).pooled)
        expected_texts = task.itc.project_text(task.model.encode_text(ids, mask).pooled)
        expected = task.itm(task.model.fuse(visual, ids, mask).pooled).softmax(1)[:, 1]
    torch.testing.assert_close(model.encode_image(photos), expected_images, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.encode_text(texts), expected_texts, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.match(photos, texts), expected, atol=1e-5, rtol=0)
    one = model.match(photos[1], texts)
    assert one[1].item() == pytest.approx(expected[1].item(), abs=1e-5)
    many = model.match(photos, texts[2])
    assert many[2].item() == pytest.approx(expected[2].item(), abs=1e-5)


def shards(folder: Path, samples: list[Sample]) -> Path:
    with ShardWriter(folder, "toy", 10**6) as writer:
        for sample in samples:
            writer.write(sample)
    return folder


def test_pixels_are_those_of_evaluation_batches(
    photos: list[Path], tmp_path: Path, tokenizer: Tokenizer
) -> None:
    samples = [Sample(p.stem, {p.suffix[1:]: p.read_bytes()}, ("red cat",)) for p in photos]
    dataset = ShardDataset.open(shards(tmp_path / "shards", samples))
    config = settings("retrieval").data
    batches = list(evaluation_batches(dataset.select(None, None), config, 3, tokenizer))
    assert torch.equal(torch.cat([batch.images for batch in batches]), square_pictures(photos, config.image))


def evaluated(export: Path, folder: Path, samples: list[Sample]) -> list[dict[str, Any]]:
    """Return the predictions of `diptych eval` on these samples."""
    data = shards(folder, samples)
    found = evaluate(export, [f"evaluate.path={data}", "evaluate.split=null", "evaluate.device=cpu"])
    return [json.loads(line) for line in (found / "predictions.jsonl").read_text().splitlines()]


def test_answers_are_those_of_the_evaluation(
    exports: dict[str, Path], photos: list[Path], tmp_path: Path
) -> None:
    asked = [{"question": "What is this?", "answer": "cat"}, {"question": "both are red", "answer": "no"}]
    samples = [Sample(p.stem, {p.suffix[1:]: p.read_bytes()}, (), meta={"questions": asked}) for p in photos]
    rows = evaluated(exports["vqa"], tmp_path / "shards", samples)
    model = diptych.load("eve", exports["vqa"])
    questions = [entry["question"] for _ in photos for entry in asked]
    ours = model.answer([p for p in photos for _ in asked], questions)
    assert [row["answer"] for row in rows] == [answer.text for answer in ours]
    for row, answer in zip(rows, ours, strict=True):
        assert row["top"][0]["score"] == pytest.approx(answer.score, abs=1e-4)


def test_judgements_are_those_of_the_evaluation(
    exports: dict[str, Path], photos: list[Path], tmp_path: Path
) -> None:
    pairs = [(photos[0], photos[2]), (photos[2], photos[0])]
    meta = {"statements": [{"statement": "Both are red!", "label": True}]}
    samples = [
        Sample(f"p{i}", {f"{k}.png": path.read_bytes() for k, path in enumerate(pair)}, (), meta=meta)
        for i, pair in enumerate(pairs)
    ]
    rows = evaluated(exports["nlvr"], tmp_path / "shards", samples)
    ours = diptych.load("eve", exports["nlvr"]).judge(pairs, "Both are red!").tolist()
    assert [row["score"] for row in rows] == pytest.approx(ours, abs=1e-4)


def test_bf16_is_close(exports: dict[str, Path], photos: list[Path]) -> None:
    exact = diptych.load("eve", exports["retrieval"]).encode_image(photos)
    rough = diptych.load("eve", exports["retrieval"], precision="bf16").encode_image(photos)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, atol=0.05, rtol=0)


def test_answers(exports: dict[str, Path], photos: list[Path]) -> None:
    model = diptych.load("eve", exports["vqa"], batch_size=2)
    found = model.answer(photos, "What is this?", top=3)
    assert len(found) == 3
    for answer in found:
        assert answer.text in ANSWERS["answers"]
        assert len(answer.ranked) == 3
        assert answer.ranked[0] == (answer.text, answer.score)
        scores = [score for _, score in answer.ranked]
        assert scores == sorted(scores, reverse=True)
        assert all(0 <= score <= 1 for score in scores)
    assert model.answer(photos[2], "what is this")[0].text == found[2].text
    assert len(model.answer(photos[0], ["what is this"] * 3, top=99)[0].ranked) == 4
    assert model.answer([], []) == []


def test_statements(exports: dict[str, Path], photos: list[Path]) -> None:
    model = diptych.load("eve", exports["nlvr"])
    both = model.judge([(photos[0], photos[1]), (photos[1], photos[0])], "both are red")
    assert both.shape == (2,)
    assert ((both > 0) & (both < 1)).all()
    assert not torch.allclose(both[0], both[1])  # left and right are not the same
    one = model.judge([(photos[0], photos[1])], ["both are red", "old car"])
    torch.testing.assert_close(one[0], both[0], atol=1e-5, rtol=0)


def test_several_tasks_on_one_model(exports: dict[str, Path], photos: list[Path]) -> None:
    model = diptych.load("eve", exports["multi"])
    assert [model.can(what) for what in ("encode", "match", "answer", "judge")] == [True, True, True, False]
    assert model.encode_text([]).numel() == 0
    assert model.match(photos, "red cat").shape == (3,)
    assert model.answer(photos[0], "what is this")[0].text in ANSWERS["answers"]
    assert "eve" in repr(model)


def test_refusals_say_what_to_do(exports: dict[str, Path], photos: list[Path], tmp_path: Path) -> None:
    plain = diptych.load("eve", exports["contrastive"])
    with pytest.raises(UsageError, match="without a matching head; compare encode_image"):
        plain.match(photos[0], "red cat")
    with pytest.raises(UsageError, match="was not trained on questions"):
        plain.answer(photos[0], "what is this")
    with pytest.raises(UsageError, match="was not trained on statements"):
        plain.judge([(photos[0], photos[1])], "both are red")
    with pytest.raises(UsageError, match="project=False"):
        diptych.load("eve", exports["vqa"]).encode_image(photos[0])
    retrieval = diptych.load("eve", exports["retrieval"])
    with pytest.raises(UsageError, match="3 pictures and 2 texts"):
        retrieval.match(photos, ["red cat", "old car"])
    with pytest.raises(DataError, match=r"none\.png: the picture cannot be read"):
        retrieval.encode_image(tmp_path / "none.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"bad\.png: unreadable picture"):
        retrieval.encode_image(tmp_path / "bad.png")
    with pytest.raises(DataError, match="expected uint8 pixels"):
        retrieval.encode_image(np.zeros((3, 4, 3)))
    with pytest.raises(DataError, match=r"text '\?!'"):
        retrieval.encode_text(["red cat", "?!"])
    with pytest.raises(UsageError, match="system 'eve', not of 'two_tower'"):
        diptych.load("two_tower", exports["vqa"])
    with pytest.raises(CheckpointError, match="no such directory"):
        diptych.load("eve", tmp_path / "nothing")
    with pytest.raises(UsageError, match="this is no file"):
        diptych.load("eve", exports["vqa"], routing="dropless")
    with pytest.raises(UsageError, match="batch_size = 0"):
        diptych.load("eve", exports["vqa"], batch_size=0)


def published(exports: dict[str, Path], kind: str, path: Path) -> Path:
    state: dict[str, Tensor] = to_published(load_file(exports[kind] / "model.safetensors"))
    save_file({n: t.contiguous() for n, t in state.items()}, path)
    return path


def test_published_checkpoints_load_directly(
    exports: dict[str, Path], photos: list[Path], tmp_path: Path
) -> None:
    words = exports["vqa"] / "tokenizer" / "tokenizer.json"
    (tmp_path / "answers.json").write_text(json.dumps(ANSWERS["answers"]))
    ours = diptych.load("eve", exports["vqa"])
    file = published(exports, "vqa", tmp_path / "vqa.safetensors")
    theirs = diptych.load("eve", file, tokenizer=words, answers=tmp_path / "answers.json", routing="dropless")
    assert theirs.config.data.text.clean == "question"
    assert theirs.answer(photos, "red cat") == pytest.approx(ours.answer(photos, "red cat"))
    retrieval = published(exports, "retrieval", tmp_path / "retrieval.safetensors")
    model = diptych.load("eve", retrieval, tokenizer=words)
    assert model.config.system.router.drop_tokens
    assert model.config.task.eval_final_norm is False
    assert model.match(photos[0], ["red cat", "old car"]).shape == (2,)
    larger = diptych.load("eve", retrieval, tokenizer=words, image_size=64)
    assert larger.encode_image(photos).shape == (3, 64)
    with pytest.raises(UsageError, match="give tokenizer="):
        diptych.load("eve", retrieval)
    with pytest.raises(UsageError, match="the list of answers is missing"):
        diptych.load("eve", file, tokenizer=words)
    with pytest.raises(CheckpointError, match="no complete heads"):
        diptych.load("eve", retrieval, tokenizer=words, heads="none")
    with pytest.raises(UsageError, match="give the system"):
        diptych.load(None, retrieval)


def test_lazy() -> None:
    assert "load" in dir(diptych)
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = diptych.lode
    assert isinstance(EveConfig(**SYSTEM), EveConfig)


def test_command(exports: dict[str, Path], photos: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    images = [word for path in photos[:2] for word in ("--image", str(path))]
    texts = ["--text", "red cat", "--text", "old car"]
    assert run(["predict", str(exports["retrieval"]), *images, *texts, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = found["texts"]
    assert [row["image"] for row in rows] == [str(photos[0])] * 2 + [str(photos[1])] * 2
    for first, second in ((0, 1), (2, 3)):
        assert rows[first]["match"] >= rows[second]["match"]
    model = diptych.load("eve", exports["retrieval"])
    expected = model.match(photos[0], [rows[0]["text"]]).item()
    assert rows[0]["match"] == pytest.approx(expected, abs=1e-5)
    assert -1 <= rows[0]["similarity"] <= 1
    assert run(["predict", str(exports["multi"]), *images, *texts, "--question", "what is this"]) == 0
    shown = capsys.readouterr().out
    for word in ("picture", "similarity", "match", "question", "answers", str(photos[1]), "red cat"):
        assert word in shown
    assert run(["predict", str(exports["nlvr"]), *images, "--statement", "both are red"]) == 0
    assert "both are red" in capsys.readouterr().out


@pytest.mark.slow
def test_command_refuses_clearly(
    exports: dict[str, Path], photos: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    export, photo = str(exports["retrieval"]), str(photos[0])
    assert run(["predict", export, "--image", photo]) == 2
    assert "give --text, --classes, --question or --statement" in capsys.readouterr().err
    assert run(["predict", export, "--image", photo, "--statement", "a"]) == 2
    assert "two pictures, got 1" in capsys.readouterr().err
    assert run(["predict", export, "--image", photo, "--question", "a"]) == 2
    assert "was not trained on questions" in capsys.readouterr().err
