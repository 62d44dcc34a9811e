"""Video Swin beside torchvision's swin3d_t: forward and backward of clips, in turns in the same run.

    PYTHON benchmarks/video_swin.py                       # PYTHON: one with torchvision and diptych
    PYTHON benchmarks/video_swin.py --json swin.json --rounds 10 --clock wall

Both are the tiny form with the same weights (ours are theirs, renamed), read the same clips of 4 frames and
have no classifier. Outputs are compared first, for three draws of what is dropped: they differ by less than
1e-5 of the largest, gradients of all parameters by less than 1e-4 of the largest of each. The goal is 1.3.

The first row trains with the stochastic depth that torchvision builds swin3d_t with (up to 0.1): the mean of
many draws, the same ones for both. The second drops nothing. Further rows have a patch for every frame, as
SNP-S3 sees clips (twice the tokens; torchvision's gets the same stride and a black frame behind the clip),
with its stochastic depth of up to 0.2 and without.

`limit` is the time of the matrix products of the linear layers alone, one after the other on data of their
own, as torch does them: without attention, activations and norms.
"""

import argparse
import sys
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from _turns import add_turns, begin, take_turns
from diptych.blocks.video_swin import VideoSwin, VideoSwinConfig, from_torchvision
from reporting import Row, add_json, report, versus

PEER = "torchvision-swin3d_t"
THEIR_DROP = 0.1
"""The stochastic depth of the last block that it is built with."""
Call = Callable[[int], Tensor]
"""Takes the number of a draw: the seed of what is dropped."""


class Every(nn.Module):
    """torchvision's patches, of every frame."""

    def __init__(self, theirs: nn.Module) -> None:
        super().__init__()
        self.proj, self.norm = theirs.proj, theirs.norm

    def forward(self, x: Tensor) -> Tensor:
        """Turn [B, 3, T, H, W] into [B, T, h, w, C]."""
        x = F.pad(x, (0, 0, 0, 0, 0, 1))
        x = F.conv3d(x, self.proj.weight, self.proj.bias, stride=(1, 4, 4))
        out: Tensor = self.norm(x.permute(0, 2, 3, 4, 1))
        return out


def peer(stride: int, drop: float) -> nn.Module:
    """Build torchvision's, up to its last norm; `drop` is the stochastic depth of the last block."""
    from torchvision.models.video import swin3d_t

    model: nn.Module = swin3d_t(weights=None)
    for module in model.modules():
        if type(module).__name__ == "StochasticDepth":
            module.p *= drop / THEIR_DROP
    if stride == 1:
        model.patch_embed = Every(model.patch_embed)
    model.avgpool, model.head = nn.Identity(), nn.Identity()
    return model.train()


def ours(theirs: nn.Module, stride: int, drop: float) -> nn.Module:
    """Build ours with the weights of the peer."""
    config = VideoSwinConfig(depths=(2, 2, 6, 2), drop_path=drop, frame_stride=stride)
    model = VideoSwin(config)
    model.load_state_dict(from_torchvision(theirs.state_dict()))
    return model.train()


