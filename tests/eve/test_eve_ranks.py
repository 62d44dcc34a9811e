"""EVE's tasks on two ranks: the loss and the averaged gradients are those of one process.

Everything that is drawn from torch's global generator is off, since each rank seeds it for itself: dropout,
drop path and the noise of the router. So is matching: its hard negatives come from a rank's own part of the
batch (their pictures are there), so two ranks ask other questions than one process.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.ranks import run_ranks

from diptych.blocks.collective import World, set_world
from diptych.blocks.router import RouterConfig
from diptych.data import image
from diptych.data.batch import Batch
from diptych.data.draws import Draws
from diptych.data.text import Tokenizer
from diptych.systems.eve.pretrain import EvePretrainTask
from diptych.systems.eve.pretrain_config import EvePretrainConfig
from diptych.systems.eve.system import SYSTEM
from diptych.systems.task import StepContext, Task
from diptych.tasks.retrieval import RetrievalTask
from diptych.tasks.retrieval_config import RetrievalConfig

pytestmark = pytest.mark.slow

CAPTIONS = ("red cat", "blue dog", "green bird sings loud", "small red bird", "red cat", "old car", "dog")
SPLIT = (3, 4)
"""Ranks hold unequal parts, padded to other lengths (2 and 4 words)."""

MASKED = EvePretrainConfig(
    decoder_width=16, decoder_layers=1, decoder_heads=2, itc_weight=1.0, image_contrast=0.5,
    label_smoothing=0.1,
)  # fmt: skip
BLOCKS = EvePretrainConfig(
    masked_tokens="replace", decoder_layers=0, decoder_width=16, decoder_heads=2, image_mask="blockwise",
    image_mask_ratio=0.5,
)  # fmt: skip
RANKED = RetrievalConfig(
    matching=False,
    image_contrast=0.5,
    label_smoothing=0.1,
    gate_weight=0.1,
    itc_init="fan_in",
    temperature=0.5,
)
CASES: dict[str, EvePretrainConfig | RetrievalConfig] = {
    "masked": MASKED,
    "masked, in chunks": MASKED.with_(itc_chunk=2),
    "masked blocks": BLOCKS,
    "retrieval": RANKED,
    "retrieval, in chunks": RANKED.with_(itc_chunk=2),
    "retrieval, one text for one picture": RANKED.with_(soft_labels=False),
    # "red cat" is encoded on both ranks, but once in one process: experts see other tokens, so no balance.
    "retrieval, distinct texts": RANKED.with_(distinct_texts=True, gate_weight=0.0),
    "retrieval, distinct texts, one for one": RANKED.with_(
        distinct_texts=True, soft_labels=False, gate_weight=0.0
    ),
}


def make_task(config: EvePretrainConfig | RetrievalConfig, tokenizer: Tokenizer) -> Task:
    system = SYSTEM.toy_config().with_(router=RouterConfig(noise="never"), stem="patch", patch_size=4)
    system = system.with_(class_mean=False, layer_scale=1.0, word_std=1.0)
    torch.manual_seed(0)
    model = SYSTEM.build(system)
    if isinstance(config, EvePretrainConfig):
        return EvePretrainTask(model, config, tokenizer).train()
    return RetrievalTask(model, config, tokenizer).train()


def make_batch(tokenizer: Tokenizer, rows: torch.Tensor) -> Batch:
    """Return some of the seven samples, padded to the longest of them."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (7, 3, 16, 16), generator=generator, dtype=torch.uint8)
    ids, mask = tokenizer.encode([CAPTIONS[i] for i in rows.tolist()], 14)
    used = int(mask.sum(1).max())
    return Batch(
        keys=[str(i) for i in rows.tolist()],
        positions=100 + rows,
        match_ids=torch.tensor([1, 2, 3, 1, 1, 5, 2])[rows],
        images=images[rows],
        text_ids=ids[:, :used],
        text_mask=mask[:, :used],
    )


