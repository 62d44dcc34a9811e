"""The published sizes: parameter counts and key lists of the reference page, and checkpoints of their layout.

Everything of full width is built without memory (`meta`); what has memory has all keys at a small
width.
"""

from math import prod
from pathlib import Path

import pytest
import torch
from published_layout import answer_heads, assert_same, published_checkpoint, published_shapes
from safetensors.torch import load_file, save_file
from torch import Tensor

from diptych.cli.main import run
from diptych.systems.eve.config import EveConfig, base, large
from diptych.systems.eve.convert import LoadRules, from_published, to_published
from diptych.systems.eve.keys import backbone_to_published
from diptych.systems.eve.model import EveModel
from diptych.systems.eve.shapes import read_config
from diptych.train.build import load_task

SIZES = {"base": base, "large": large}
HEADS = ("retrieval", "vqa", "nlvr_plain", "nlvr_biattn")
LEFTOVERS = {
    "backbone.mask_embed_vision": (64,),
    "mitc_vision_proj_head.weight": (64, 64),
    "mitc_text_proj_head.weight": (64, 64),
    "mitc_temp": (),
    "mitm_head.weight": (2, 64),
    "mitm_head.bias": (2,),
    "itc_vl_vision_proj_head.weight": (64, 64),
    "itc_vl_text_proj_head.weight": (64, 64),
}
"""What checkpoints of pre-training hold besides."""


def narrow(size: str) -> EveConfig:
    """Return a published size with all its layers and experts, but few channels."""
    return SIZES[size](48).with_(width=64, heads=1, hidden=24, vocab_size=30)


def checkpoint(size: str, heads: str) -> dict[str, Tensor]:
    state = published_checkpoint(narrow(size))
    if heads == "retrieval":
        return state
    backbone = {n: t for n, t in state.items() if n.startswith("backbone.")}
    return backbone | answer_heads(heads)


@pytest.mark.parametrize(
    ("size", "count", "experts"), [("base", 475_197_696, 302_235_648), ("large", 1_326_101_504, None)]
)
def test_parameter_counts_of_the_published_layout(size: str, count: int, experts: int | None) -> None:
    """The reference page gives the counts of backbones at 224 pixels."""
    shapes = {n: s for n, s in published_shapes(SIZES[size]()).items() if n.startswith("backbone.")}
    numbers = {n: prod(s) for n, s in shapes.items() if "position_ids" not in n}
    assert sum(numbers.values()) == count
    with torch.device("meta"):
        model = EveModel(SIZES[size]())
    assert sum(p.numel() for p in model.parameters()) == count
    if experts is not None:
        assert sum(k for n, k in numbers.items() if ".experts." in n) == experts
        assert (
            sum(k for n, k in numbers.items() if "layers.10.mlp_moe.moe.experts.experts.7." in n) == 4_722_432
        )


@pytest.mark.slow
@pytest.mark.parametrize("image_size", [224, 384, 480])
@pytest.mark.parametrize("size", SIZES)
def test_keys_of_the_full_models(size: str, image_size: int) -> None:
    config = SIZES[size](image_size)
    with torch.device("meta"):
        model = EveModel(config)
    ours = {f"backbone.{n}": tuple(t.shape) for n, t in backbone_to_published(model.state_dict()).items()}
    assert ours == {n: s for n, s in published_shapes(config).items() if n.startswith("backbone.")}


@pytest.mark.parametrize("size", SIZES)
def test_full_checkpoints_round_trip_without_memory(size: str) -> None:
    config = SIZES[size](384)
    state = {
        n: torch.empty(s, device="meta", dtype=torch.int64 if "position_ids" in n else torch.float16)
        for n, s in published_shapes(config).items()
    }
    imported = from_published(state)
    assert imported.ignored == []
    with torch.device("meta"):
        model = EveModel(config)
    expected = {f"model.{n}": t.shape for n, t in model.state_dict().items()}
    assert {n: t.shape for n, t in imported.state.items() if n.startswith("model.")} == expected
    back = to_published(imported.state)
    assert {n: (t.shape, t.dtype) for n, t in back.items()} == {
        n: (t.shape, t.dtype) for n, t in state.items()
    }
    assert read_config(state).with_(router=config.router, lower_ignores_mode=False) == config


