"""The engine with the real systems: convolutions, batch norms and experts resume to the bit as well."""

import pytest
import torch
from train_toy import exported, settings

from diptych.resolve import look_up
from diptych.systems import SYSTEMS
from diptych.train import engine
from diptych.train.config import resolve_run

pytestmark = pytest.mark.slow


def recipe_of(dataset, system, task):
    config = look_up(SYSTEMS, system, "system").toy_config()
    values = config.model_dump(mode="json")
    if system == "eve":
        values["conv"]["norm"] = "batch"
    side = {"soho": 128, "snps3": 32}.get(system, 16)  # 2 x 2 visual words
    recipe = settings(dataset, train__steps=6, train__checkpoint_every=2, data__image__size=side)
    recipe["data"]["text"]["vocab_size"] = 60
    if system == "uniperceiver":
        recipe["data"]["text"]["specials"] = "uniperceiver"
    return recipe | {"system": values, "task": {"name": task}}


@pytest.mark.parametrize(
    ("system", "task"),
    [
        ("eve", "retrieval"),
        ("eve", "eve_pretrain"),
        ("two_tower", "retrieval"),
        ("soho", "soho_pretrain"),
        ("snps3", "snps3_pretrain"),
        ("uniperceiver", "retrieval"),
        ("uniperceiver", "uniperceiver_words"),
    ],
)
def test_a_resumed_run_is_the_uninterrupted_run(dataset, tmp_path, monkeypatch, system, task):
    recipe = recipe_of(dataset, system, task)
    if system == "two_tower":
        recipe["task"]["matching"] = False
    resolved = resolve_run(recipe)
    engine.train(resolved, tmp_path / "whole", progress=False)

    real = engine.total_norm
    calls = []

    def crashing(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(engine, "total_norm", crashing)
    with pytest.raises(KeyboardInterrupt):
        engine.train(resolved, tmp_path / "run", progress=False)
    engine.train(resolved, tmp_path / "run", progress=False)
    assert "going on from step_00000002" in (tmp_path / "run" / "log.txt").read_text()
    expected, found = exported(tmp_path / "whole"), exported(tmp_path / "run")
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
