"""The mixture of experts beside the capacity-einsum dispatch and the dense top-2 limit: time and memory.

    python benchmarks/moe.py                                   # 8 and 32 experts; 4096, 8192 and 16384 tokens
    python benchmarks/moe.py --tokens 4096 --experts 32 --clock cpu --rounds 2
    python benchmarks/moe.py --device cuda --precision bf16

A call is forward and backward of one layer, router included, from given tokens and a given gradient of the
output; gradients of weights and tokens are made afresh. Peers:

- `dense-top2-limit`: one plain perceptron of the same hidden width applied to two rows a token, with torch's
  fused GELU. It does the products of the chosen experts and nothing else, so no top-2 layer should beat it by
  more than what it wastes on memory.
- `capacity-einsum`: the dispatch that GShard and DeepSpeed made common. A mask [tokens, experts, slots] with
  room for tokens * 2 / experts rows of each expert is multiplied with the tokens and with the outputs, so its
  work and memory grow with the square of the tokens. It drops what has no room.

`--memory` measures the peak of one call of each above what was there before, every one in its own process.
"""

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from _turns import add_device, add_turns, begin, peak_of, take_turns
from diptych.blocks.moe import Mixture
from diptych.blocks.router import RouterConfig
from diptych.train.precision import autocast
from reporting import Row, add_json, report, versus

OURS, EINSUM, LIMIT = "diptych", "capacity-einsum", "dense-top2-limit"


class CapacityEinsum(nn.Module):
    """Top-2 experts reached through one-hot masks [T, E, C]: einsum in, batched products, einsum out."""

    def __init__(self, width: int, hidden: int, experts: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, experts, bias=False)
        self.fc1 = nn.Parameter(torch.empty(experts, width, hidden))
        self.fc1_bias = nn.Parameter(torch.zeros(experts, 1, hidden))
        self.fc2 = nn.Parameter(torch.empty(experts, hidden, width))
        self.fc2_bias = nn.Parameter(torch.zeros(experts, 1, width))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return output [T, D] and balance loss of tokens [T, D]."""
        combine, balance = self._combine(self.gate(x).float())
        combine = combine.to(x.dtype)
        dispatch = (combine != 0).to(x.dtype)
        inside = torch.einsum("tec,td->ecd", dispatch, x)
        hidden = F.gelu(torch.baddbmm(self.fc1_bias, inside, self.fc1))
        outside = torch.baddbmm(self.fc2_bias, hidden, self.fc2)
        return torch.einsum("tec,ecd->td", combine, outside), balance

    def _combine(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        tokens, experts = logits.shape
        slots = max(4, math.ceil(2 * tokens / experts))
        gates = logits.softmax(1)
        first = F.one_hot(gates.argmax(1), experts)
        noise = -torch.empty_like(logits).exponential_().log()
        second = F.one_hot((logits + noise).masked_fill(first.bool(), -math.inf).argmax(1), experts)
        places = (first.cumsum(0) - 1, second.cumsum(0) - 1 + first.sum(0))
        chosen = [mask * (place < slots) for mask, place in zip((first, second), places, strict=True)]
        weights = torch.stack([(gates * mask).sum(1) for mask in chosen])
        weights = weights / weights.sum(0).clamp(min=torch.finfo(weights.dtype).eps)
        combine = logits.new_zeros(())
        for weight, mask, place in zip(weights, chosen, places, strict=True):
            slot = F.one_hot((place * mask).sum(1), slots).to(logits.dtype)
            combine = combine + (weight[:, None] * mask)[:, :, None] * slot[:, None, :]
        return combine, experts * (gates.mean(0) * first.float().mean(0)).sum()


class DenseLimit(nn.Sequential):
    """A perceptron on two rows a token; what comes out is not added up."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


