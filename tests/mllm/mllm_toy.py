"""A toy multimodal language model and batches for it."""

from typing import Any

import torch

from diptych.data.batch import Batch
from diptych.data.draws import Draws
from diptych.data.text import Tokenizer
from diptych.systems.mllm.config import LanguageConfig, LoraConfig, PartialLoraConfig
from diptych.systems.mllm.system import SYSTEM, TOY_LLAMA
from diptych.systems.task import StepContext
from diptych.tasks.instruct import InstructConfig, InstructTask

WORDS = ["what color is the cat", "red blue yes no", "where is the dog and the cat"] * 3
QUESTIONS = [
    {"question": "what color", "answer": "red", "kind": "color"},
    {"question": "where is the dog and what color is the cat", "answer": "blue yes", "kind": "where"},
    {"question": "is the cat red", "answer": "no", "kind": "color"},
    {"question": "where", "answer": "the dog", "kind": "where"},
    {"question": "yes", "answer": "no", "kind": "color"},
]


def toy_task(adapters: bool = True, **settings: Any) -> InstructTask:
    """Return a task whose adapters say something: fresh ones would change nothing."""
    torch.manual_seed(0)
    rank = 2 if adapters else 0
    language = LanguageConfig(
        path="", settings=TOY_LLAMA, lora=LoraConfig(rank=rank), plora=PartialLoraConfig(rank=rank)
    )
    model = SYSTEM.build(SYSTEM.toy_config().with_(language=language))
    model.vision.requires_grad_(False)  # its batch norm would make samples depend on each other
    for name, parameter in model.named_parameters():
        if "lora_B" in name or name.endswith(".up.weight"):
            torch.nn.init.normal_(parameter, std=0.3)
    return InstructTask(model, InstructConfig(**settings), Tokenizer.train(WORDS, 60)).train()


def questions(count: int = 5, seed: int = 0, **extra: Any) -> Batch:
    """Return a batch of questions about random pictures."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.arange(count)
    return Batch(
        keys=[str(i) for i in range(count)],
        positions=numbers,
        match_ids=numbers,
        images=torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=generator),
        extra={"questions": QUESTIONS[:count], **extra},
    )


def context(batch: Batch) -> StepContext:
    """Return the first step's."""
    return StepContext(0, 0.0, Draws(0, batch.positions))