@pytest.mark.slow
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("size", SIZES)
def test_full_layouts_round_trip_through_the_command(size: str, heads: str, tmp_path: Path) -> None:
    """Checkpoint -> export -> checkpoint, bit for bit, with every kind of heads; half precision stays."""
    state = checkpoint(size, heads)
    state = {n: t.half() if "head" in n else t for n, t in state.items()}
    torch.save({"model": state, "config": {"image_res": 48}}, tmp_path / "eve.th")
    export, back = str(tmp_path / "export"), str(tmp_path / "back.safetensors")
    assert run(["convert", "eve", str(tmp_path / "eve.th"), export, "--heads", "own"]) == 0
    assert run(["convert", "eve", export, back, "--to-published"]) == 0
    assert_same(load_file(back), state)


def test_leftovers_do_not_disturb() -> None:
    state = checkpoint("base", "retrieval")
    extra = {n: torch.randn(s) for n, s in LEFTOVERS.items()}
    plain = from_published(state, LoadRules("own"))
    both = from_published(state | extra, LoadRules("own"))
    assert_same(both.state, plain.state)
    assert both.ignored == sorted(LEFTOVERS)
    best = from_published(state | extra)
    assert torch.equal(best.state["itc.visual.weight"], extra["itc_vl_vision_proj_head.weight"])
    assert torch.equal(best.state["itm.classifier.bias"], extra["mitm_head.bias"])


def test_heads_of_other_tasks_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file(checkpoint("base", "retrieval") | answer_heads("vqa"), tmp_path / "eve.safetensors")
    assert run(["convert", "eve", str(tmp_path / "eve.safetensors"), str(tmp_path / "export")]) == 0
    assert "left out: itc_temp, itc_text_proj_head.weight" in capsys.readouterr().err
    names = load_file(tmp_path / "export" / "model.safetensors")
    assert {n.partition(".")[0] for n in names} == {"model", "vqa"}


@pytest.mark.slow
@pytest.mark.parametrize("heads", HEADS)
def test_converted_checkpoints_are_ready_to_evaluate(heads: str, tmp_path: Path) -> None:
    from diptych.data.text import Tokenizer

    Tokenizer.train(["red cat", "red cat"], 30).save(tmp_path / "words")
    answers = tmp_path / "answers.json"
    answers.write_text("[" + ", ".join(f'"{i}"' for i in range(19)) + "]")
    save_file(checkpoint("base", heads), tmp_path / "eve.safetensors")
    arguments = ["convert", "eve", str(tmp_path / "eve.safetensors"), str(tmp_path / "export")]
    arguments += ["--tokenizer", str(tmp_path / "words")]
    assert run([*arguments, *(["--answers", str(answers)] if heads == "vqa" else [])]) == 0
    config, task = load_task(tmp_path / "export")
    name = heads.partition("_")[0]
    assert config.task.name == name
    assert config.data.examples == {"vqa": "questions", "nlvr": "statements"}.get(name, "samples")
    assert config.data.text.clean == ("question" if heads == "vqa" else "caption")
    assert config.system.router.drop_tokens
    state = from_published(checkpoint("base", heads)).state
    assert_same(task.state_dict(), state)
    card = (tmp_path / "export" / "README.md").read_text()
    assert f"# eve, {name}" in card
    assert f"| weights | {sum(t.numel() for t in state.values()):,}, of which " in card
    assert "| pictures | 48 x 48 pixels |" in card
    assert 'diptych.load("eve", ' in card
    assert "arXiv 2308.11971" in card
