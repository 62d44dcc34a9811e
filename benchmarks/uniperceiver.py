"""Uni-Perceiver: what it costs to encode the names of classes, in a training step and in an evaluation.

    python benchmarks/uniperceiver.py --clock cpu --threads 1
    python benchmarks/uniperceiver.py --size base --pictures 128 --device cuda --precision bf16

`step`: a step of classification with the thousand names of ImageNet-1k in CLIP's tokens (3.2 on average, 13
at most): forward, backward and update by AdamW of `--pictures` pictures of 224 pixels. Ours puts names of
equal length beside each other, without padding; the peer pads all of them to the longest and hides the
padding by a mask, as published. Both are the same model with the same weights in the same run, and their
logits and gradients are compared first. `names` is the encoding of names alone, forward and backward.

`evaluation`: `--batches` batches of pictures are classified; ours encodes the names once, the peer for every
batch, as published (it also pads them: `once, padded` tells the two apart).
"""

import argparse
import copy
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from _turns import add_device, add_turns, begin, take_turns
from diptych.data.batch import Batch
from diptych.data.draws import Draws
from diptych.data.text import Tokenizer
from diptych.systems.protocol import TargetRows
from diptych.systems.task import StepContext
from diptych.systems.uniperceiver.attributes import TARGETS
from diptych.systems.uniperceiver.config import UniPerceiverConfig
from diptych.systems.uniperceiver.model import UniPerceiverModel
from diptych.tasks.classes import read_classes
from diptych.tasks.classification import ClassificationTask
from diptych.tasks.classification_config import ClassificationConfig
from diptych.train.config import OptimConfig
from diptych.train.optim import build_optimizer
from reporting import Row, add_json, report, versus

