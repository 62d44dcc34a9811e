"""A user's pictures described: from Python, on the command line, and by models of other tasks."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import diptych
from diptych.api import LoadedModel
from diptych.cli.main import run
from diptych.data.text import Tokenizer
from diptych.errors import UsageError
from diptych.resolve import look_up
from diptych.systems import SYSTEMS
from diptych.systems.protocol import Writing
from diptych.tasks import TASKS
from diptych.train.config import RunConfig

WORDS = ["a red cat", "a big dog", "two foxes"] * 3


def loaded(task: str, system: str = "uniperceiver") -> LoadedModel:
    torch.manual_seed(0)
    toy = look_up(SYSTEMS, system, "system").toy_config()
    values = {
        "system": toy.model_dump(mode="json"),
        "task": {"name": task},
        "data": {"image": {"size": 16, "resize": "squash"}, "text": {"max_tokens": 12}},
    }
    config = RunConfig.model_validate(values)
    specials = "uniperceiver" if system == "uniperceiver" else "bert"
    tokenizer = Tokenizer.train(WORDS, 60, specials)
    model = look_up(SYSTEMS, system, "system").build(config.system)
    made = look_up(TASKS, task, "task").create(model, config.task, tokenizer, {})
    return LoadedModel(config, made.eval(), torch.device("cpu"), "fp32", 2)


def pictures(count: int) -> list[np.ndarray]:
    draws = np.random.default_rng(1)
    return [draws.integers(0, 256, (20, 24, 3)).astype(np.uint8) for _ in range(count)]


@pytest.mark.parametrize("task", ["captioning", "retrieval"])
def test_pictures_are_described(task: str) -> None:
    model = loaded(task)
    assert model.can("caption")
    seen = pictures(3)
    several = model.caption(seen, writing=Writing(beams=3, steps=5))
    assert [len(each.ranked) for each in several] == [3, 3, 3]
    for each in several:
        assert each.ranked[0] == (each.text, each.score)
        chances = [chance for _, chance in each.ranked]
        assert chances == sorted(chances, reverse=True)
        assert 0 < chances[0] <= 1
    # Whatever else is in its batch.
    alone = model.caption(seen[2], writing=Writing(beams=3, steps=5))
    assert alone[0].text == several[2].text
    assert model.caption([]) == []


def test_models_that_do_not_write_say_so() -> None:
    model = loaded("retrieval", "two_tower")
    assert not model.can("caption")
    with pytest.raises(UsageError, match="no capability 'generate'"):
        model.caption(pictures(1))


def test_the_command_describes_where_nothing_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "it.png"
    Image.fromarray(pictures(1)[0]).save(path)
    models = {"writes": loaded("captioning"), "not": loaded("retrieval", "two_tower")}
    monkeypatch.setattr("diptych.api.load", lambda system, where, device: models[Path(where).name])
    assert run(["predict", "writes", "--image", str(path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["captions"]
    assert said == [
        {"image": str(path), "caption": said[0]["caption"], "probability": said[0]["probability"]}
    ]
    assert said[0]["caption"] == models["writes"].caption(path)[0].text
    assert run(["predict", "writes", "--image", str(path), "--caption"]) == 0
    assert "caption" in capsys.readouterr().out
    assert run(["predict", "not", "--image", str(path)]) != 0
    assert "writes no captions" in capsys.readouterr().err
    assert diptych.load is not None
