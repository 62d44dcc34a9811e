"""A toy SNP-S3 with a tokenizer, and splits made of random clips."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from diptych.blocks.collective import ALONE, World
from diptych.blocks.pvt import PvtConfig
from diptych.data.batch import Batch
from diptych.data.draws import Draws
from diptych.data.text import Tokenizer
from diptych.systems.snps3.config import SnpS3Config
from diptych.systems.snps3.model import SnpS3Model
from diptych.systems.task import EvalData, Loss, StepContext, Task

WORDS = ("red cat runs", "blue dog sits", "small house burns", "green tree falls", "old car turns", "hot sun")
FRAMES = 2
TINY = SnpS3Config(
    image_size=32,
    frames=FRAMES,
    encoder="pvt",
    pvt=PvtConfig(widths=(4, 4, 8, 8), heads=(1, 1, 1, 1), depths=(1, 1, 1, 1), mlp_ratios=(1, 1, 1, 1)),
    width=16,
    layers=1,
    heads=2,
    hidden=16,
    vocab_size=100,
    max_text_tokens=8,
    separator=3,
    dropout=0.0,
    attention_dropout=0.0,
)


def toy_tokenizer() -> Tokenizer:
    return Tokenizer.train([*WORDS, *WORDS], 100)


def toy_model() -> SnpS3Model:
    """Return a model with random weights, always the same, whose scores differ clearly."""
    torch.manual_seed(5)
    model = SnpS3Model(TINY)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.3)
    return model


def spread(task: Task, *heads: nn.Module | None) -> None:
    """Draw the matrices of heads wide, so that scores differ clearly."""
    torch.manual_seed(6)
    for head in heads:
        for parameter in [] if head is None else head.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.5)


def clips(count: int, seed: int = 1) -> Tensor:
    """Return random clips [count, FRAMES, 3, 32, 32] uint8."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, FRAMES, 3, 32, 32), generator=generator, dtype=torch.uint8)


def toy_batch(
    tokenizer: Tokenizer, texts: Sequence[str] | Sequence[Sequence[str]], extra: dict[str, Any] | None = None
) -> Batch:
    """Return a clip for each text, or for each list of texts."""
    count = len(texts)
    if isinstance(texts[0], str):
        ids, mask = tokenizer.encode(list(texts), 8)  # type: ignore[arg-type]
    else:
        flat = [text for options in texts for text in options]
        ids, mask = (x.view(count, -1, 8) for x in tokenizer.encode(flat, 8))
    return Batch(
        keys=[f"clip{i}" for i in range(count)],
        positions=torch.arange(count),
        match_ids=torch.arange(count),
        images=clips(count),
        text_ids=ids,
        text_mask=mask,
        extra=extra or {},
    )


def toy_split(
    captions: Sequence[Sequence[str]],
    match_ids: Sequence[int] | None = None,
    batch: int = 3,
    world: World = ALONE,
) -> EvalData:
    """Return a split of random clips with these captions."""
    images, numbers = clips(len(captions), 11), list(match_ids or range(len(captions)))

    def part(chosen: slice) -> EvalData:
        def batches() -> Iterator[Batch]:
            for rows in torch.arange(len(captions))[chosen].split(batch):
                if not len(rows):
                    return
                yield Batch(
                    keys=[f"clip{i}" for i in rows.tolist()],
                    positions=rows,
                    match_ids=torch.tensor([numbers[i] for i in rows.tolist()]),
                    images=images[rows],
                    captions=[tuple(captions[i]) for i in rows.tolist()],
                )

        return EvalData("toy", "test", len(range(len(captions))[chosen]), batches)

    data = part(slice(0, len(captions)))
    if world.size == 1:
        return data
    return replace(data, world=world, part=part(world.slice_of(len(captions))))


def rows_split(batch: Batch) -> EvalData:
    """Return a split that is one batch."""
    return EvalData("toy", "test", len(batch), lambda: iter([batch]))


def step(task: Task, batch: Batch, number: int = 0, world: World = ALONE) -> Loss:
    loss: Loss = task.train()(batch, StepContext(number, 0.0, Draws(0, batch.positions), world))
    return loss


def quiet(stage: str, done: int, total: int) -> None:
    pass
