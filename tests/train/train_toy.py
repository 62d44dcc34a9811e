"""A system, a task and a dataset that train in a moment; as a script it is `diptych` with them."""

import io
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor, nn

from diptych.data.batch import Batch
from diptych.data.image import normalise
from diptych.data.sample import Sample
from diptych.data.shards import ShardWriter
from diptych.errors import DataError
from diptych.systems import SYSTEMS
from diptych.systems.protocol import Encoded, ImageSpec, SystemConfig, TextSpec, VisionLanguageModel
from diptych.systems.task import Loss, StepContext, Task, TaskConfig
from diptych.tasks import TASKS

SIZE, TOKENS, SAMPLES = 8, 6, 24


class ToyConfig(SystemConfig):
    name: Literal["toy"] = "toy"
    image_size: int = Field(SIZE, description="Side.")
    width: int = Field(16, description="Width.")
    vocab_size: int = Field(64, description="Words.")
    max_text_tokens: int = Field(TOKENS, description="Tokens.")
    dropout: float = Field(0.1, description="Of pictures.")


class ToyModel(VisionLanguageModel):
    capabilities = frozenset({"encode_visual", "encode_text"})

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.width = config.width
        self.image_spec = ImageSpec(config.image_size)
        self.text_spec = TextSpec(config.max_text_tokens, config.vocab_size)
        self.pixels = nn.Linear(3 * config.image_size**2, config.width)
        self.words = nn.Embedding(config.vocab_size, config.width)
        self.norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)

    def encode_visual(self, visual: Tensor) -> Encoded:
        tokens = self.norm(self.dropout(self.pixels(visual.flatten(1)))).unsqueeze(1)
        return Encoded(tokens, tokens[:, 0], torch.ones(tokens.shape[:2], dtype=torch.bool))

    def encode_text(self, ids: Tensor, mask: Tensor) -> Encoded:
        tokens = self.norm(self.words(ids)) * mask.unsqueeze(-1)
        return Encoded(tokens, tokens.sum(1), mask)

    def undecayed(self) -> set[str]:
        return {"words.weight"}


class ToySystem:
    name = "toy"
    config_class = ToyConfig
    supports = frozenset({"toy_pairs", "toy_fused"})

    def build(self, config: ToyConfig) -> ToyModel:
        return ToyModel(config)

    def toy_config(self) -> ToyConfig:
        return ToyConfig()


SYSTEM = ToySystem()


class PairsConfig(TaskConfig):
    name: Literal["toy_pairs"] = "toy_pairs"
    jitter: float = Field(0.1, description="Noise on the pictures, from the step's generator.")
    explode_at: int = Field(-1, description="Number of the step whose loss is not a number.")
    die_at: int = Field(-1, description="Number of the step at which the last of several ranks fails.")
    pause: float = Field(0.0, description="Seconds a step takes at least.")
    head: bool = Field(False, description="Have a head of its own.")


class PairsTask(Task):
    """Pull each picture's vector towards its text's: a mean over samples, so accumulation can be exact."""

    name = "toy_pairs"
    config_class = PairsConfig
    batch_fields = frozenset({"images", "text_ids", "text_mask"})

    def __init__(self, model, config, tokenizer) -> None:
        super().__init__(model, config, tokenizer)
        if config.head:
            self.head = nn.Linear(model.width, 1)

    @classmethod
    def needs(cls, config):
        return frozenset({"encode_visual", "encode_text"})

    def compute_loss(self, batch: Batch, context: StepContext) -> Loss:
        pixels = normalise(batch.images, self.model.image_spec)
        if self.config.jitter:
            pixels = pixels + self.config.jitter * context.draws.normal(*pixels.shape[1:])
        image = self.model.encode_visual(pixels).pooled
        text = self.model.encode_text(batch.text_ids, batch.text_mask).pooled
        pull = (image - text).square().mean()
        size = 0.1 * image.square().mean()
        if self.config.head:
            size = size + self.head(image).square().mean()
        time.sleep(self.config.pause)
        if context.step == self.config.die_at and context.world.rank == context.world.size - 1 > 0:
            raise DataError(f"the toy dies at step {context.step}")
        if context.step == self.config.explode_at:
            pull = pull * float("nan")
        return Loss(pull + size, {"pull": pull, "size": size}, {"progress": torch.tensor(context.progress)})

    def evaluate(self, data, progress):
        raise NotImplementedError


class FusedTask(PairsTask):
    name = "toy_fused"

    @classmethod
    def needs(cls, config):
        return frozenset({"fuse"})


class FusedConfig(TaskConfig):
    name: Literal["toy_fused"] = "toy_fused"


FusedTask.config_class = FusedConfig


def register(systems: dict[str, str] = SYSTEMS, tasks: dict[str, str] = TASKS) -> None:
    systems["toy"] = "train_toy:SYSTEM"
    tasks["toy_pairs"] = "train_toy:PairsTask"
    tasks["toy_fused"] = "train_toy:FusedTask"


def write_dataset(out: Path, samples: int = SAMPLES) -> Path:
    random = np.random.default_rng(7)
    colours = ("red", "green", "blue")
    with_ = ("big", "small", "round", "flat")
    out.mkdir(parents=True, exist_ok=True)
    writer = ShardWriter(out, "toy", shard_size=10)
    for i in range(samples):
        buffer = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)).save(buffer, "PNG")
        caption = f"{with_[i % 4]} {colours[i % 3]} thing"
        writer.write(Sample(f"s{i:03d}", {"png": buffer.getvalue()}, (caption,), meta={"number": i}))
    writer.close()
    return out


def settings(data: Path, **changes: Any) -> dict[str, Any]:
    """Return a recipe; `train__steps=5` changes `train.steps`."""
    recipe: dict[str, Any] = {
        "name": "toy",
        "data": {
            "path": str(data),
            "image": {"size": SIZE, "flip": 0.5},
            "text": {"max_tokens": TOKENS, "vocab_size": 64},
            "loader": {"batch_size": 5},
            "augment": {"noise": 0.05},
        },
        "system": {"name": "toy"},
        "task": {"name": "toy_pairs"},
        "optim": {"lr": 0.01},
        "train": {"steps": 12, "checkpoint_every": 3, "log_every": 2, "threads": 1},
    }
    for key, value in changes.items():
        *sections, last = key.split("__")
        within = recipe
        for section in sections:
            within = within.setdefault(section, {})
        within[last] = value
    return recipe


def exported(run: Path) -> Mapping[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(run / "export" / "model.safetensors")


if __name__ == "__main__":
    from diptych.cli.main import run as run_cli

    register()
    sys.exit(run_cli(sys.argv[1:]))