def build(name: str, tokens: int, experts: int, options: argparse.Namespace) -> Callable[[], None]:
    """Return a contender's call: forward and backward on the same tokens every time."""
    device, width, hidden = torch.device(options.device), options.width, options.hidden
    torch.manual_seed(0)
    rows = 2 * tokens if name == LIMIT else tokens
    x = torch.randn(rows, width, device=device)
    above = torch.randn(rows, width, device=device)
    if name == OURS:
        layer: nn.Module = Mixture(width, hidden, experts, "quick_gelu", RouterConfig())
    else:
        layer = DenseLimit(width, hidden) if name == LIMIT else CapacityEinsum(width, hidden, experts)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.02)
    layer = layer.to(device).train()

    def call() -> None:
        layer.zero_grad(set_to_none=True)
        leaf = x.detach().requires_grad_()
        with autocast(device, options.precision):
            if name == OURS:
                mixed = layer(leaf[None], tokens // 2, None)
                out, balance = mixed.output[0], mixed.balance
            elif name == LIMIT:
                out, balance = layer(leaf), None
            else:
                out, balance = layer(leaf)
        ends = [out] if balance is None else [out, balance]
        torch.autograd.backward(ends, [above.to(out.dtype), None][: len(ends)])

    return call


def timed(tokens: int, experts: int, options: argparse.Namespace) -> Iterator[Row]:
    """Yield the times of one size."""
    names = [OURS, LIMIT] + ([EINSUM] if tokens <= options.einsum_up_to else [])
    calls = {name: build(name, tokens, experts, options) for name in names}
    seconds = take_turns(calls, options.rounds, options.clock, torch.device(options.device))
    title = f"moe fwd+bwd tokens={tokens} width={options.width} experts={experts}{_suffix(options)}"
    for name in names[1:]:
        yield versus(title, seconds[OURS], seconds[name], "s", name, less=True)


def _suffix(options: argparse.Namespace) -> str:
    return "" if options.precision == "fp32" else f" {options.precision}"


def remembered(tokens: int, experts: int, options: argparse.Namespace) -> Iterator[Row]:
    """Yield the memory of one size."""
    names = [OURS, LIMIT] + ([EINSUM] if tokens <= options.einsum_up_to else [])
    peaks = {}
    for name in names:
        command = [sys.executable, str(Path(__file__).resolve()), "--one", name, "--device", options.device]
        command += ["--tokens", str(tokens), "--experts", str(experts), "--precision", options.precision]
        command += ["--width", str(options.width), "--hidden", str(options.hidden)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        peaks[name] = json.loads(done.stdout)
    title = f"moe memory tokens={tokens} width={options.width} experts={experts}{_suffix(options)}"
    for name in names[1:]:
        yield versus(title, peaks[OURS], peaks[name], "MB", name, less=True)


def measure_one(options: argparse.Namespace) -> None:
    """Print the MB of one call of a contender."""
    (tokens,), (experts,) = options.tokens, options.experts
    build(options.one, 64, 2, options)()  # libraries are loaded, threads are started
    print(json.dumps(peak_of(build(options.one, tokens, experts, options), torch.device(options.device))))


def main() -> None:
    """Parse the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[4096, 8192, 16384])
    parser.add_argument("--experts", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--hidden", type=int, default=3072)
    add_turns(parser, 5)
    add_device(parser)
    parser.add_argument(
        "--einsum-up-to",
        type=int,
        default=8192,
        metavar="TOKENS",
        help="leave capacity-einsum out above this (at 16384 tokens it takes 10 GB)",
    )
    parser.add_argument("--memory", action="store_true", help="measure memory too")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    add_json(parser)
    options = parser.parse_args()
    begin(options)
    if options.one:
        measure_one(options)
        return
    rows: list[Row] = []
    for experts in options.experts:
        for tokens in options.tokens:
            rows += timed(tokens, experts, options)
            if options.memory:
                rows += remembered(tokens, experts, options)
    report(rows, options.json)


if __name__ == "__main__":
    main()
