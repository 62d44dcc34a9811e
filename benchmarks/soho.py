"""SOHO: a step of pre-training beside the published way to compute it, and how fast pictures are read.

    python benchmarks/soho.py --clock cpu --threads 1
    python benchmarks/soho.py --parts step --json rows.json

`step`: 2 pictures of 384 x 640 with 4 sentences of 16 tokens each, ResNet-18 (stem and first stage frozen)
and 3 layers of width 768, 2048 visual words, 30522 words; forward, backward and update (SGD for the CNN,
AdamW for the rest). Peers, in the same run, from the same weights and with the same losses (which is
checked): `straightforward` computes every text's picture again behind the CNN, words and visual words at all
positions, and updates one parameter after the other; `published` also runs CNN blocks and layers again in
the backward pass, as the released configuration says. Peers have torch's linear layers and see pictures
channel by channel. Nothing is dropped at random. FLOP are counted by torch's formulas, not measured.

`trained`: the same with stem and first stage trained, too.

`inference`: one picture with 16 tokens of text. Ours at 600 x 1000 (padded to 608 x 1024), from the bytes of
a JPEG of 384 x 640 to the fused states, and each part by itself. Peers: `vilt`, transformers' ViLT (random
weights) with its own picture processor at its resolution, 384 x 640 (nothing to resize), where transformers
is installed (run this with such an interpreter); ours at that resolution too. `region-based`: **computed,
not measured**: the multiply-adds that detectron2's model zoo states for Faster R-CNN with ResNet-101, at the
speed that our CNN reaches in this run, in front of the same three layers. C4 is the form of bottom-up
attention, FPN a lighter one.
"""

import argparse
import copy
import io
import sys
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from _turns import add_turns, begin, take_turns
from diptych.blocks.dictionary import DictionaryConfig
from diptych.blocks.resnet import ResNetConfig
from diptych.data.batch import Batch
from diptych.data.config import ImageConfig
from diptych.data.draws import Draws
from diptych.data.fit import pad_batch
from diptych.data.image import decode_image, fit_into, normalise
from diptych.data.text import Tokenizer
from diptych.systems.soho.config import SohoConfig
from diptych.systems.soho.masking import hide_visual_words, show
from diptych.systems.soho.model import SohoModel
from diptych.systems.soho.pretrain import SohoPretrainTask
from diptych.systems.soho.pretrain_config import SohoPretrainConfig
from diptych.systems.task import StepContext
from diptych.train.config import OptimConfig, OptimGroup
from diptych.train.flops import FlopCounter
from diptych.train.optim import build_optimizer, set_lr, total_norm
from reporting import Row, add_json, report, versus
from soho_straightforward import straightforward

CLIP, TOLERANCE = 10.0, 1e-4
PARTS = ("step", "trained", "inference")
DETECTORS = {"c4": 888e9, "fpn": 246e9}
"""Multiply-adds a picture (COCO, shorter side 800) of Faster R-CNN with ResNet-101 in detectron2's model zoo,
as paperswithcode.com/lib/detectron2/faster-r-cnn listed them ("FLOPs": its counter counts multiply-adds)."""


def config(options: argparse.Namespace, neck: str, *, recompute: bool = False, frozen: int = 1) -> SohoConfig:
    """Return the model's configuration; `frozen` is that of `ResNetConfig.frozen_stages`."""
    channels, width = (4, 32) if options.quick else (64, 768)
    return SohoConfig.model_validate(
        {
            "backbone": ResNetConfig(
                stem_channels=channels, base_channels=channels, frozen_stages=frozen, recompute=recompute
            ),
            "width": width,
            "heads": 4 if options.quick else 12,
            "hidden": 4 * width,
            "vocab_size": options.words,
            "neck": neck,
            "dictionary": DictionaryConfig(codes=options.codes),
            "dropout": 0.0,
            "attention_dropout": 0.0,
        }
    )


# The step


