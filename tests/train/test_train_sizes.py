"""Weights from small pictures start a model for larger ones, as published fine-tuning does."""

import pytest
import torch

from diptych.blocks.positions import fit_positions, resize_positions
from diptych.data.text import Tokenizer
from diptych.errors import CheckpointError
from diptych.resolve import look_up
from diptych.systems import SYSTEMS
from diptych.tasks.retrieval import RetrievalTask
from diptych.tasks.retrieval_config import RetrievalConfig
from diptych.train.config import InitConfig
from diptych.train.export import Weights
from diptych.train.init import fill

WORDS = ["red square", "blue circle"]


def build(system: str, size: int) -> RetrievalTask:
    entry = look_up(SYSTEMS, system, "system")
    config = entry.toy_config()
    torch.manual_seed(size)
    model = entry.build(config.with_(image_size=size))
    return RetrievalTask(model, RetrievalConfig(matching=system == "eve"), Tokenizer.train(WORDS, 30))


def side(system: str) -> int:
    return look_up(SYSTEMS, system, "system").toy_config().image_size


@pytest.mark.parametrize("system", ["eve", "two_tower"])
def test_position_tables_are_resized_and_everything_else_is_copied(system, tmp_path):
    small, large = build(system, side(system)), build(system, 2 * side(system))
    state = {n: t.clone() for n, t in small.state_dict().items()}
    table = "model.visual.positions"
    assert state[table].shape != large.state_dict()[table].shape
    filled = fill(large, Weights(state, 7, tmp_path, None), InitConfig(path="x"))
    got = large.state_dict()
    grid = int((len(got[table]) - 1) ** 0.5)
    assert torch.equal(got[table], resize_positions(state[table], grid))
    assert torch.equal(got[table][0], state[table][0]), "the class row stays"
    assert all(torch.equal(got[n], t) for n, t in state.items() if n != table)
    assert filled.fresh == []
    assert any("resized to this picture size: model.visual.positions" in line for line in filled.report)


def test_equal_sizes_change_nothing(tmp_path):
    first, second = build("eve", side("eve")), build("eve", side("eve"))
    state = {n: t + 1 if t.is_floating_point() else t for n, t in first.state_dict().items()}
    filled = fill(second, Weights(state, 7, tmp_path, None), InitConfig(path="x"))
    assert all(torch.equal(t, state[n]) for n, t in second.state_dict().items())
    assert not any("resized" in line for line in filled.report)


def test_another_width_is_not_resized_but_refused(tmp_path):
    task = build("eve", side("eve"))
    state = dict(task.state_dict())
    state["model.visual.positions"] = torch.zeros(5, 3)
    assert fit_positions({"p": torch.zeros(5, 3)}, "p", torch.zeros(10, 4))["p"].shape == (5, 3)
    with pytest.raises(CheckpointError, match=r"model\.visual\.positions is \[5, 3\] there"):
        fill(task, Weights(state, 7, tmp_path, None), InitConfig(path="x"))
