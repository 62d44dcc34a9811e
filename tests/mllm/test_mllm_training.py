"""Training of multimodal language models by the engine: recomputed layers, going on, sharded weights."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.mllm.mllm_toy import QUESTIONS, WORDS, context, questions, toy_task
from tests.ranks import run_ranks
from torch import Tensor
from torch.distributed.tensor import DTensor

from diptych.blocks.collective import ALONE, World
from diptych.blocks.qformer import QFormerConfig
from diptych.data.batch import Batch
from diptych.data.draws import Draws
from diptych.data.sample import Sample
from diptych.data.shards import ShardWriter
from diptych.data.text import Tokenizer
from diptych.errors import ConfigError
from diptych.systems.mllm.connector import TilesConfig
from diptych.systems.mllm.system import SYSTEM
from diptych.systems.mllm.vision import VisionConfig
from diptych.systems.task import StepContext
from diptych.tasks.instruct import InstructConfig, InstructTask
from diptych.train import engine
from diptych.train.config import TrainConfig, resolve_run
from diptych.train.parallel import Parallel

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220)}
WEIGHTS, LOSSES = 2e-6, 1e-6
"""Largest difference of a weight after three steps, and relative difference of a loss, over two ranks."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of noise about a colour, with captions of several lengths."""
    folder = tmp_path_factory.mktemp("data") / "colours"
    rng = np.random.default_rng(3)
    with ShardWriter(folder, "toy", 8) as writer:
        for i in range(12):
            name, colour = list(COLOURS.items())[i % 3]
            out = io.BytesIO()
            pixels = rng.integers(0, 36, (16, 16, 3), dtype=np.uint8) + np.array(colour, dtype=np.uint8)
            Image.fromarray(pixels).save(out, "PNG")
            writer.write(Sample(f"k{i:02d}", {"png": out.getvalue()}, (" ".join([name] * (1 + i % 4)),)))
    return folder


def recipe(shards: Path, task: dict[str, Any] | None = None, **train: Any) -> dict[str, Any]:
    """Return a run of the toy with LoRA and partial LoRA, whose encoder and words stay as they are."""
    plora = {"rank": 2, "dropout": train.pop("dropout", 0.0)}
    toy = SYSTEM.toy_config().model_dump(mode="json")
    toy["language"] |= {"plora": plora, **train.pop("language", {})}
    return {
        "name": "toy",
        "data": {
            "path": str(shards),
            "image": {"size": 16},
            "text": {"vocab_size": 120},
            "loader": {"batch_size": 5, "workers": 0},
        },
        "system": toy,
        "task": {"name": "instruct", "pack": True, "max_tokens": 100, "caption": "Which?"} | (task or {}),
        # With a usual eps Adam would blow up the rounding of gradients that are almost zero.
        "optim": {
            "lr": 0.003,
            "eps": 1e-4,
            "groups": {
                "adapters": {"match": ["*.lora_*", "*.down.weight", "*.up.weight"], "lr": 0.01},
                "vision": {"match": ["model.vision.*"], "name": "frozen"},
            },
        },
        "train": {"steps": 3, "checkpoint_every": 0, "log_every": 1, "device": "cpu", "threads": 1} | train,
    }


def start(config: dict[str, Any], folder: Path) -> int:
    return engine.train(resolve_run(config), folder, progress=False).step


def exported(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "export" / "model.safetensors")


def losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def gradients(recomputed: bool, pack: bool, seeds: Sequence[int]) -> tuple[float, dict[str, Tensor]]:
    """Return losses and gradients of batches that all go forward before one of them goes back."""
    task = toy_task(pack=pack, max_tokens=64)
    for module in task.modules():  # the same draws have to come again
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.2
    whole = Parallel(task, TrainConfig(activation_checkpointing=recomputed), ALONE, torch.device("cpu"))
    torch.manual_seed(1)
    batches = [questions(3 + seed, seed=seed) for seed in seeds]
    total = sum(whole(batch, context(batch)).total for batch in batches)
    total.backward()
    return total.item(), {n: p.grad for n, p in task.named_parameters() if p.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [[0], [0, 2]])