class Step:
    """A model, its optimizer and a batch."""

    def __init__(
        self, options: argparse.Namespace, frozen: int, state: dict[str, Tensor] | None = None
    ) -> None:
        self.options = options
        torch.manual_seed(0)
        specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        words = [*specials, *(f"w{i}" for i in range(options.words - len(specials)))]
        rates = SohoPretrainConfig(visual_mask_ratio=options.hidden)
        self.task = SohoPretrainTask(
            SohoModel(config(options, "gated", frozen=frozen)), rates, Tokenizer.from_vocabulary(words)
        ).train()
        if state is not None:
            self.task.load_state_dict(state)
        ids = torch.randint(len(specials), options.words, (options.pictures, options.texts, options.tokens))
        ids[..., 0], ids[..., -1] = self.task.tokenizer.cls_id, self.task.tokenizer.sep_id
        shape = (options.pictures, options.height, options.width, 3)
        self.batch = Batch(
            keys=[str(i) for i in range(options.pictures)],
            positions=torch.arange(options.pictures),
            match_ids=torch.arange(options.pictures),
            images=torch.randint(0, 256, shape, dtype=torch.uint8).permute(0, 3, 1, 2),
            image_sizes=torch.tensor([[options.height, options.width]] * options.pictures),
            text_ids=ids,
            text_mask=torch.ones_like(ids, dtype=torch.bool),
        )

    def draws(self) -> Draws:
        """Return the same draws every time."""
        return Draws(0, self.batch.positions)


class Ours(Step):
    """What `diptych train` does."""

    def __init__(
        self, options: argparse.Namespace, frozen: int, state: dict[str, Tensor] | None = None
    ) -> None:
        super().__init__(options, frozen, state)
        cnn = OptimGroup(match=("model.backbone.*",), name="sgd", lr=1e-2, weight_decay=1e-4, momentum=0.9)
        rule = OptimConfig(lr=1e-4, weight_decay=0.01, decay="all", groups={"cnn": cnn})
        self.optimizer = build_optimizer(self.task, rule, set())
        set_lr(self.optimizer, rule.lr)

    def losses(self) -> dict[str, Tensor]:
        """Return the three losses."""
        return dict(self.task.compute_loss(self.batch, StepContext(0, 0.0, self.draws())).parts)

    def backward(self) -> None:
        """Compute gradients."""
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(self.losses().values())).sum().backward()

    def __call__(self) -> None:
        """Make a step."""
        self.backward()
        total_norm(self.task.parameters(), CLIP)
        self.optimizer.step()