SIZES = {"mini": (96, 4, 2), "tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12)}
"""Width, layers, heads."""
TOLERANCE = 2e-3


def padded(model: UniPerceiverModel, rows: TargetRows) -> Tensor:
    """Encode names as published: all as long as the longest, padding hidden by a mask."""
    mask = (torch.arange(int(rows.lengths.max())) < rows.lengths[:, None]).to(rows.ids.device)
    ids = rows.ids.new_zeros(mask.shape).masked_scatter(mask, rows.ids)
    states = model.encode_targets(ids, ~mask, model.segments(TARGETS["classes"]))
    return model.likelihood.features(states[:, 0])


class Contender:
    """A model, its optimizer and one way to encode names."""

    def __init__(self, task: ClassificationTask, *, exact: bool, device: torch.device, bf16: bool) -> None:
        self.task, self.device, self.bf16 = task.to(device).train(), device, bf16
        model = task.model
        assert isinstance(model, UniPerceiverModel)
        self.model = model
        if not exact:
            model.target_features = lambda rows, kind: padded(model, rows)  # type: ignore[method-assign]
        self.optimizer = build_optimizer(task, OptimConfig(lr=2e-5, betas=(0.9, 0.999)), [], None)

    def precision(self) -> AbstractContextManager[None]:
        """Return the context to compute in."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def backward(self, batch: Batch) -> Tensor:
        """Compute loss and gradients."""
        with self.precision():
            context = StepContext(0, 0.0, Draws(0, batch.positions))
            loss = self.task.compute_loss(batch, context).total
        loss.backward()
        return loss.detach()

    def step(self, batch: Batch) -> None:
        """Do a whole step."""
        self.backward(batch)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def names(self) -> None:
        """Encode the names, forward and backward."""
        with self.precision():
            found = self.task.targets.features(self.model)
        found.float().sum().backward()
        self.model.zero_grad(set_to_none=True)

    def evaluate(self, batches: list[Tensor], *, once: bool) -> None:
        """Classify batches of pictures; `once`: the names are encoded for the first alone."""
        self.task.eval()
        targets = self.task.targets
        targets._kept = None
        with torch.no_grad(), self.precision():
            for images in batches:
                if not once:
                    targets._kept = None
                self.task.logits(images).argmax(1)
        self.task.train()


def same(ours: Contender, theirs: Contender, batch: Batch) -> float:
    """Return the largest difference of gradients, as a share of the largest gradient.

    Raises:
        RuntimeError: they do not do the same.
    """
    losses = [float(c.backward(batch)) for c in (ours, theirs)]
    largest = worst = 0.0
    for (name, a), (_, b) in zip(ours.task.named_parameters(), theirs.task.named_parameters(), strict=True):
        if (a.grad is None) != (b.grad is None):
            raise RuntimeError(f"{name}: only one of the two has a gradient")
        if a.grad is not None and b.grad is not None:
            largest = max(largest, float(b.grad.abs().max()))
            worst = max(worst, float((a.grad - b.grad).abs().max()))
    for contender in (ours, theirs):
        contender.optimizer.zero_grad(set_to_none=True)
    limit = TOLERANCE * (50 if ours.bf16 else 1)
    if abs(losses[0] - losses[1]) > limit * abs(losses[1]) or worst > limit * largest:
        raise RuntimeError(f"losses {losses}, gradients differ by {worst:.3g} of {largest:.3g}")
    return worst / largest


def make(options: argparse.Namespace) -> tuple[Contender, Contender, Batch]:
    """Return both contenders with the same weights, and a batch."""
    torch.manual_seed(0)
    width, layers, heads = SIZES[options.size]
    config = UniPerceiverConfig.model_validate(
        {"width": width, "layers": layers, "heads": heads, "hidden": 4 * width, "drop_path": 0.0}
        | {"random_frames": False, "layer_scale": 0.1}
    )
    assets = {"classes": read_classes("imagenet-1k"), "target": "imagenet-1k"}
    task = ClassificationTask.create(
        UniPerceiverModel(config),
        ClassificationConfig(target="imagenet-1k", synonyms="first"),
        Tokenizer.from_file("uniperceiver"),
        assets,
    )
    device, bf16 = torch.device(options.device), options.precision == "bf16"
    ours = Contender(task, exact=True, device=device, bf16=bf16)
    theirs = Contender(copy.deepcopy(task), exact=False, device=device, bf16=bf16)
    numbers = torch.arange(options.pictures)
    images = torch.randint(0, 256, (options.pictures, 3, 224, 224), dtype=torch.uint8)
    labels = (numbers * 7 % 1000).tolist()
    keys = [str(n) for n in numbers.tolist()]
    batch = Batch(keys, numbers, numbers, images.to(device), extra={"label": labels})
    return ours, theirs, batch


def run(options: argparse.Namespace) -> list[Row]:
    """Measure and return the rows."""
    ours, theirs, batch = make(options)
    difference = same(ours, theirs, batch)
    print(f"gradients differ by {difference:.1e} of the largest")
    device = torch.device(options.device)
    assert batch.images is not None

    def timed(calls: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
        return take_turns(calls, rounds, options.clock, device)

    tokens = ours.task.targets.rows.lengths
    rows = [
        Row("tokens of names, exact", float(tokens.sum() + len(tokens)), "tokens"),
        Row("tokens of names, padded", float((tokens.max() + 1) * len(tokens)), "tokens"),
    ]
    steps = timed({"ours": lambda: ours.step(batch), "padded": lambda: theirs.step(batch)}, options.rounds)
    rows.append(versus("step", steps["ours"], steps["padded"], "s", "names padded", less=True))
    names = timed({"ours": ours.names, "padded": theirs.names}, options.rounds)
    rows.append(versus("names", names["ours"], names["padded"], "s", "names padded", less=True))
    batches = [batch.images] * options.batches
    calls = {
        "ours": lambda: ours.evaluate(batches, once=True),
        "each": lambda: theirs.evaluate(batches, once=False),
        "exact each": lambda: ours.evaluate(batches, once=False),
    }
    found = timed(calls, max(1, options.rounds // 2))
    what = f"evaluation, {options.batches} batches"
    rows.append(versus(what, found["ours"], found["each"], "s", "padded, each batch", less=True))
    rows.append(versus(what, found["ours"], found["exact each"], "s", "exact, each batch", less=True))
    return rows


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--batches", type=int, default=4)
    add_turns(parser, 2)
    add_device(parser)
    add_json(parser)
    options = parser.parse_args()
    begin(options)
    report(run(options), options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