@pytest.mark.parametrize("pack", [False, True])
def test_recomputed_layers_give_the_same_gradients(pack: bool, seeds: list[int]) -> None:
    loss, kept = gradients(False, pack, seeds)
    again, recomputed = gradients(True, pack, seeds)
    assert loss == again
    assert kept.keys() == recomputed.keys()
    assert {"down.weight", "up.weight", "lora_A.default.weight"} <= {
        ".".join(name.rsplit(".", 3)[-3:] if "lora" in name else name.rsplit(".", 2)[-2:]) for name in kept
    }
    assert [name for name in kept if not torch.equal(kept[name], recomputed[name])] == []


@pytest.mark.slow
def test_a_run_that_was_cut_off_ends_with_the_same_weights(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"steps": 6, "checkpoint_every": 2, "dropout": 0.2, "activation_checkpointing": True}
    config = recipe(shards, {"turns": 0}, **keys)
    start(config, tmp_path / "whole")
    real, calls = engine.total_norm, []

    def crashing(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(engine, "total_norm", crashing)
    with pytest.raises(KeyboardInterrupt):
        start(config, tmp_path / "cut")
    start(config, tmp_path / "cut")
    assert "going on from step_00000002" in (tmp_path / "cut" / "log.txt").read_text()
    expected, found = exported(tmp_path / "whole"), exported(tmp_path / "cut")
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert losses(tmp_path / "whole") == losses(tmp_path / "cut")


SAME = {
    "ddp": {"parallel": "ddp"},
    "fsdp": {"parallel": "fsdp"},
    "fsdp_recomputed": {"parallel": "fsdp", "activation_checkpointing": True},
}
SMALL = {"parallel": "fsdp", "precision": "bf16", "language": {"dtype": "bf16"}}
"""Frozen words in bf16, adapters in float32, as on GPUs."""


def several(world: World, configs: dict[str, Any], root: Path) -> dict[str, int]:
    """Train one after the other; on two ranks."""
    return {name: start(config, root / name) for name, config in configs.items()}


@pytest.fixture(scope="module")
def runs(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run on two ranks, five samples a step, and their like on one."""
    root = tmp_path_factory.mktemp("runs")
    every = SAME | {"fsdp_bf16": SMALL}
    steps = run_ranks(several, {name: recipe(shards, **keys) for name, keys in every.items()}, root)
    assert steps == [dict.fromkeys(every, 3)] * 2
    start(recipe(shards), root / "one")
    start(recipe(shards, **SMALL | {"parallel": "none"}), root / "one_bf16")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("name", SAME)
def test_two_ranks_train_what_one_process_trains(runs: Path, name: str) -> None:
    found, expected = exported(runs / name), exported(runs / "one")
    assert found.keys() == expected.keys()
    for weight, tensor in expected.items():
        torch.testing.assert_close(found[weight], tensor, rtol=0, atol=WEIGHTS, msg=weight)
    assert losses(runs / name) == pytest.approx(losses(runs / "one"), rel=LOSSES, abs=1e-6)
    assert len(set(losses(runs / "one"))) == 3


CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
VIEWS = {"one_without": [3, 0], "unlike": [3, 1], "all_without": [0, 0]}
"""Pictures of each rank's sample."""


QUERIES = QFormerConfig(
    queries=2, extra_queries=1, width=16, layers=2, heads=2, hidden=24, vocab_size=80, dropout=0, drop_path=0
)


def seen_task(chunk: int, queries: bool) -> InstructTask:
    """Return a task all of whose parts learn; `queries`: the Q-Former reads the questions too."""
    torch.manual_seed(0)
    system = SYSTEM.toy_config().with_(vision=VisionConfig(settings=CLIP, chunk=chunk))
    if queries:
        system = system.with_(connector=TilesConfig(kind="qformer"), qformer=QUERIES)
    settings = InstructConfig(ask_queries=queries)
    return InstructTask(SYSTEM.build(system), settings, Tokenizer.train(WORDS, 60)).train()


def rows_of(counts: Sequence[int], first: int, clip: bool) -> Batch:
    """Return a batch of one question about several pictures (`clip`: a picture and a clip), or none."""
    numbers = torch.arange(first, first + len(counts))
    most = max(max(counts), 1)
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (2, 3, 3, 16, 16), dtype=torch.uint8, generator=generator)
    grids = [[(1, 1, 1)] * count for count in counts]
    media = [[1, count - 1] if clip and count > 1 else [1] * count for count in counts]
    extra: dict[str, Any] = {"grids": grids, "media": media, "conversations": []}
    for own, asked in zip(media, QUESTIONS[first:], strict=False):
        shown = [{"type": "image", "image": "a"} if n == 1 else {"type": "video", "video": "a"} for n in own]
        content = [*shown, {"type": "text", "text": asked["question"]}]
        told = [{"role": "user", "content": content}, {"role": "assistant", "content": asked["answer"]}]
        extra["conversations"].append({"messages": told})
    return Batch([str(int(i)) for i in numbers], numbers, numbers, images[numbers, :most], extra=extra)


def learned(world: World, parallel: str, chunk: int, kind: str, views: Sequence[int]) -> dict[str, Tensor]:
    """Return loss and gradients of a batch, one sample a rank."""
    queries = kind == "queries"
    task = seen_task(chunk, queries)
    config = TrainConfig.model_validate({"parallel": parallel, "activation_checkpointing": chunk > 0})
    whole = Parallel(task, config, world, torch.device("cpu"))
    own = slice(world.rank, world.rank + 1) if world.size > 1 else slice(0, 2)
    batch = rows_of(views[own], own.start, queries)
    loss = whole(batch, StepContext(0, 0.0, Draws(0, batch.positions), world)).total
    loss.backward()
    whole.finish_gradients()
    found = {n: p.grad for n, p in task.named_parameters() if p.grad is not None}
    found = {n: g.full_tensor() if isinstance(g, DTensor) else g for n, g in found.items()}
    return found | {"": world.sum(loss.detach()) / world.size}


CASES = [f"{name}/{chunk}/tokens" for name in VIEWS for chunk in (0, 1)]
CASES += [f"{name}/0/queries" for name in VIEWS]


def settings_of(case: str) -> tuple[int, str, list[int]]:
    name, chunk, kind = case.split("/")
    return int(chunk), kind, VIEWS[name]


def learned_in_turn(world: World, parallel: str) -> dict[str, dict[str, Tensor]]:
    return {case: learned(world, parallel, *settings_of(case)) for case in CASES}


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_ranks_that_see_more_or_no_pictures_learn_together(parallel: str) -> None:
    both = run_ranks(learned_in_turn, parallel, timeout=60)
    for name in both[0]:
        expected = learned(ALONE, "none", *settings_of(name))
        for found in both:
            for weight, gradient in found[name].items():
                whole = expected.get(weight, torch.zeros(()))
                torch.testing.assert_close(gradient, whole.expand_as(gradient), rtol=1e-5, atol=2e-6)
            assert expected.keys() <= found[name].keys(), name


@pytest.mark.slow
def test_bf16_with_sharded_weights_is_near_to_one_process(runs: Path) -> None:
    assert losses(runs / "fsdp_bf16") == pytest.approx(losses(runs / "one_bf16"), rel=1e-3)
    assert losses(runs / "fsdp_bf16") == pytest.approx(losses(runs / "one"), rel=1e-3)
    types = {name: tensor.dtype for name, tensor in exported(runs / "fsdp_bf16").items()}
    assert types["model.connector.projector.0.weight"] == torch.float32
    assert types["model.language.model.model.norm.weight"] == torch.bfloat16


def test_trained_weights_of_two_types_are_refused(shards: Path, tmp_path: Path) -> None:
    words = {"dtype": "bf16", "lora": {"rank": 0}}  # LoRA would freeze them
    with pytest.raises(ConfigError, match=r"system\.language\.dtype=fp32"):
        start(recipe(shards, parallel="fsdp", language=words), tmp_path / "run")
