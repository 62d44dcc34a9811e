"""A toy EVE with a tokenizer, and splits made of random pictures."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from diptych.blocks.collective import ALONE, World
from diptych.blocks.router import RouterConfig
from diptych.data.batch import Batch
from diptych.data.text import Tokenizer
from diptych.systems.eve.config import EveConfig
from diptych.systems.eve.model import EveModel
from diptych.systems.task import EvalData
from diptych.tasks.retrieval import RetrievalTask
from diptych.tasks.retrieval_config import RetrievalConfig

WORDS = ("red cat", "blue dog", "small house", "green tree", "old car", "white moon", "hot sun", "sad cat")
TINY = EveConfig(
    image_size=16,
    patch_size=8,
    width=16,
    layers=2,
    heads=2,
    hidden=24,
    vocab_size=100,
    max_text_tokens=8,
    drop_path=0.0,
    text_dropout=0.0,
    layer_scale=1.0,
    init="fan_in",
    word_std=1.0,
    moe_layers=(1,),
    experts=3,
    router=RouterConfig(noise="never"),
)


def toy_tokenizer() -> Tokenizer:
    return Tokenizer.train([*WORDS, *WORDS], 100)


def toy_task(tokenizer: Tokenizer, system: EveConfig = TINY, **settings: Any) -> RetrievalTask:
    """Return a task with random weights; equal settings give equal weights."""
    torch.manual_seed(3)
    task = RetrievalTask(EveModel(system), RetrievalConfig(**settings), tokenizer)
    for head in (task.itc.visual, task.itc.text, *([] if task.itm is None else [task.itm.classifier])):
        torch.nn.init.normal_(head.weight, std=0.5)  # so that scores differ clearly
    return task


def toy_data(
    captions: Sequence[Sequence[str]],
    match_ids: Sequence[int],
    batch: int = 3,
    skipped: dict[str, int] | None = None,
    world: World = ALONE,
) -> EvalData:
    """Return a split of random pictures with these captions and match ids."""
    generator = torch.Generator().manual_seed(11)
    images = torch.randint(0, 256, (len(captions), 3, 16, 16), generator=generator, dtype=torch.uint8)

    def part(chosen: slice, skipped: dict[str, int]) -> EvalData:
        def batches() -> Iterator[Batch]:
            for rows in torch.arange(len(captions))[chosen].split(batch):
                if not len(rows):
                    return
                yield Batch(
                    keys=[f"picture{i}" for i in rows.tolist()],
                    positions=rows,
                    match_ids=torch.tensor([match_ids[i] for i in rows.tolist()]),
                    images=images[rows],
                    captions=[tuple(captions[i]) for i in rows.tolist()],
                    skipped=skipped if rows[0] == chosen.start else {},
                )

        size = len(range(len(captions))[chosen]) + sum(skipped.values())
        return EvalData("toy", "test", size, batches)

    data = part(slice(0, len(captions)), skipped or {})
    if world.size == 1:
        return data
    mine = part(world.slice_of(len(captions)), (skipped or {}) if world.is_main else {})
    return replace(data, world=world, part=mine)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return toy_tokenizer()


@pytest.fixture
def make_task(tokenizer: Tokenizer) -> Callable[..., RetrievalTask]:
    """Return a function of the task's settings."""
    return functools.partial(toy_task, tokenizer)


@pytest.fixture
def make_data() -> Callable[..., EvalData]:
    """Return a function (captions, match id of each picture) -> split with random pictures."""
    return toy_data
