"""Multimodal language models: memory and tokens per second for pictures of 1, 9, 25 and 55 tiles.

    python benchmarks/mllm.py                    # a CPU: a small encoder, 2 layers of SmolLM2-135M's width
    python benchmarks/mllm.py --size published   # a GPU with 80 GB: CLIP ViT-L/14-336 and an 8B model, bf16
    python benchmarks/mllm.py --size smollm --json rows.json

One picture a row, cut as 4KHD cuts it (336 pixels a tile, 12 x 12 tokens a view, newlines, separator): 313,
1489, 3817 and 8137 tokens, with 64 tokens of text of which 32 are learned. Weights are random: speed does
not depend on them.

`cut`: from a decoded picture of the grid's size to tiles, in one process. `see`: encoder and connector,
without gradients, all views at once and `--chunk` at a time. `train`: forward, backward and AdamW of 4KHD's
pre-training: encoder, connector and partial LoRA are trained, the language model stays, blocks are computed
again on the way back. `prefill`: a conversation read into the cache. `decode`: words behind it, one by one.
Memory is what a call has at most beyond weights (and for `train` the optimizer's state); every call is
measured in a process of its own on a CPU, in the allocator on a GPU.
"""

import argparse
import functools
import multiprocessing
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from _turns import add_turns, begin, peak_of, take_turns, wait
from diptych.data.tiling import TilingConfig, count_tokens, tile_picture
from diptych.systems.mllm.config import LanguageConfig, MllmConfig, PartialLoraConfig
from diptych.systems.mllm.connector import TilesConfig
from diptych.systems.mllm.language import is_adapter
from diptych.systems.mllm.model import MllmModel, Rows
from diptych.systems.mllm.vision import VisionConfig
from diptych.train.precision import autocast, choose_device
from reporting import Row, add_json, report

