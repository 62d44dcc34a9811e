"""A step of EVE beside one of ViLT: forward and backward on pairs, on the same device in the same run.

    python benchmarks/step.py                # with transformers installed; batch 8, width 384, 12 layers
    python benchmarks/step.py --clock cpu --rounds 2

Both read the same pictures (224 pixels, patches of 16) and texts (40 tokens), so 237 tokens a pair, and have
the same width, depth, heads and words. EVE has 32 experts of the same hidden width, two of them for each
token, in its last two layers, router included: a ninth more products than ViLT. Nothing is dropped at random
in either.

Peers: `vilt` is transformers' ViLT as it comes (`transformers.ViltModel`); where transformers is missing,
that is said, and `torch-encoder` takes its place: patches, embeddings and torch's own transformer layers.
Each is measured in float32 and under bfloat16 autocast, so that ours can be compared with both (`vilt-fp32`,
`vilt-bf16`).
"""

import argparse
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

from _turns import add_device, add_turns, begin, take_turns
from diptych.systems.eve.config import EveConfig
from diptych.systems.eve.system import SYSTEM
from diptych.train.precision import autocast
from reporting import Row, add_json, report, versus

WORDS, PATCH = 30522, 16
Model = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor | None]]
"""Pictures [B, 3, side, side], ids and mask [B, L] -> states [B, S, D] and what else the loss needs."""


class Encoder(nn.Module):
    """Patches and words through torch's own transformer layers (pre-norm, GELU)."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__()
        width, tokens = options.width, (options.size // PATCH) ** 2 + 1 + options.text
        self.patches = nn.Conv2d(3, width, PATCH, PATCH)
        self.words = nn.Embedding(WORDS, width)
        self.first = nn.Parameter(torch.zeros(width))
        self.positions = nn.Parameter(torch.zeros(tokens, width))
        layer = nn.TransformerEncoderLayer(
            width, options.heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(
            layer, options.layers, nn.LayerNorm(width), enable_nested_tensor=False
        )

    def forward(self, images: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the states [B, S, D]."""
        patches = self.patches(images).flatten(2).transpose(1, 2)
        first = self.first.expand(len(ids), 1, -1).to(patches.dtype)
        x = torch.cat([self.words(ids), first, patches], 1) + self.positions
        padded = torch.cat([~mask, mask.new_zeros(len(ids), x.shape[1] - ids.shape[1])], 1)
        out: Tensor = self.layers(x, src_key_padding_mask=padded)
        return out


def eve(options: argparse.Namespace) -> tuple[nn.Module, Model]:
    """Build ours."""
    config = EveConfig(
        image_size=options.size,
        patch_size=PATCH,
        width=options.width,
        layers=options.layers,
        heads=options.heads,
        hidden=4 * options.width,
        vocab_size=WORDS,
        max_text_tokens=options.text,
        moe_layers=(options.layers - 2, options.layers - 1),
        experts=options.experts,
        drop_path=0.0,
        text_dropout=0.0,
    )
    model = SYSTEM.build(config)

    def run(images: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        fused = model.fuse(images, ids, mask)
        return torch.cat([fused.visual, fused.text], 1), fused.aux["routing"]

    return model, run


def vilt(options: argparse.Namespace) -> tuple[nn.Module, Model]:
    """Build transformers' ViLT of the same size."""
    from transformers import ViltConfig, ViltModel

    config = ViltConfig(
        hidden_size=options.width,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        intermediate_size=4 * options.width,
        image_size=options.size,
        patch_size=PATCH,
        vocab_size=WORDS,
        max_position_embeddings=options.text,
    )
    model = ViltModel(config, add_pooling_layer=False)

    def run(images: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        found = model(input_ids=ids, attention_mask=mask.long(), pixel_values=images)
        return found.last_hidden_state, None

    return model, run


def encoder(options: argparse.Namespace) -> tuple[nn.Module, Model]:
    """Build the stand-in."""
    model = Encoder(options)
    return model, lambda images, ids, mask: (model(images, ids, mask), None)


def step(
    build: Callable[[argparse.Namespace], tuple[nn.Module, Model]], options: argparse.Namespace
) -> dict[str, Callable[[], None]]:
    """Return precision -> forward and backward on the same batch every time."""
    device = torch.device(options.device)
    torch.manual_seed(0)
    model, run = build(options)
    model.to(device).train()
    images = torch.randn(options.batch, 3, options.size, options.size, device=device)
    ids = torch.randint(5, WORDS, (options.batch, options.text), device=device)
    mask = torch.ones_like(ids, dtype=torch.bool)
    tokens = (options.size // PATCH) ** 2 + 1 + options.text
    above = torch.randn(options.batch, tokens, options.width, device=device) / tokens

    def call(precision: str) -> None:
        model.zero_grad(set_to_none=True)
        with autocast(device, precision):
            states, balance = run(images, ids, mask)
        loss = (states.float() * above).sum()
        (loss if balance is None else loss + balance).backward()

    return {"fp32": lambda: call("fp32"), "bf16": lambda: call("bf16")}


def rows(options: argparse.Namespace) -> list[Row]:
    """Measure everybody in turns."""
    try:
        import transformers
    except ImportError:
        print("transformers is not installed: torch-encoder takes the place of vilt", file=sys.stderr)
        peer, build = "torch-encoder", encoder
    else:
        peer, build = "vilt", vilt
        transformers.logging.set_verbosity_error()
    calls = {}
    for name, contender in (("eve", eve), (peer, build)):
        calls |= {f"{name}-{precision}": call for precision, call in step(contender, options).items()}
    seconds = take_turns(calls, options.rounds, options.clock, torch.device(options.device))
    found = [Row(f"step fwd+bwd {peer} fp32", float(f"{seconds[f'{peer}-fp32']:.5g}"), "s")]
    for precision, against in (("fp32", "fp32"), ("bf16", "fp32"), ("bf16", "bf16")):
        title = f"step fwd+bwd eve {precision}"
        other = f"{peer}-{against}"
        found.append(versus(title, seconds[f"eve-{precision}"], seconds[other], "s", other, less=True))
    return found


def main() -> None:
    """Parse the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    sizes = {"batch": 8, "width": 384, "layers": 12, "heads": 6, "experts": 32, "size": 224, "text": 40}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    add_turns(parser, 5)
    add_device(parser, precision=False)
    add_json(parser)
    options = parser.parse_args()
    begin(options)
    report(rows(options), options.json)


if __name__ == "__main__":
    main()
