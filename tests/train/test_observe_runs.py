"""What a whole run leaves of figures, profile and Weights & Biases."""

import json
import sys
import types

import pytest
from train_toy import settings

from diptych.errors import ConfigError
from diptych.train.config import resolve_run
from diptych.train.engine import train


def start(recipe, run_dir):
    train(resolve_run(recipe), run_dir, progress=False)
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def eve(dataset, **changes):
    """Return a recipe of EVE at toy size with a mixture of three experts."""
    system = {
        "name": "eve",
        "image_size": 8,
        "patch_size": 4,
        "width": 16,
        "layers": 2,
        "heads": 2,
        "hidden": 24,
        "vocab_size": 64,
        "max_text_tokens": 6,
        "moe_layers": [1],
        "experts": 3,
    }
    task = {"name": "eve_pretrain", "decoder_width": 16, "decoder_heads": 2}
    return settings(dataset, train__steps=4, **changes) | {"system": system, "task": task}


def test_rows_of_eve_have_every_figure(dataset, tmp_path):
    first, *_, last = start(eve(dataset), tmp_path / "run")
    for row in (first, last):
        assert row["tokens_per_second"] > row["samples_per_second"] * (1 + 4)  # 5 image tokens and some words
        assert row["tokens_per_second"] <= row["samples_per_second"] * (1 + 4 + 6) * 1.0001
        assert row["flops_per_second"] > 0
        assert 0 < row["flops_share"] < 2
        assert row["memory_peak_mb"] > 10
        assert {"grad_norm/model.visual", "grad_norm/model.layers", "grad_norm/mlm"} <= row.keys()
        assert row["grad_norm"] >= row["grad_norm/model.layers"]
        assert list(row["experts"]) == ["1"]
        assert sum(row["experts"]["1"]) == pytest.approx(1, abs=1e-4)
        assert row["experts/max_share"] == max(row["experts"]["1"])


@pytest.mark.slow
def test_counting_changes_nothing_but_its_figures(dataset, tmp_path):
    counted = start(eve(dataset), tmp_path / "counted")
    plain = start(eve(dataset, train__count_flops=False), tmp_path / "plain")
    assert [row["loss"] for row in counted] == [row["loss"] for row in plain]
    assert not any("flops_per_second" in row or "flops_share" in row for row in plain)


@pytest.mark.slow
def test_a_profile_lies_in_the_run_directory(dataset, tmp_path):
    start(settings(dataset, train__steps=6, train__profile=2), tmp_path / "run")
    names = {path.name for path in (tmp_path / "run" / "profile" / "rank0").iterdir()}
    assert names == {"trace.json.gz", "table.txt"}
    assert "profile: " in (tmp_path / "run" / "log.txt").read_text()


def test_wandb_goes_with_a_run_and_may_be_switched_on_later(dataset, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="wandb cannot be imported"):
        start(settings(dataset, train__wandb="pairs"), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()
    module, logged = types.ModuleType("wandb"), []
    run = types.SimpleNamespace(
        step=0,
        log=lambda values, step: logged.append(step),
        finish=lambda exit_code: logged.append(exit_code),
    )
    module.init = lambda **options: run
    monkeypatch.setitem(sys.modules, "wandb", module)
    start(settings(dataset, train__wandb="pairs", train__steps=4), tmp_path / "run")
    assert logged == [1, 2, 4, 0]
