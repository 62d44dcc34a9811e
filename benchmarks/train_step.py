"""How fast a training step is: samples/s, FLOP/s and their share of the device's matrix-product roofline.

EVE base at 224 pixels, masked pre-training and the contrastive step of retrieval, beside a contrastive step
of a ViT-B/16 with a text tower (`open_clip-vit-b16`; without open_clip `torch-vit-b16-clip`, of torch's own
layers) and a classification step of timm's ViT-B/16 (`timm-vit-b16`), all with autocast, fused AdamW and
clipped gradients on one batch that stays on the device. Models differ in size: FLOP/s are what compares.

    python benchmarks/train_step.py --batch 256 --compile          # a GPU
    python benchmarks/train_step.py --fsdp --batch 256
    torchrun --nproc-per-node 8 benchmarks/train_step.py --fsdp    # ours alone, all GPUs of a machine
    python benchmarks/train_step.py --toy --precision fp32         # a CPU, a moment
"""

import argparse
import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diptych.blocks.collective import World
from diptych.data.batch import Batch
from diptych.data.draws import Draws
from diptych.data.image import normalise
from diptych.data.text import Tokenizer
from diptych.systems.eve.config import EveConfig, base
from diptych.systems.eve.pretrain import EvePretrainTask
from diptych.systems.eve.pretrain_config import EvePretrainConfig
from diptych.systems.eve.system import SYSTEM
from diptych.systems.protocol import ImageSpec
from diptych.systems.task import StepContext
from diptych.tasks.retrieval import RetrievalTask
from diptych.tasks.retrieval_config import RetrievalConfig
from diptych.train.config import OptimConfig, TrainConfig
from diptych.train.flops import StepFlops
from diptych.train.memory import peak_mb
from diptych.train.optim import build_optimizer, total_norm
from diptych.train.parallel import Parallel
from diptych.train.precision import autocast, choose_device
from diptych.train.ranks import joined, rank_device
from diptych.train.roofline import roofline
from reporting import Row, add_json, report, versus
from step_peers import build_peer, peers_here

Step = Callable[[], None]


@dataclass(frozen=True)
class Setting:
    """What all contenders share. B pictures [B, 3, size, size] uint8 and texts [B, L] int64 on the device."""

    options: argparse.Namespace
    device: torch.device
    world: World
    size: int
    images: Tensor
    ids: Tensor
    tokenizer: Tokenizer


@dataclass(frozen=True)
class Measured:
    """What a contender did on this rank."""

    samples: float
    """A second."""
    flops: float
    memory_mb: float


def prepare(options: argparse.Namespace, device: torch.device, world: World) -> Setting:
    """Draw the batch."""
    size, length = (16, 16) if options.toy else (224, options.text)
    generator = torch.Generator().manual_seed(world.rank)
    images = torch.randint(0, 256, (options.batch, 3, size, size), dtype=torch.uint8, generator=generator)
    tokenizer = Tokenizer.train([f"a picture of number {i}" for i in range(50)], 100)
    ids = torch.randint(len(tokenizer.special_ids), tokenizer.vocab_size, (options.batch, length))
    ids[:, 0] = tokenizer.cls_id
    return Setting(options, device, world, size, images.to(device), ids.to(device), tokenizer)


def ours(setting: Setting, kind: str) -> Step:
    """Return a step of EVE as the engine does it."""
    options, device = setting.options, setting.device
    system: EveConfig = SYSTEM.toy_config() if options.toy else base(setting.size)
    torch.manual_seed(0)
    model = SYSTEM.build(system)
    task: Any
    if kind == "pretraining":
        small = {"decoder_width": 32, "decoder_heads": 4} if options.toy else {}
        task = EvePretrainTask(model, EvePretrainConfig(**small), setting.tokenizer)
    else:
        task = RetrievalTask(model, RetrievalConfig(matching=False), setting.tokenizer)
    parallel = Parallel(task.train(), train_config(options), setting.world, device)
    optimizer = build_optimizer(task, OptimConfig(lr=1e-5), [])
    count = len(setting.ids)
    batch = Batch(
        keys=[str(i) for i in range(count)],
        positions=torch.arange(count) + setting.world.rank * count,
        match_ids=torch.arange(count, device=device),
        images=setting.images,
        text_ids=setting.ids,
        text_mask=torch.ones_like(setting.ids, dtype=torch.bool),
    )

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        context = StepContext(0, 0.0, Draws(0, batch.positions), setting.world)
        with autocast(device, options.precision):
            loss = parallel(batch, context)
        loss.total.backward()
        parallel.finish_gradients()
        total_norm(task.parameters(), 1.0, None, parallel.gradients)
        optimizer.step()

    return step


