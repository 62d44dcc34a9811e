"""A small Q-Former with its vocabulary and a batch, for the tests of this folder."""

from collections.abc import Sequence
from typing import Any

import torch

from diptych.data.batch import Batch
from diptych.data.draws import Draws
from diptych.data.text import Tokenizer
from diptych.systems.qformer.model import QFormerModel
from diptych.systems.qformer.system import SYSTEM
from diptych.systems.task import StepContext
from diptych.tasks.qformer_align import QFormerAlignTask
from diptych.tasks.qformer_align_config import QFormerAlignConfig

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", *"abcdefghijklmnopqrstuvwxyz", "cat", "dog", "runs"]
TOKENIZER = Tokenizer.from_vocabulary(WORDS)
CAPTIONS = ("cat runs a b", "dog c d", "a dog runs", "cat e f g", "cat runs a b", "h i")


def make_task(system: dict[str, Any] | None = None, **settings: Any) -> QFormerAlignTask:
    """Return a task in training mode; nothing in it is random."""
    torch.manual_seed(3)
    config = SYSTEM.toy_config().model_dump() | (system or {})
    config["qformer"] |= {"vocab_size": TOKENIZER.vocab_size + 1, "query_std": 1.0}
    model = QFormerModel(SYSTEM.config_class.model_validate(config))  # type: ignore[arg-type]
    return QFormerAlignTask(model, QFormerAlignConfig.model_validate(settings), TOKENIZER).train()


def make_batch(rows: Sequence[int] = range(6)) -> Batch:
    """Return some of six clips; the first and the fifth have the same text and match."""
    generator = torch.Generator().manual_seed(8)
    images = torch.randint(0, 256, (6, 2, 3, 16, 16), generator=generator, dtype=torch.uint8)
    kept = torch.tensor(list(rows))
    ids, mask = TOKENIZER.encode([CAPTIONS[i] for i in rows], 8)
    return Batch(
        keys=[str(i) for i in rows],
        positions=90 + kept,
        match_ids=torch.tensor([1, 2, 3, 4, 1, 6])[kept],
        images=images[kept],
        text_ids=ids,
        text_mask=mask,
        captions=[(CAPTIONS[i],) for i in rows],
    )


def context(batch: Batch) -> StepContext:
    return StepContext(step=0, progress=0.0, draws=Draws(5, batch.positions))
