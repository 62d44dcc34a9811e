"""Writing captions: beam search that remembers keys and values beside what it remembers less of.

    python benchmarks/generate.py --clock cpu --threads 1
    python benchmarks/generate.py --size base --pictures 64 --device cuda --precision bf16

`generate`: captions of `--pictures` pictures of 224 pixels (197 positions), two beams, 21 tokens, CLIP's
vocabulary; the weights are random, so no caption ends early. Ours remembers keys and values, and reads a word
and the next slot together. Peers are `inputs`, the published form (it remembers what went into each layer,
makes keys and values of all of it for every token, and reads word and slot one after the other), and `plain`,
which reads picture and caption anew for every word. All three must write the same tokens, or this fails.

`--experts` gives every other layer eight experts; ours then mixes their weights once a search.
"""

import argparse
import sys

import torch

from _turns import add_device, add_turns, begin, take_turns
from diptych.systems.protocol import Writing, Written
from diptych.systems.uniperceiver.config import ConditionalConfig, UniPerceiverConfig
from diptych.systems.uniperceiver.model import UniPerceiverModel
from reporting import Row, add_json, report, versus

SIZES = {"mini": (96, 4, 2), "tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12)}
"""Width, layers, heads."""
FORMS = {"ours": "keys", "inputs (published)": "inputs", "plain": "none"}
"""Contender -> what it remembers."""


def run(options: argparse.Namespace) -> list[Row]:
    """Measure and return the rows.

    Raises:
        RuntimeError: the contenders write different captions.
    """
    torch.manual_seed(0)
    width, layers, heads = SIZES[options.size]
    config = UniPerceiverConfig.model_validate(
        {"width": width, "layers": layers, "heads": heads, "hidden": 4 * width, "layer_scale": 0.5}
        | {"experts": ConditionalConfig(layers="odd" if options.experts else "none")}
    )
    device = torch.device(options.device)
    model = UniPerceiverModel(config).to(device).eval()
    words = torch.randn(config.vocab_size, width, device=device)
    made: dict[str, Written] = {}

    def write(name: str) -> None:
        with (
            torch.no_grad(),
            torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16"),
        ):
            visual = model.embed_visual(pictures)
            writing = Writing(options.beams, options.steps, cache=FORMS[name])  # type: ignore[arg-type]
            made[name] = model.generate(visual, words, writing)

    pictures = torch.randn(options.pictures, 3, config.image_size, config.image_size, device=device)
    calls = {name: (lambda name=name: write(name)) for name in FORMS}
    found = take_turns(calls, options.rounds, options.clock, device)
    same = [bool(torch.equal(made["ours"].ids, made[name].ids)) for name in FORMS]
    if not all(same) and options.precision == "fp32":
        raise RuntimeError("the contenders write different captions")
    different = len({tuple(row) for row in made["ours"].ids[:, 0].tolist()})
    print(f"tokens are the same: {all(same)}; {different} different captions of {options.pictures} pictures")
    what = f"generate {options.size}{' experts' if options.experts else ''}, {options.pictures} pictures"
    ours = found.pop("ours")
    return [versus(what, ours, theirs, "s", peer, less=True) for peer, theirs in found.items()]


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--beams", type=int, default=2)
    parser.add_argument("--steps", type=int, default=21)
    parser.add_argument("--experts", action="store_true")
    add_turns(parser, 2)
    add_device(parser)
    add_json(parser)
    options = parser.parse_args()
    begin(options)
    report(run(options), options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