def train_config(options: argparse.Namespace) -> TrainConfig:
    """Return the section `train` that the switches mean."""
    return TrainConfig(
        precision=options.precision,
        parallel="fsdp" if options.fsdp else "auto",
        compile="inductor" if options.compile else "off",
        activation_checkpointing=options.activation_checkpointing,
    )


def peer(setting: Setting, name: str) -> Step:
    """Return a step of a peer."""
    options, device = setting.options, setting.device
    torch.manual_seed(0)
    model, loss_of = build_peer(name, setting.size, setting.ids, toy=options.toy)
    model = model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    forward = torch.compile(model) if options.compile else model

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(device, options.precision):
            loss = loss_of(forward, normalise(setting.images, ImageSpec(setting.size)), setting.ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def measure(step: Step, setting: Setting) -> Measured:
    """Count a step, warm up, and time the fastest of some rounds of steps."""
    options, device = setting.options, setting.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    flops, kind = StepFlops(), frozenset({"step"})
    with flops.counting():
        step()
    flops.end_step(kind, torch.ones(()))
    for _ in range(options.warmup):
        step()
    seconds = min(timed(step, options.steps, device) for _ in range(options.rounds))
    operations = flops.counted[kind][0]
    return Measured(len(setting.ids) / seconds, operations / seconds, peak_mb(device))


def timed(step: Step, steps: int, device: torch.device) -> float:
    """Return the seconds of a step, as a mean over `steps`."""
    wait(device)
    started = time.perf_counter()
    for _ in range(steps):
        step()
    wait(device)
    return (time.perf_counter() - started) / steps


def wait(device: torch.device) -> None:
    """Let the device finish."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rows(setting: Setting) -> Iterator[Row]:
    """Measure everybody, one after the other; yield what is compared."""
    options, device, ranks = setting.options, setting.device, setting.world.size
    able = roofline(device, options.precision) * ranks
    yield Row(f"roofline, {options.precision}", able / 1e12, "TFLOP/s")
    found = {}
    for name in peers_here(options.toy) if ranks == 1 else []:
        found[name] = theirs = measure(peer(setting, name), setting)
        forget(device)
        yield Row(f"{name}: samples", theirs.samples, "samples/s")
        yield Row(f"{name}: share of roofline", theirs.flops / able, "")
    size = "toy" if options.toy else "base"
    for kind in ("pretraining", "contrastive"):
        own = measure(ours(setting, kind), setting)
        forget(device)
        title = f"EVE {size} {kind}"
        yield Row(f"{title}: share of roofline", ranks * own.flops / able, "")
        if device.type == "cuda":
            yield Row(f"{title}: memory peak", own.memory_mb / 1000, "GB")
        if not found:
            yield Row(f"{title}: samples", ranks * own.samples, "samples/s")
            yield Row(f"{title}: achieved", ranks * own.flops / 1e12, "TFLOP/s")
        for name, theirs in found.items():
            yield versus(f"{title}: samples", own.samples, theirs.samples, "samples/s", name)
            yield versus(f"{title}: achieved", own.flops / 1e12, theirs.flops / 1e12, "TFLOP/s", name)


def forget(device: torch.device) -> None:
    """Free what a contender held."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def main() -> None:
    """Parse the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--batch", type=int, default=0, help="samples of a rank; default: 128, toy: 32")
    parser.add_argument("--text", type=int, default=40, help="tokens of a text")
    parser.add_argument("--steps", type=int, default=10, help="steps of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--toy", action="store_true", help="small models for a CPU")
    parser.add_argument(
        "--fsdp", action="store_true", help="cut ours with FSDP2 (one rank: the wrapper alone)"
    )
    parser.add_argument(
        "--compile", action="store_true", help="compile ours block by block, peers as a whole"
    )
    parser.add_argument("--activation-checkpointing", action="store_true")
    add_json(parser)
    options = parser.parse_args()
    options.batch = options.batch or (32 if options.toy else 128)
    device = rank_device(choose_device(options.device))
    with joined(train_config(options), device) as world:
        found = list(rows(prepare(options, device, world)))
        if world.is_main:
            if device.type == "cuda":
                print(torch.cuda.get_device_name(device))
            report(found, options.json)


if __name__ == "__main__":
    main()
