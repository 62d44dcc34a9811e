"""Experts spread over ranks beside experts copied on every rank: speed of a training step, memory a rank.

Run with `python benchmarks/moe_parallel.py [--ranks N] [--json FILE]`; sizes of the layer are options.
A step is forward, backward and the reduction of the gradients, at equal work: every rank has its own tokens.
The peer `copied-experts` is plain data parallelism: all experts everywhere, gradients averaged over ranks.
The two take turns, and the fastest steps count, since other programs only ever make a step slower. Ranks are
processes of this machine, on its GPUs where it has enough of them (NCCL), otherwise one thread each (gloo).
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from diptych.blocks.collective import World, set_world
from diptych.blocks.expert_parallel import ExpertGroup, shard_experts
from diptych.blocks.moe import Mixture
from diptych.blocks.router import RouterConfig
from reporting import Row, add_json, report, versus

PEER = "copied-experts"
ADAMW = 4
"""Weight, gradient and two moments, each as large as the parameter."""


class Contender:
    """A mixture layer on one rank, with its experts spread over `spread` ranks."""

    def __init__(self, world: World, spread: int, options: argparse.Namespace, device: torch.device) -> None:
        torch.manual_seed(0)
        layer = Mixture(options.width, options.hidden, options.experts, "quick_gelu", RouterConfig())
        for parameter in layer.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
        self.layer = layer.to(device).train()
        self.world, self.group = world, ExpertGroup()
        set_world(layer, world)
        self.group = shard_experts(layer, world, spread)
        self.seconds: list[float] = []

    def bytes(self) -> int:
        """Return what experts and their optimizer state take on this rank."""
        return ADAMW * sum(p.numel() * p.element_size() for p in self.layer.experts.parameters())

    def step(self, x: torch.Tensor) -> None:
        """Do a step on tokens [B, S, D] and note how long it took."""
        self.layer.zero_grad()
        _wait(x.device)
        dist.barrier()
        started = time.perf_counter()
        mixed = self.layer(x, x.shape[1] // 2, None)
        (mixed.output.square().mean() + mixed.balance).backward()
        self.group.reduce_gradients()
        for name, parameter in self.layer.named_parameters():
            if name not in self.group.parameters and parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= self.world.size
        _wait(x.device)
        self.seconds.append(time.perf_counter() - started)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def work(rank: int, options: argparse.Namespace, folder: str) -> None:
    """Measure both on a rank; rank 0 writes what it found."""
    gpu = torch.cuda.is_available() and torch.cuda.device_count() >= options.ranks
    device = torch.device("cuda", rank) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", options.ranks)
    dist.init_process_group("nccl" if gpu else "gloo", store=store, rank=rank, world_size=options.ranks)
    world = World(rank, options.ranks)
    generator = torch.Generator().manual_seed(rank)
    x = torch.randn(options.batch, options.length, options.width, generator=generator).to(device)
    contenders = {
        name: Contender(world, spread, options, device)
        for name, spread in (("spread", options.ranks), ("copied", 1))
    }
    for _ in range(options.steps + 1):
        for contender in contenders.values():
            contender.step(x)
    if rank == 0:
        found = {n: {"seconds": min(c.seconds[1:]), "bytes": c.bytes()} for n, c in contenders.items()}
        Path(folder, "found.json").write_text(json.dumps(found | {"device": device.type}), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


def rows(options: argparse.Namespace) -> list[Row]:
    """Run the ranks; return the comparison."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(work, (options, folder), nprocs=options.ranks)
        found = json.loads(Path(folder, "found.json").read_text(encoding="utf-8"))
    ours, theirs = found["spread"], found["copied"]
    tokens = options.ranks * options.batch * options.length
    at = f"{options.experts} experts, {options.ranks} ranks, {found['device']}"
    mib = 2**20
    return [
        versus(f"step, {at}", tokens / ours["seconds"], tokens / theirs["seconds"], "tokens/s", PEER),
        versus(
            f"expert memory, {at}", ours["bytes"] / mib, theirs["bytes"] / mib, "MiB a rank", PEER, less=True
        ),
    ]


def main() -> None:
    """Parse the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name, default in {
        "ranks": 2,
        "width": 384,
        "hidden": 1536,
        "experts": 16,
        "batch": 16,
        "length": 64,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--steps", type=int, default=10)
    add_json(parser)
    options = parser.parse_args()
    report(rows(options), options.json)


if __name__ == "__main__":
    main()