GRIDS = {1: (1, 1), 9: (3, 3), 25: (5, 5), 55: (5, 11)}
"""Tiles -> rows and columns."""
TEXT, LEARNED = 64, 32
SIZES: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "toy": (
        {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
        {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 100},
        2,
    ),
    "small": (
        {"hidden_size": 192, "num_hidden_layers": 2, "num_attention_heads": 3},
        {"hidden_size": 576, "num_hidden_layers": 2, "num_attention_heads": 9, "vocab_size": 49152},
        16,
    ),
    "smollm": (
        {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
        {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "vocab_size": 49152},
        64,
    ),
    "published": (
        {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
        {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 92544},
        256,
    ),
}
"""Encoder, language model, rank of partial LoRA."""


def build(options: argparse.Namespace, device: torch.device) -> MllmModel:
    """Return the model with random weights."""
    seen, read, rank = SIZES[options.size]
    width = read["hidden_size"]
    keys = {9: 3, 32: 8}.get(read["num_attention_heads"], read["num_attention_heads"])
    inner = {576: 1536, 4096: 14336}.get(width, 2 * width)
    vision = {
        "model_type": "clip_vision_model",
        "intermediate_size": 4 * seen["hidden_size"],
        "image_size": 336,
        "patch_size": 14,
        **seen,
    }
    language = {
        "model_type": "llama",
        "intermediate_size": inner,
        "num_key_value_heads": keys,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": width < 4096,
        **read,
    }
    config = MllmConfig(
        vision=VisionConfig(settings=vision),
        tiling=TilingConfig(kind="hd", hd_num=55),
        connector=TilesConfig(merge=2),
        language=LanguageConfig(
            path="",
            settings=language,
            dtype="bf16" if device.type == "cuda" else "fp32",
            plora=PartialLoraConfig(rank=rank, alpha=rank, shared=True),
        ),
    )
    torch.manual_seed(0)
    with device:
        model = MllmModel(config)
    for name, parameter in model.language.named_parameters():
        parameter.requires_grad = is_adapter(name)
    return model.eval()


def rows_of(model: MllmModel, grid: tuple[int, int], device: torch.device) -> Rows:
    """Return a conversation about one picture, [1, L]."""
    count = model.connector.count(*grid)
    length = count + TEXT
    ids = torch.arange(length, device=device)[None] % 90
    pictures = torch.zeros(1, length, dtype=torch.bool, device=device)
    pictures[:, 4 : 4 + count] = True
    places = torch.arange(length, device=device)[None]
    return Rows(ids, torch.ones_like(pictures), pictures, places)


def discard(found: object) -> None:
    """Take what a call returns and keep nothing of it."""


class Calls:
    """What is measured for a picture of some tiles."""

    def __init__(self, options: argparse.Namespace, tiles: int) -> None:
        self.options, self.grid = options, GRIDS[tiles]
        self.device = choose_device(options.device)
        self.model = build(options, self.device)
        views = self.model.config.tiling.views(*self.grid)
        self.views = torch.randint(0, 256, (views, 3, 336, 336), dtype=torch.uint8, device=self.device)
        self.rows = rows_of(self.model, self.grid, self.device)
        self.precision = "bf16" if self.device.type == "cuda" else "fp32"
        self.optimizer: torch.optim.Optimizer | None = None

    def call(self, what: str) -> Callable[[], None]:
        """Return what to measure, everything that it needs made ready."""
        self.model.vision.chunk = self.options.chunk if what in ("see chunked", "train") else 0
        if what == "train":
            return self._train()
        if what.startswith("see"):
            return lambda: discard(self._see())
        if what == "prefill":
            tokens = self._see()
            return lambda: discard(self._read(tokens))
        return self._decode()

    @torch.no_grad()
    def _see(self) -> Tensor:
        with autocast(self.device, self.precision):
            return self.model.see(self.views, [self.grid])

    @torch.no_grad()
    def _read(self, tokens: Tensor) -> tuple[Any, Tensor]:
        cache = self.model.language.new_cache()
        with autocast(self.device, self.precision):
            states = self.model.read(self.rows, tokens, cache)
            return cache, self.model.language.scores(states[:, -1]).argmax(1)

    def _decode(self) -> Callable[[], None]:
        """Return a call that adds words to one cache, which grows by them with each call."""
        cache, word = self._read(self._see())
        place = torch.tensor([[self.rows.ids.shape[1]]], device=self.device)

        @torch.no_grad()
        def words() -> None:
            nonlocal word
            for _ in range(self.options.words):
                mask = torch.ones(1, 1, dtype=torch.bool, device=self.device)
                rows = Rows(word[:, None], mask, ~mask, place)
                with autocast(self.device, self.precision):
                    word = self.model.language.scores(self.model.read(rows, None, cache)[:, -1]).argmax(1)
                place.add_(1)

        return words

    def _train(self) -> Callable[[], None]:
        for unit in self.model.fsdp_units():
            unit.forward = functools.partial(checkpoint, unit.forward, use_reentrant=False)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=True)
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()  # makes its state
        self.optimizer.zero_grad()
        self.model.train()

        def step() -> None:
            assert self.optimizer is not None
            with autocast(self.device, self.precision):
                tokens = self.model.see(self.views, [self.grid])
                states = self.model.read(self.rows, tokens)[0, -LEARNED - 1 : -1]
                scores = self.model.language.scores(states)
                loss = nn.functional.cross_entropy(scores, self.rows.ids[0, -LEARNED:])
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()

        return step


def measure(options: argparse.Namespace, what: str, tiles: int) -> tuple[float, float]:
    """Return the MB of a first call and the fastest seconds of those after it."""
    calls = Calls(options, tiles)
    call = calls.call(what)
    memory = peak_of(call, calls.device)
    now = time.perf_counter if options.clock == "wall" else time.process_time
    seconds = []
    for _ in range(options.rounds):
        wait(calls.device)
        started = now()
        call()
        wait(calls.device)
        seconds.append(now() - started)
    return memory, min(seconds)


def apart(call: Callable[..., Any], *arguments: Any) -> Any:
    """Call in a process of its own: memory that was freed may stay resident. This one computes nothing."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(call, arguments)


def cutting(options: argparse.Namespace, tiles: int) -> Row:
    """Return how long a picture of the grid's own size takes to be cut."""
    rows, columns = GRIDS[tiles]
    pixels = np.random.default_rng(0).integers(0, 256, (rows * 336, columns * 336, 3), dtype=np.uint8)
    config = TilingConfig(kind="hd", hd_num=tiles)
    name = f"cut, {tiles} tiles"
    best = take_turns(
        {name: lambda: discard(tile_picture(pixels, config))}, 3, options.clock, torch.device("cpu")
    )
    return Row(name, best[name] * 1e3, "ms")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--tiles", type=int, nargs="+", choices=GRIDS, default=list(GRIDS))
    parser.add_argument(
        "--parts", nargs="+", default=["cut", "see", "see chunked", "train", "prefill", "decode"]
    )
    parser.add_argument("--chunk", type=int, default=8, help="views that are encoded at a time")
    parser.add_argument("--words", type=int, default=16, help="words of a call of `decode`")
    add_turns(parser, 3)
    parser.add_argument("--device", default="auto")
    add_json(parser)
    options = parser.parse_args()
    begin(options)
    rows = []
    for tiles in options.tiles:
        grid = GRIDS[tiles]
        tokens = count_tokens(*grid, TilingConfig(kind="hd"), 12) + TEXT
        amount = {"decode": options.words, "see": 1 + tiles, "see chunked": 1 + tiles}
        for what in options.parts:
            if what == "cut":
                rows.append(apart(cutting, options, tiles))
                continue
            memory, seconds = apart(measure, options, what, tiles)
            print(f"{what}, {tiles} tiles: {seconds:.4g} s, {memory:.4g} MB", file=sys.stderr, flush=True)
            unit = "views/s" if what.startswith("see") else "tokens/s"
            rows.append(Row(f"{what}, {tiles} tiles", amount.get(what, tokens) / seconds, unit))
            rows.append(Row(f"{what}, {tiles} tiles: memory", memory, "MB"))
    report(rows, options.json)


if __name__ == "__main__":
    main()