class Straightforward(Step):
    """The same, everything computed for every text and at every position."""

    def __init__(
        self,
        options: argparse.Namespace,
        frozen: int,
        state: dict[str, Tensor] | None = None,
        *,
        recompute: bool = False,
    ) -> None:
        super().__init__(options, frozen, state)
        self.recompute = recompute
        backbone = self.task.model.backbone
        backbone.config = config(options, "gated", recompute=recompute, frozen=frozen).backbone
        named = [(name, p) for name, p in self.task.named_parameters() if p.requires_grad]
        cnn = [p for name, p in named if name.startswith("model.backbone.")]
        rest = [p for name, p in named if not name.startswith("model.backbone.")]
        self.optimizers = [
            torch.optim.SGD(cnn, lr=1e-2, momentum=0.9, weight_decay=1e-4, foreach=False),
            torch.optim.AdamW(rest, lr=1e-4, weight_decay=0.01, foreach=False),
        ]

    def losses(self) -> dict[str, Tensor]:
        """Return the three losses."""
        batch, task = self.batch, self.task
        assert batch.text_ids is not None
        assert batch.text_mask is not None
        assert batch.image_sizes is not None
        draws = self.draws()
        shown = show(batch.text_ids, batch.text_mask, batch.match_ids, task.tokenizer, task.config, draws)
        return straightforward(
            task,
            task.pixels(batch),
            batch.image_sizes,
            shown,
            lambda words: hide_visual_words(words, self.options.texts, task.config, draws),
            recompute=self.recompute,
        )

    def backward(self) -> None:
        """Compute gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        torch.stack(list(self.losses().values())).sum().backward()

    def __call__(self) -> None:
        """Make a step."""
        self.backward()
        nn.utils.clip_grad_norm_(self.task.parameters(), CLIP, foreach=False)
        for optimizer in self.optimizers:
            optimizer.step()


def check_equal(contenders: dict[str, Ours | Straightforward]) -> None:
    """Compare losses and gradients of everybody, and the dictionary behind.

    Raises:
        SystemExit: they differ.
    """
    ours, *others = contenders.values()
    mine = ours.losses()
    if not all(float(value) for value in mine.values()):
        raise SystemExit(f"a loss is zero, so nothing was compared: {mine}; raise --hidden")
    torch.stack(list(mine.values())).sum().backward()
    for other in others:
        theirs = other.losses()
        torch.stack(list(theirs.values())).sum().backward()
        for name, value in mine.items():
            if not torch.allclose(value, theirs[name], rtol=TOLERANCE):
                raise SystemExit(f"{name}: {float(value)} and {float(theirs[name])} are not equal")
        pairs = list(zip(ours.task.named_parameters(), other.task.parameters(), strict=True))
        whole = nn.utils.get_total_norm([q.grad for _, q in pairs if q.grad is not None])
        for (name, p), q in pairs:
            if q.grad is not None:
                assert p.grad is not None
                # Some are zero but for rounding (biases of keys).
                if float((p.grad - q.grad).norm()) > TOLERANCE * float(q.grad.norm() * 10 + whole):
                    raise SystemExit(f"gradients of {name} are not equal")
        codes = (part.task.model.neck.dictionary.codes for part in (ours, other))
        torch.testing.assert_close(*codes, rtol=TOLERANCE, atol=TOLERANCE)


def flop(call: Callable[[], None]) -> float:
    """Return the floating-point operations of a call."""
    with FlopCounter() as counter:
        call()
    return float(counter.total)


def step_rows(options: argparse.Namespace, frozen: int) -> list[Row]:
    """Measure a step."""
    ours = Ours(options, frozen)
    state = copy.deepcopy(ours.task.state_dict())
    contenders: dict[str, Ours | Straightforward] = {
        "soho": ours,
        "straightforward": Straightforward(options, frozen, state),
        "published": Straightforward(options, frozen, state, recompute=True),
    }
    check_equal(contenders)
    counted = {name: flop(contender.backward) for name, contender in contenders.items()}
    seconds = take_turns(contenders, options.rounds, options.clock, torch.device("cpu"))
    rows, what = [], "" if frozen >= 0 else " of the whole CNN"
    for peer in ("straightforward", "published"):
        rows.append(versus(f"soho step{what}", seconds["soho"], seconds[peer], "s", peer, less=True))
        gflop = (counted["soho"] / 1e9, counted[peer] / 1e9)
        rows.append(versus(f"soho step counted{what}", *gflop, "GFLOP", peer, less=True))
    return rows


# Reading pictures


class Reader:
    """Our model and its pictures, from a JPEG to fused states."""

    def __init__(self, options: argparse.Namespace, long: int, short: int, jpeg: bytes) -> None:
        torch.manual_seed(0)
        self.model = SohoModel(config(options, "plain")).eval()
        self.image = ImageConfig(resize="fit", long=long, short=short)
        self.jpeg = jpeg
        self.ids = torch.randint(5, options.words, (1, options.tokens))
        self.mask = torch.ones_like(self.ids, dtype=torch.bool)
        side = long + 32
        self.frame = np.zeros((side, side, 3), dtype=np.uint8)
        self.pixels, self.sizes = self.decode()
        with torch.no_grad():
            self.normal = normalise(self.pixels, self.model.image_spec)
            self.maps = self.model.backbone(self.normal)
            self.visual = self.model.embed_visual(self.normal, self.sizes)

    def decode(self) -> tuple[Tensor, Tensor]:
        """Decode and resize."""
        height, width = fit_into(self.frame, decode_image(self.jpeg), self.image)
        return pad_batch([torch.from_numpy(self.frame[:height, :width]).permute(2, 0, 1)], 32)

    @torch.no_grad()
    def whole(self) -> None:
        """Do all of it."""
        pixels, sizes = self.decode()
        visual = self.model.embed_visual(normalise(pixels, self.model.image_spec), sizes)
        self.model.fuse(visual, self.ids, self.mask)

    @torch.no_grad()
    def backbone(self) -> None:
        """Run the CNN, normalising included."""
        self.model.backbone(normalise(self.pixels, self.model.image_spec))

    @torch.no_grad()
    def neck(self) -> None:
        """Run the neck."""
        height, width = self.normal.shape[2:]
        self.model.neck(self.maps, self.sizes, (height, width))

    @torch.no_grad()
    def joint(self) -> None:
        """Run the transformer."""
        self.model.fuse(self.visual, self.ids, self.mask)

    def decoding(self) -> None:
        """Decode and resize, and no more."""
        self.decode()


def vilt(options: argparse.Namespace, jpeg: bytes) -> dict[str, Callable[[], None]]:
    """Return transformers' ViLT from a JPEG to fused states, and the model alone; empty without it."""
    try:
        import transformers
    except ImportError:
        print("transformers is not installed: no figures of vilt", file=sys.stderr)
        return {}
    transformers.logging.set_verbosity_error()
    # The picture has ViLT's size already; rounding in its rule would make it smaller.
    processor = transformers.ViltImageProcessor(do_resize=False)
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    model = transformers.ViltModel(transformers.ViltConfig(**(small if options.quick else {}))).eval()
    ids = torch.randint(5, 30522, (1, options.tokens))

    def prepare() -> Tensor:
        with Image.open(io.BytesIO(jpeg)) as picture:
            found: Tensor = processor(picture.convert("RGB"), return_tensors="pt")["pixel_values"]
        return found

    @torch.no_grad()
    def run(pixels: Tensor) -> None:
        model(input_ids=ids, pixel_values=pixels)

    def decode() -> None:
        prepare()

    pixels = prepare()
    size = " x ".join(map(str, pixels.shape[2:]))
    if size != "384 x 640":
        raise SystemExit(f"ViLT's processor makes {size} pixels, expected 384 x 640")
    return {
        "vilt whole": lambda: run(prepare()),
        "vilt decode": decode,
        "vilt model": lambda: run(pixels),
    }


