"""A toy EVE with a tokenizer, and splits made of random pictures."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch

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


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([*WORDS, *WORDS], 100)


@pytest.fixture
def make_task(tokenizer: Tokenizer) -> Callable[..., RetrievalTask]:
    """Return a function of the task's settings; equal settings give equal weights."""

    def make(system: EveConfig = TINY, **settings: Any) -> RetrievalTask:
        torch.manual_seed(3)
        task = RetrievalTask(EveModel(system), RetrievalConfig(**settings), tokenizer)
        for head in (task.itc.visual, task.itc.text, *([] if task.itm is None else [task.itm.classifier])):
            torch.nn.init.normal_(head.weight, std=0.5)  # so that scores differ clearly
        return task

    return make


@pytest.fixture
def make_data() -> Callable[..., EvalData]:
    """Return a function (captions, match id of each picture) -> split with random pictures."""

    def make(
        captions: Sequence[Sequence[str]],
        match_ids: Sequence[int],
        batch: int = 3,
        skipped: dict[str, int] | None = None,
    ) -> EvalData:
        generator = torch.Generator().manual_seed(11)
        images = torch.randint(0, 256, (len(captions), 3, 16, 16), generator=generator, dtype=torch.uint8)

        def batches() -> Iterator[Batch]:
            for rows in torch.arange(len(captions)).split(batch) if captions else ():
                yield Batch(
                    keys=[f"picture{i}" for i in rows.tolist()],
                    positions=rows,
                    match_ids=torch.tensor([match_ids[i] for i in rows.tolist()]),
                    images=images[rows],
                    captions=[tuple(captions[i]) for i in rows.tolist()],
                    skipped=(skipped or {}) if rows[0] == 0 else {},
                )

        return EvalData("toy", "test", len(captions) + sum((skipped or {}).values()), batches)

    return make
