"""A small SNP-S3 with its vocabulary, significant words and a batch, for the tests of this folder."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from diptych.blocks.resnet import ResNetConfig
from diptych.data.batch import Batch
from diptych.data.text import Tokenizer
from diptych.systems.snps3.config import SnpS3Config
from diptych.systems.snps3.model import SnpS3Model
from diptych.systems.snps3.pretrain import SnpS3PretrainTask
from diptych.systems.snps3.pretrain_config import SnpS3PretrainConfig

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", *"abcdefghijklmnopqrstuvwxyz", "cat", "dog", "runs"]
TOKENIZER = Tokenizer.from_vocabulary(WORDS)
PAD, CLS, SEP, MASK, UNK = range(5)
CAT, DOG, RUNS = (WORDS.index(word) for word in ("cat", "dog", "runs"))
ASSET = {"file": "counts.json", "counts": {"VERB": {"runs": 5}, "NOUN": {"cat": 9, "dog": 7}, "ADJ": {}}}
CAPTIONS = ("cat runs a b", "dog c d", "a dog runs", "cat e f g", "cat runs a b", "h i")


def make_task(system: dict[str, Any] | None = None, **settings: Any) -> SnpS3PretrainTask:
    """Return a task in training mode; all that draws from torch's global generator is off."""
    config = SnpS3PretrainConfig.model_validate(
        {
            "masking": "significant",
            "lvwm": "both",
            "text_mask_ratio": 0.5,
            "queue": 10,
            "momentum": 0.9,
            "level2_group": 2,
            "head_dropout": 0.0,
            **settings,
        }
    )
    torch.manual_seed(3)
    model = SnpS3Model(
        SnpS3Config.model_validate(
            {
                "image_size": 32,
                "frames": 3,
                "encoder": "resnet",
                "resnet": ResNetConfig(
                    depth=18, stem="small", stem_channels=4, base_channels=4, norm="frozen"
                ),
                "width": 16,
                "layers": 2,
                "heads": 2,
                "hidden": 24,
                "vocab_size": TOKENIZER.vocab_size,
                "max_text_tokens": 12,
                "separator": SEP,
                "dropout": 0.0,
                "attention_dropout": 0.0,
                "init_std": 0.25,
                **(system or {}),
            }
        )
    )
    task = SnpS3PretrainTask(model, config, TOKENIZER, ASSET)
    for norm in (m for m in task.modules() if isinstance(m, nn.LayerNorm)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    return task.train()


def make_batch(rows: Sequence[int] = range(6), frames: int = 3) -> Batch:
    """Return some of six clips; the first and the fifth have the same text and match."""
    generator = torch.Generator().manual_seed(8)
    images = torch.randint(0, 256, (6, frames, 3, 32, 32), generator=generator, dtype=torch.uint8)
    kept = torch.tensor(list(rows))
    ids, mask = TOKENIZER.encode([CAPTIONS[i] for i in rows], 8)
    used = int(mask.sum(1).max())
    return Batch(
        keys=[str(i) for i in rows],
        positions=90 + kept,
        match_ids=torch.tensor([1, 2, 3, 4, 1, 6])[kept],
        images=images[kept],
        text_ids=ids[:, :used],
        text_mask=mask[:, :used],
        captions=[(CAPTIONS[i],) for i in rows],
    )
