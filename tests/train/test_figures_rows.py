"""What a row of figures says, by hand, for one rank and for several."""

import math
from dataclasses import replace

import pytest
import torch
from tests.ranks import run_ranks
from torch import nn

from diptych.data.batch import Batch
from diptych.systems.protocol import ImageSpec, VisionLanguageModel
from diptych.systems.task import Loss
from diptych.train import figures as module
from diptych.train.figures import Figures, Share, joined

CPU = torch.device("cpu")


class Model(VisionLanguageModel):
    capabilities = frozenset()

    def __init__(self) -> None:
        super().__init__()
        self.image_spec = ImageSpec(8, tokens=5)
        self.layers = nn.Linear(3, 4)
        self.load = {}

    def expert_load(self):
        return self.load

    def reset_expert_load(self):
        self.load = {}


class OnlyModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.head = nn.Linear(4, 1)


def batch(samples: int, words: int, *, images: bool = True, mask: bool = True) -> Batch:
    """Return samples with `words` real tokens in all, in texts padded to 6."""
    flat = torch.arange(samples * 6) < words
    return Batch(
        keys=[str(i) for i in range(samples)],
        positions=torch.arange(samples),
        match_ids=torch.arange(samples),
        images=torch.zeros(samples, 3, 8, 8, dtype=torch.uint8) if images else None,
        text_mask=flat.view(samples, 6) if mask else None,
    )


def loss(total: float, **parts: float) -> Loss:
    return Loss(
        torch.tensor(total), {k: torch.tensor(v) for k, v in parts.items()}, {"acc": torch.tensor(0.5)}
    )


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves, and a device of 1000 FLOP/s."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module, "roofline", lambda device, precision: 1000.0)
    return now


def test_padding_is_weighted_by_pixels(clock):
    figures = Figures(OnlyModel(), CPU, "fp32")
    figures.batch(batch(1, 1))  # pictures that fill their frames say nothing
    assert "padding" not in figures.row()
    figures.batch(replace(batch(2, 3), image_sizes=torch.tensor([[8, 8], [4, 4]])))
    wide = torch.zeros(1, 2, 3, 8, 32, dtype=torch.uint8)
    figures.batch(replace(batch(1, 3), images=wide, image_sizes=torch.tensor([[[8, 8], [8, 24]]])))
    # 64 + 16 of 128 pixels, then 64 + 192 of 512.
    assert figures.row()["padding"] == pytest.approx(1 - (80 + 256) / (128 + 512))


def test_a_row_by_hand(clock):
    task = OnlyModel()
    figures = Figures(task, CPU, "fp32")
    layers = [task.model.layers.weight, task.model.layers.bias]
    with figures.counting():
        torch.zeros(2, 3) @ torch.zeros(3, 10)
    figures.batch(batch(4, 14))
    figures.batch(batch(2, 6))
    figures.loss(loss(3.0, a=1.0, b=2.0), 2 / 3)
    figures.loss(loss(6.0, a=3.0, b=3.0), 1 / 3)
    figures.gradients(layers, torch.tensor([3.0, 4.0]))
    figures.step(torch.tensor(7.0))
    figures.waited(0.5)
    figures.batch(batch(4, 20))
    figures.loss(loss(2.0, a=1.0, b=1.0), 1.0)
    figures.gradients([*layers, task.head.weight], torch.tensor([6.0, 8.0, 2.0]))
    figures.step(torch.tensor(9.0))
    task.model.load = {1: torch.tensor([6, 2]), 4: torch.tensor([0, 0])}
    clock[0] += 2.0
    row = figures.row()
    assert row["loss"] == pytest.approx((4.0 + 2.0) / 2)
    assert row["loss/a"] == pytest.approx((5 / 3 + 1) / 2)
    assert row["metric/acc"] == pytest.approx(0.5)
    assert row["grad_norm"] == 8
    assert row["grad_norm/model.layers"] == 7.5
    assert row["grad_norm/head"] == 1
    assert row["samples_per_second"] == 5
    assert row["steps_per_second"] == 1
    assert row["tokens_per_second"] == ((6 * 5 + 20) + (4 * 5 + 20)) / 2
    assert row["data_wait"] == 0.25
    # 2 * 2 * 3 * 10 operations for the 50 tokens of the first step, and as many a token for the second.
    assert row["flops_per_second"] == pytest.approx(120 * 90 / 50 / 2)
    assert row["flops_share"] == pytest.approx(0.108)
    assert row["memory_peak_mb"] > 10
    assert row["experts"] == {"1": [0.75, 0.25]}
    assert row["experts/max_share"] == 0.75
    # and anew
    figures.batch(batch(3, 0, images=False, mask=False))
    figures.step(torch.tensor(1.0))
    clock[0] += 1.0
    row = figures.row()
    assert row["samples_per_second"] == 3
    assert row["tokens_per_second"] == 0
    assert row["grad_norm"] == 1
    assert "loss" not in row
    assert "experts" not in row


def test_without_counting_there_are_no_flops(clock):
    figures = Figures(OnlyModel(), CPU, "fp32", count_flops=False)
    with figures.counting():
        torch.zeros(2, 3) @ torch.zeros(3, 10)
    figures.batch(batch(4, 14))
    figures.step(torch.tensor(7.0))
    assert not {"flops_per_second", "flops_share"} & figures.row().keys()


def share(**changes) -> Share:
    values = {
        "sums": {"loss": (2.0, 1.0)},
        "seconds": 2.0,
        "waited": 1.0,
        "samples": 8,
        "steps": 2,
        "tokens": 100.0,
        "flops": 600.0,
        "peak_flops": 500.0,
        "memory_mb": 10.0,
        "experts": {3: [1, 3]},
    }
    return Share(**values | changes)


def test_ranks_add_up_rates_and_average_losses():
    other = share(
        sums={"loss": (9.0, 2.0), "loss/late": (4.0, 1.0)},
        waited=0.0,
        samples=4,
        tokens=20.0,
        flops=200.0,
        memory_mb=12.0,
        experts={3: [3, 1], 5: [0, 4]},
    )
    row = joined([share(), other])
    assert row["loss"] == pytest.approx(11 / 3)
    assert row["loss/late"] == 4  # of the only rank that had it
    assert row["samples_per_second"] == 6
    assert row["tokens_per_second"] == 60
    assert row["steps_per_second"] == 1
    assert row["data_wait"] == 0.25
    assert row["memory_peak_mb"] == 12
    assert row["flops_per_second"] == 400
    assert row["flops_share"] == 0.4
    assert row["experts"] == {"3": [0.5, 0.5], "5": [0.0, 1.0]}
    assert row["experts/max_share"] == 1


def test_a_rank_that_has_counted_nothing_yet_leaves_no_half_figure():
    assert "flops_per_second" not in joined([share(), share(flops=None)])


def _row_of_a_rank(world):
    figures = Figures(OnlyModel(), CPU, "fp32", world, count_flops=False)
    figures.batch(batch(4, 14))
    figures.loss(loss(1.0 + world.rank), 1.0)
    figures.step(torch.tensor(7.0))
    return figures.row()


@pytest.mark.slow
def test_every_rank_has_the_row_of_all():
    first, second = run_ranks(_row_of_a_rank)
    assert first == second
    assert first["loss"] == 1.5
    assert math.isfinite(first["samples_per_second"])
