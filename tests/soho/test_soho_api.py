"""`diptych.load("soho", ...)` and `diptych predict`: pictures in their own shape, answers, matching."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from soho_files import ANSWERS, SMALL, published_pretraining, published_vqa

import diptych
from diptych.cli.main import run
from diptych.config.layers import resolve
from diptych.data.batch import Batch
from diptych.data.config import ImageConfig
from diptych.data.pictures import framed_pictures, square_pictures
from diptych.data.text import Tokenizer
from diptych.errors import UsageError
from diptych.train.build import build_task
from diptych.train.config import RunConfig
from diptych.train.export import write_export

WORDS = ("what is this", "a red cat", "two dogs", "is it a cat")
FIT = ImageConfig(resize="fit", long=160, short=96)
SIZES = ((50, 80), (80, 50), (64, 64))


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZES[seed], 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with published files of both kinds, a tokenizer, answers and pictures."""
    folder = tmp_path_factory.mktemp("soho")
    save_file(published_vqa(), folder / "vqa.safetensors")
    state = published_pretraining()
    save_file(state, folder / "pretrain.safetensors")
    Tokenizer.train([*WORDS, *WORDS], 60).save(folder / "words")
    (folder / "answers.json").write_text(json.dumps(ANSWERS))
    for i in range(3):
        Image.fromarray(pixels(i)).save(folder / f"{i}.png")
    return folder


def test_frames_are_those_of_an_evaluation_batch() -> None:
    frames, sizes = framed_pictures([pixels(0), pixels(1)], FIT)
    assert sizes is not None
    assert sizes.tolist() == [[96, 154], [154, 96]]
    assert frames.shape == (2, 3, 160, 160)
    assert not frames[0, :, 96:].any()
    assert not frames[1, :, :, 96:].any()
    square, none = framed_pictures([pixels(0)], ImageConfig(size=48))
    assert none is None
    assert torch.equal(square, square_pictures([pixels(0)], ImageConfig(size=48)))


@pytest.mark.slow
def test_answers_are_those_of_the_task(folder: Path) -> None:
    model = diptych.load(
        "soho",
        folder / "vqa.safetensors",
        tokenizer=folder / "words",
        answers=folder / "answers.json",
        device="cpu",
    )
    assert model.can("answer")
    assert not model.can("match")
    found = model.answer([folder / f"{i}.png" for i in range(3)], "what is this", top=5)
    frames, sizes = framed_pictures([pixels(i) for i in range(3)], model.config.data.image)
    ids, mask = model.task.tokenizer.encode(["what is this"] * 3, 16)
    numbers = torch.arange(3)
    batch = Batch(["a"] * 3, numbers, numbers, images=frames, image_sizes=sizes, text_ids=ids, text_mask=mask)
    with torch.no_grad():
        scores = model.task.logits(batch).sigmoid()  # type: ignore[operator]
    for row, answer in zip(scores, found, strict=True):
        assert answer.text == ANSWERS[int(row.argmax())]
        assert dict(answer.ranked) == pytest.approx(dict(zip(ANSWERS, row.tolist(), strict=True)), abs=1e-5)


@pytest.mark.slow
def test_matching_of_pretraining_and_of_retrieval(folder: Path) -> None:
    model = diptych.load("soho", folder / "pretrain.safetensors", tokenizer=folder / "words", device="cpu")
    assert model.can("match")
    found = model.match(pixels(0), list(WORDS))
    alone = torch.cat([model.match(pixels(0), text) for text in WORDS])
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=0)
    several = model.match([pixels(2)] * 4, list(WORDS))
    torch.testing.assert_close(several, model.match(pixels(2), list(WORDS)), atol=1e-5, rtol=0)
    with pytest.raises(UsageError, match="no capability 'encode_visual'"):
        model.encode_image(pixels(0), project=False)


@pytest.fixture(scope="module")
def exports(folder: Path) -> dict[str, Path]:
    """Return exports of a statement and a matching task with random heads."""
    words, found = Tokenizer.from_file(folder / "words"), {}
    tasks: dict[str, Any] = {"nlvr": {"name": "nlvr", "interaction": "plain"}}
    tasks["match"] = {"name": "retrieval_matching"}
    data = {"image": FIT.model_dump(mode="json"), "text": {"max_tokens": 12}}
    system = SMALL.with_(neck="plain", mask="exact").model_dump(mode="json")
    for kind, task in tasks.items():
        rows = {"examples": "statements"} if kind == "nlvr" else {}
        config = resolve(RunConfig, {"system": system, "task": task, "data": data | rows}).config
        built = build_task(config, words)
        with torch.no_grad():
            for name, parameter in built.named_parameters():
                if not name.startswith("model.") and parameter.dim() > 1:
                    torch.nn.init.normal_(parameter, std=0.3)
        found[kind] = write_export(folder / kind, built.state_dict(), words, config)
    return found


def test_statements_about_two_shapes(exports: dict[str, Path]) -> None:
    model = diptych.load(None, exports["nlvr"], device="cpu")
    found = model.judge([(pixels(0), pixels(1)), (pixels(1), pixels(0))], ["a red cat", "two dogs"])
    alone = model.judge([(pixels(0), pixels(1))], "a red cat")
    assert found[0] == pytest.approx(float(alone[0]), abs=1e-5)
    assert found[0] != pytest.approx(float(found[1]), abs=1e-5)


def test_predict_from_the_command_line(
    folder: Path, exports: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    converted = str(folder / "export")
    arguments = ["--tokenizer", str(folder / "words"), "--answers", str(folder / "answers.json")]
    assert run(["convert", "soho", str(folder / "vqa.safetensors"), converted, *arguments]) == 0
    capsys.readouterr()
    pictures = ["--image", str(folder / "0.png"), "--image", str(folder / "1.png")]
    assert run(["predict", converted, *pictures, "--question", "is it a cat", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["questions"]
    assert [row["image"] for row in rows] == [str(folder / "0.png"), str(folder / "1.png")]
    assert {answer for answer, _ in rows[0]["answers"]} == set(ANSWERS)
    assert run(["predict", str(exports["match"]), *pictures, "--text", "a red cat", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["texts"]
    assert all(0 < row["match"] < 1 for row in rows)