def run(world: World, names: list[str]) -> dict[str, Any]:
    """Return loss, metrics and gradients (averaged over ranks) of each case."""
    tokenizer = Tokenizer.train(CAPTIONS * 4, 60)
    rows = torch.arange(7).split(SPLIT)[world.rank] if world.size > 1 else torch.arange(7)
    found = {}
    for name in names:
        task = make_task(CASES[name], tokenizer)
        set_world(task, world)
        batch = make_batch(tokenizer, rows)
        loss = task(batch, StepContext(0, 0.0, Draws(3, batch.positions), world))
        loss.total.backward()
        found[name] = {
            "parts": {n: (world.sum(part) / world.size).item() for n, part in loss.parts.items()},
            "metrics": {n: (world.sum(value) / world.size).item() for n, value in loss.metrics.items()},
            "gradients": {
                n: (world.sum(p.grad) / world.size).numpy()
                for n, p in task.named_parameters()
                if p.grad is not None
            },
        }
    return found


def run_in_double(world: World, names: list[str]) -> dict[str, Any]:
    """Return `run` with double precision wherever the code asks for single: rounding then hides nothing."""
    torch.set_default_dtype(torch.float64)
    torch.float32 = torch.float64
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
    # The loader's memory is numpy's and single on its own account.
    image._normalise_bytes = lambda images, mean, std: (images.double() - mean) / std
    return run(world, names)


def distance(ours: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """Return the length of the difference of two gradients over that of the expected one."""
    assert set(ours) == set(expected)
    off = sum(float(np.square(ours[name] - gradient).sum()) for name, gradient in expected.items())
    return math.sqrt(off / sum(float(np.square(gradient).sum()) for gradient in expected.values()))


@pytest.mark.parametrize(
    ("function", "names", "loss", "gradient"),
    [(run_in_double, list(CASES), 1e-12, 1e-12), (run, ["masked", "retrieval"], 1e-6, 3e-5)],
    ids=["double", "single"],
)
def test_two_ranks_equal_one_process(
    function: Callable[..., dict[str, Any]], names: list[str], loss: float, gradient: float
) -> None:
    (alone,), (first, second) = run_ranks(function, names, ranks=1), run_ranks(function, names)
    for name in names:
        expected, got = alone[name], first[name]
        assert second[name]["parts"] == got["parts"], name
        assert got["parts"] == pytest.approx(expected["parts"], abs=loss), name
        assert got["metrics"] == pytest.approx(expected["metrics"], abs=loss), name
        assert all(part != 0 for part in got["parts"].values() if "distinct" not in name), name
        assert distance(got["gradients"], expected["gradients"]) < gradient, name


class Counting(EvePretrainTask):
    """Notes how many samples are masked."""

    masked = 0

    def hide(self, pixels: torch.Tensor, *rest: Any) -> Any:
        self.masked = len(pixels)
        return super().hide(pixels, *rest)


def shares(world: World) -> tuple[int, int, int]:
    """Return how many samples a rank masks, and how many pairs it matches in both tasks."""
    tokenizer = Tokenizer.train(CAPTIONS * 4, 60)
    batch = make_batch(tokenizer, torch.arange(7).split(SPLIT)[world.rank])
    context = StepContext(0, 0.0, Draws(3, batch.positions), world)
    config = MASKED.with_(masked_batch=5, itm_batch=4, itm_weight=1.0)
    pairs: list[int] = []

    def noted(task: Task) -> Task:
        assert isinstance(task.itm, torch.nn.Module)
        count: Callable[..., None] = lambda _, given, __: pairs.append(len(given[0]))  # noqa: E731
        task.itm.register_forward_hook(count)
        return task

    base = make_task(config, tokenizer)
    task = Counting(base.model, config, tokenizer).train()
    noted(task)(batch, context).total.backward()
    retrieval = RANKED.with_(matching=True, itm_batch=4, itm_passes="joint")
    noted(make_task(retrieval, tokenizer))(batch, context).total.backward()
    return task.masked, *pairs


def test_numbers_of_samples_are_those_of_all_ranks() -> None:
    # 5 masked samples: 2 and 3. 4 matched ones: 2 each, as right pair, wrong picture and wrong text.
    assert run_ranks(shares) == [(2, 6, 6), (3, 6, 6)]