def inference_rows(options: argparse.Namespace) -> list[Row]:
    """Measure how fast pictures are read."""
    jpeg = photograph()
    large, small = Reader(options, 1000, 600, jpeg), Reader(options, 640, 384, jpeg)
    calls: dict[str, Callable[[], None]] = {
        "whole": large.whole,
        "decode+resize": large.decoding,
        "backbone": large.backbone,
        "neck": large.neck,
        "joint": large.joint,
        "whole small": small.whole,
    } | vilt(options, jpeg)
    seconds = take_turns(calls, options.rounds, options.clock, torch.device("cpu"))
    rates = {name: 1 / value for name, value in seconds.items()}
    rows = []
    for name, title in (("whole", "soho 600 x 1000, whole"), ("whole small", "soho 384 x 640, whole")):
        if "vilt whole" in rates:
            rows.append(versus(title, rates[name], rates["vilt whole"], "pictures/s", "vilt 384 x 640"))
        else:
            rows.append(Row(title, round(rates[name], 4), "pictures/s"))
    rows += [
        Row(f"soho 600 x 1000, {part}", float(f"{seconds[part]:.4g}"), "s")
        for part in ("decode+resize", "backbone", "neck", "joint")
    ]
    rows += [
        Row(name.replace("vilt", "vilt 384 x 640,"), float(f"{value:.4g}"), "s")
        for name, value in seconds.items()
        if name.startswith("vilt")
    ]
    counted = {"whole": large.whole, "small": small.whole, "backbone": large.backbone}
    gflop = {name: flop(call) / 1e9 for name, call in counted.items()}
    rows.append(Row("soho 600 x 1000, counted", round(gflop["whole"], 2), "GFLOP"))
    rows.append(Row("soho 384 x 640, counted", round(gflop["small"], 2), "GFLOP"))
    if "vilt model" in calls:
        rows.append(Row("vilt 384 x 640, counted", round(flop(calls["vilt model"]) / 1e9, 2), "GFLOP"))
    if not options.quick:
        speed = gflop["backbone"] * 1e9 / seconds["backbone"]
        rows.append(Row("speed of our CNN", round(speed / 1e9, 1), "GFLOP/s"))
        for form, products in DETECTORS.items():
            regions = 2 * products / speed + seconds["joint"]
            peer = f"region-based {form}, computed"
            rows.append(versus("soho 600 x 1000, whole", seconds["whole"], regions, "s", peer, less=True))
    return rows


def photograph() -> bytes:
    """Return a JPEG of 640 x 384 pixels: noise with the spectrum of photographs."""
    generator = np.random.default_rng(0)
    height, width = 384, 640
    rows, columns = np.fft.fftfreq(height)[:, None, None], np.fft.fftfreq(width)[None, :, None]
    falling = 1 / np.maximum(np.hypot(rows, columns), 1 / width)
    noise = np.fft.fft2(generator.standard_normal((height, width, 3)), axes=(0, 1))
    waves = np.fft.ifft2(noise * falling, axes=(0, 1))
    values = waves.real / waves.real.std() * 60 + 128
    out = io.BytesIO()
    Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=85)
    return out.getvalue()


def main() -> None:
    """Parse the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    sizes = {"pictures": 2, "texts": 4, "tokens": 16, "height": 384, "width": 640}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--words", type=int, default=30522, help="words of the vocabulary")
    parser.add_argument("--codes", type=int, default=2048, help="visual words")
    parser.add_argument("--hidden", type=float, default=0.15, help="share of texts with a visual word hidden")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS])
    parser.add_argument("--quick", action="store_true", help="a tiny model and small pictures, for tests")
    add_turns(parser, 3)
    add_json(parser)
    options = parser.parse_args()
    if options.quick:
        options.height, options.width, options.words, options.codes = 64, 128, 200, 16
    begin(options)
    rows = step_rows(options, 1) if "step" in options.parts else []
    if "trained" in options.parts:
        rows += step_rows(options, -1)
    if "inference" in options.parts:
        rows += inference_rows(options)
    report(rows, options.json)


if __name__ == "__main__":
    main()
