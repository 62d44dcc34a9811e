"""Two ranks train what one process trains: EVE at toy size with its mixture of experts."""

import json

import pytest
import torch
import train_toy
from tests.ranks import run_ranks
from train_toy import exported, settings

from diptych.train.config import resolve_run
from diptych.train.engine import train

pytestmark = pytest.mark.slow

EVE = {
    "name": "eve",
    "image_size": 8,
    "patch_size": 4,
    "width": 32,
    "layers": 2,
    "heads": 4,
    "hidden": 48,
    "vocab_size": 64,
    "max_text_tokens": 6,
    "drop_path": 0.0,
    "text_dropout": 0.0,
    "init": "fan_in",
    "moe_layers": [1],
    "experts": 4,
    "router": {"noise": "never"},
}
TASK = {
    "name": "eve_pretrain",
    "itc_weight": 0.5,
    "itm_weight": 0.0,
    "itc_dim": 16,
    "temperature": 0.5,
    "decoder_width": 16,
    "decoder_layers": 1,
    "decoder_heads": 2,
}
TRAIN = {
    "steps": 3,
    "checkpoint_every": 0,
    "log_every": 1,
    "threads": 1,
    "ema": 0.5,
    "clip": 0.5,
    "count_flops": False,
}
SAME = {
    "ddp": {"parallel": "ddp"},
    "fsdp": {"parallel": "fsdp"},
    "ddp_recomputed": {"activation_checkpointing": True},
    "fsdp_recomputed_compiled": {"parallel": "fsdp", "activation_checkpointing": True, "compile": "eager"},
    "ddp_experts": {"parallel": "ddp", "expert_parallel": 2},
    "fsdp_experts": {"parallel": "fsdp", "expert_parallel": 2},
}
"""Settings that change nothing but rounding."""
WEIGHTS, LOSSES = 2e-6, 1e-6
"""Largest difference of a weight after three steps, and relative difference of a loss."""


def eve(data, **train_keys):
    """Return a recipe whose steps do not depend on how samples are spread over ranks (7: unevenly)."""
    recipe = settings(data, system=EVE, task=TASK, data__loader__batch_size=7)
    # With a usual eps Adam would blow up the rounding of gradients that are almost zero.
    return recipe | {"train": TRAIN | train_keys, "optim": {"lr": 0.003, "eps": 1e-4}}


def start(recipe, folder):
    return train(resolve_run(recipe), folder, progress=False)


def several(world, recipes, root):
    """Train recipes one after the other; on two ranks."""
    train_toy.register()
    return {name: start(recipe, root / name).step for name, recipe in recipes.items()}


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory):
    """Run each of the settings on two ranks, and their like on one."""
    root = tmp_path_factory.mktemp("runs")
    recipes = {name: eve(dataset, **keys) for name, keys in SAME.items()}
    halves = {"accumulate": 2, "steps": 3}
    recipes |= {f"{mode}_halves": eve(dataset, parallel=mode, **halves) for mode in ("ddp", "fsdp")}
    recipes["fsdp_bf16"] = eve(dataset, parallel="fsdp", precision="bf16")
    steps = run_ranks(several, recipes, root)
    assert steps[0] == steps[1]
    start(eve(dataset), root / "one")
    start(eve(dataset, precision="bf16"), root / "one_bf16")
    start(eve(dataset, **halves), root / "one_halves")
    return root


def assert_alike(found, expected):
    ours, theirs = exported(found), exported(expected)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=WEIGHTS)
    assert len(rows(found)) == len(rows(expected))
    for row, other in zip(rows(found), rows(expected), strict=True):
        for figure in ("loss", *(n for n in other if n.startswith(("loss/", "grad_norm")))):
            assert row[figure] == pytest.approx(other[figure], rel=LOSSES, abs=1e-6), figure


@pytest.mark.parametrize("name", SAME)
def test_two_ranks_train_what_one_process_trains(runs, name):
    assert_alike(runs / name, runs / "one")
    assert [row["epoch"] for row in rows(runs / name)] == [row["epoch"] for row in rows(runs / "one")]


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_accumulated_batches_weigh_by_their_samples_on_all_ranks(runs, mode):
    assert_alike(runs / f"{mode}_halves", runs / "one_halves")


def test_bf16_with_sharded_weights_is_as_near_to_fp32_as_autocast(runs):
    ours, theirs, exact = (
        torch.cat([tensor.flatten() for tensor in exported(runs / name).values()])
        for name in ("fsdp_bf16", "one_bf16", "one")
    )
    assert (ours - exact).norm() < 2 * (theirs - exact).norm()
    assert ours.dtype == torch.float32
    assert rows(runs / "fsdp_bf16")[-1]["loss"] == pytest.approx(rows(runs / "one")[-1]["loss"], rel=0.01)


def test_recomputing_changes_no_bit_in_one_process(runs, dataset, tmp_path):
    start(eve(dataset, activation_checkpointing=True), tmp_path / "run")
    found, expected = exported(tmp_path / "run"), exported(runs / "one")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert [r["experts"] for r in rows(tmp_path / "run")] == [r["experts"] for r in rows(runs / "one")]