def contenders(
    options: argparse.Namespace, stride: int, drop: float
) -> tuple[dict[str, Call], list[nn.Module]]:
    """Return the calls of both, theirs first, and their models."""
    torch.manual_seed(0)
    clips = torch.randn(options.batch, options.frames, 3, options.size, options.size)
    theirs = peer(stride, drop)
    mine = ours(theirs, stride, drop)
    swapped = clips.transpose(1, 2).contiguous()  # each gets the clips as it likes them
    cells = options.batch * -(-options.frames // stride) * (options.size // 32) ** 2
    above = torch.randn(options.batch, cells * 768 // options.batch)

    def step(model: nn.Module, given: Tensor, order: tuple[int, ...], draw: int) -> Tensor:
        torch.manual_seed(draw)
        model.zero_grad(set_to_none=True)
        found = model(given)
        flat = found.permute(order).flatten(1) if order else found
        (flat * above).sum().backward()
        return flat.detach()

    # Ours is [B, T, C, h, w], theirs [B, C T h w].
    return {
        PEER: lambda draw: step(theirs, swapped, (), draw),
        "diptych": lambda draw: step(mine, clips, (0, 2, 1, 3, 4), draw),
    }, [theirs, mine]


def check(calls: dict[str, Call], models: list[nn.Module], draws: int) -> None:
    """Stop unless outputs and gradients of both are equal."""
    for draw in range(draws):
        expected, found = (calls[name](draw) for name in (PEER, "diptych"))
        differs("outputs", found, expected, 1e-5)
        wanted = {n: p.grad for n, p in models[0].named_parameters()}
        wanted = from_torchvision(wanted)
        for name, parameter in models[1].named_parameters():
            differs(f"gradients of {name}", parameter.grad, wanted[name], 1e-4)


def differs(what: str, found: Tensor, expected: Tensor, least: float) -> None:
    """Stop where two tensors differ by more than a part of the largest entry."""
    largest = expected.abs().max().clamp(min=1e-30)  # all are zero where all samples of a branch were dropped
    error = ((found - expected).abs().max() / largest).item()
    if not error <= least:
        sys.exit(f"{what} differ by {error:.1e} of the largest, more than {least:.0e}")


def products(options: argparse.Namespace, stride: int) -> Callable[[], None]:
    """Return a call that does the products of linear layers of both directions."""
    frames = -(-options.frames // stride)
    sizes = []
    for stage, depth in enumerate((2, 2, 6, 2)):
        C, side = 96 * 2**stage, options.size // 4 // 2**stage
        rows = options.batch * frames * side * side
        sizes += [(rows, i, o) for i, o in ((C, 3 * C), (C, C), (C, 4 * C), (4 * C, C))] * depth
        sizes += [(rows // 4, 4 * C, 2 * C)] if stage < 3 else []
    given = {size: [torch.randn(size[0], n) for n in size[1:]] for size in set(sizes)}
    weights = {size: torch.randn(size[2], size[1]) for size in set(sizes)}

    def call() -> None:
        for size in sizes:
            x, above = given[size]
            torch.mm(x, weights[size].t())
            torch.mm(above, weights[size])
            torch.mm(above.t(), x)

    return call


def rows(options: argparse.Namespace) -> Iterator[Row]:
    """Measure both forms."""
    for stride, drop in ((2, THEIR_DROP), (2, 0.0), (1, 0.2), (1, 0.0)):
        calls, models = contenders(options, stride, drop)
        draws = options.draws if drop else 1
        check(calls, models, min(draws, 3))
        seconds = measured(options, calls, draws)
        seconds |= take_turns(
            {"limit": products(options, stride)}, options.rounds, options.clock, torch.device("cpu")
        )
        what = "" if stride == 2 else ", a patch each"
        title = f"video swin fwd+bwd {options.batch} x {options.frames} frames{what}, depth {drop:g}"
        yield versus(title, seconds["diptych"], seconds[PEER], "s", PEER, less=True)
        if not drop:
            yield versus(title, seconds["diptych"], seconds["limit"], "s", "limit", less=True)


def measured(options: argparse.Namespace, calls: dict[str, Call], draws: int) -> dict[str, float]:
    """Return the mean seconds of each contender over draws; of each draw the fastest call counts."""
    named = {
        f"{name} {draw}": (lambda call=call, draw=draw: (call(draw), None)[1])
        for draw in range(draws)
        for name, call in calls.items()
    }
    rounds = max(1, options.rounds // 2) if draws > 1 else options.rounds
    seconds = take_turns(named, rounds, options.clock, torch.device("cpu"))
    return {name: sum(seconds[f"{name} {draw}"] for draw in range(draws)) / draws for name in calls}


def main() -> None:
    """Parse the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name, default in {"batch": 2, "frames": 4, "size": 224}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--draws", type=int, default=12, help="of what stochastic depth drops")
    add_turns(parser, 6, "cpu", threads=1)
    add_json(parser)
    options = parser.parse_args()
    begin(options)
    try:
        import torchvision
    except ImportError:
        parser.error("torchvision is not installed; run this with an interpreter that has it and diptych")
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}")
    report(list(rows(options)), options.json)


if __name__ == "__main__":
    main()
