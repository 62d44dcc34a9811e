"""Published Uni-Perceiver checkpoints: current and former layouts, dense and with experts, there and back."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import diptych
from diptych.cli.main import run
from diptych.errors import CheckpointError
from diptych.systems.uniperceiver.checkpoint import import_checkpoint
from diptych.systems.uniperceiver.config import ConditionalConfig, UniPerceiverConfig
from diptych.systems.uniperceiver.convert import to_published
from diptych.systems.uniperceiver.embed import sine_grid
from diptych.systems.uniperceiver.model import UniPerceiverModel
from diptych.train.build import load_task

SIZES: dict[str, Any] = {
    "image_size": 32,
    "max_frames": 3,
    "width": 64,
    "layers": 3,
    "heads": 1,
    "hidden": 48,
    "vocab_size": 49411,
    "max_text_tokens": 40,
    "grid_scale": 0.5,
}
FORMER = (
    ("self_attn.in_proj_", "attention.self.qkv_proj."),
    ("self_attn.out_proj", "attention.output.dense"),
    ("gamma_1", "attention_output.residual_scale"),
    ("gamma_2", "ffn_output.residual_scale"),
    ("linear1.", "ffn.dense."),
    ("linear2.", "ffn.dense2."),
    ("norm1.", "LayerNormModules.0."),
    ("norm2.", "LayerNormModules.1."),
    ("self_attn.qkv_proj", "attention.self.qkv_proj"),
    ("self_attn.dense", "attention.output.dense"),
    (".gate.", ".deepspeed_moe.gate."),
    (".experts.", ".deepspeed_moe.experts."),
    ("fused_encoder.", "encoder."),
    ("loss_prepare.", "predictor."),
)


def weights_of(**settings: Any) -> tuple[UniPerceiverConfig, dict[str, Tensor]]:
    torch.manual_seed(1)
    config = UniPerceiverConfig.model_validate(SIZES | settings)
    model = UniPerceiverModel(config)
    state = {f"model.{name}": torch.randn_like(t) * 0.1 for name, t in model.state_dict().items()}
    state["model.visual.spatial"] = model.visual.spatial.clone()
    return config, state


def former(state: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {}
    for name, tensor in to_published(state).items():
        for ours, theirs in FORMER:
            name = name.replace(ours, theirs)
        found[name] = tensor.view(1, 1, -1).half() if "residual_scale" in name else tensor
    return found | {"visual_embed.old.weight": torch.zeros(2)}


EXPERTS = {"experts": ConditionalConfig(layers="odd", experts=4)}


@pytest.mark.parametrize(
    "settings", [{}, EXPERTS, {"share_norm": False, "learn_temperatures": False, "temperature": 0.03}]
)
def test_current_layout_bit_for_bit(settings: dict[str, Any], tmp_path: Path) -> None:
    config, state = weights_of(**settings)
    torch.save({"model": to_published(state), "iteration": 5}, tmp_path / "up.pth")
    found, weights, ignored = import_checkpoint(tmp_path / "up.pth")
    assert found == config
    assert ignored == []
    assert weights.keys() == state.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in state.items())


@pytest.mark.slow
@pytest.mark.parametrize("experts", [False, True])
def test_former_layout(experts: bool, tmp_path: Path) -> None:
    _, state = weights_of(**(EXPERTS if experts else {}))
    torch.save({"module": former(state)}, tmp_path / "old.pt")
    bias, row = state["model.visual.patches.bias"], state["model.visual.types.weight"][0]
    for visual_type, added in (("auto", not experts), ("merge", True), ("drop", False), ("use", False)):
        config, found, ignored = import_checkpoint(tmp_path / "old.pt", visual_type=visual_type)  # type: ignore[arg-type]
        assert ignored == []
        torch.testing.assert_close(found.pop("model.visual.patches.bias"), bias + row if added else bias)
        assert config.visual_type == (visual_type == "use")
        for name in found:
            torch.testing.assert_close(found[name], state[name], atol=1e-4, rtol=1e-3, msg=name)


def test_another_picture_size(tmp_path: Path) -> None:
    _, state = weights_of()
    torch.save({"model": to_published(state)}, tmp_path / "up.pth")
    config, found, _ = import_checkpoint(tmp_path / "up.pth", image_size=64)
    assert (config.image_size, config.grid_scale) == (64, pytest.approx(0.25))
    torch.testing.assert_close(found["model.visual.spatial"], sine_grid(4, 64, 0.25), atol=1e-5, rtol=1e-4)
    state["model.visual.spatial"] = torch.randn(4, 64)
    torch.save({"model": to_published(state)}, tmp_path / "own.pth")
    _, found, _ = import_checkpoint(tmp_path / "own.pth", image_size=64)
    assert found["model.visual.spatial"].shape == (16, 64)
    with pytest.raises(CheckpointError, match="multiple of 16"):
        import_checkpoint(tmp_path / "own.pth", image_size=40)


def test_what_is_no_checkpoint_says_so(tmp_path: Path) -> None:
    _, state = weights_of(**EXPERTS)
    published = to_published(state)
    del published["fused_encoder.layers.1.norm1.weight"]
    torch.save({"model": published}, tmp_path / "short.pth")
    with pytest.raises(CheckpointError, match=r"model\.layers\.1\.norm1\.weight"):
        import_checkpoint(tmp_path / "short.pth")
    torch.save({"model": {"token_embed.embeddings.weight": torch.zeros(4, 4)}}, tmp_path / "words.pth")
    with pytest.raises(CheckpointError, match=r"visual\.patches\.weight is missing"):
        import_checkpoint(tmp_path / "words.pth")


@pytest.mark.slow
def test_the_command_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, state = weights_of()
    torch.save({"model": to_published(state)}, tmp_path / "up.pth")
    out, back = tmp_path / "up", tmp_path / "back.safetensors"
    assert run(["convert", "uniperceiver", str(tmp_path / "up.pth"), str(out)]) == 0
    config, task = load_task(out)
    assert config.task.name == "classification"
    assert len(task.classes) == 1000
    assert task.tokenizer.vocab_size == 49411
    assert run(["convert", "uniperceiver", str(out), str(back), "--to-published"]) == 0
    found, expected = load_file(back), to_published(state)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert run(["convert", "eve", str(tmp_path / "up.pth"), str(out), "--force", "--visual-type", "use"]) != 0
    assert "no type row" in capsys.readouterr().err


@pytest.mark.slow
def test_a_users_pictures_and_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, state = weights_of()
    torch.save({"model": to_published(state)}, tmp_path / "up.pth")
    Image.new("RGB", (40, 30), (200, 20, 20)).save(tmp_path / "a.png")
    (tmp_path / "names.txt").write_text("a red square\trot\na dog\n")
    model = diptych.load("uniperceiver", tmp_path / "up.pth")
    assert model.can("classify")
    (found,) = model.classify(tmp_path / "a.png", ["a red square", "a dog"])
    assert sum(score for _, score in found.ranked) == pytest.approx(1)
    pictures, texts = model.encode_image(tmp_path / "a.png"), model.encode_text(["a red square", "a dog"])
    factor = 1 / model.model.temperature("img_cls")
    expected = (factor.detach() * pictures @ texts.T).softmax(1)[0]
    assert dict(found.ranked)["a dog"] == pytest.approx(float(expected[1]), abs=1e-4)
    (own,) = model.classify(tmp_path / "a.png", top=3)
    assert len(own.ranked) == 3
    assert run(["convert", "uniperceiver", str(tmp_path / "up.pth"), str(tmp_path / "up")]) == 0
    capsys.readouterr()
    picture, names = str(tmp_path / "a.png"), str(tmp_path / "names.txt")
    assert run(["predict", str(tmp_path / "up"), "-i", picture, "--classes", names, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["classes"]
    assert [name for name, _ in said[0]["answers"]] in (["a red square", "a dog"], ["a dog", "a red square"])
    assert run(["predict", str(tmp_path / "up"), "-i", picture, "--classes", names]) == 0
    assert "a dog" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("width", "layers", "kind", "millions"),
    [
        (192, 12, "none", 15.15),
        (384, 12, "none", 41.00),
        (768, 12, "none", 124.76),
        (1024, 24, "none", 355.53),
        (768, 12, "odd", 422.67),
        (1024, 24, "odd", 1414.2),
        (192, 12, "all", 52.63),
    ],
)
def test_published_sizes(width: int, layers: int, kind: str, millions: float) -> None:
    config = UniPerceiverConfig.model_validate(
        {
            "width": width,
            "layers": layers,
            "heads": width // 64,
            "hidden": 4 * width,
            "experts": {"layers": kind},
        }
    )
    with torch.device("meta"):
        state = UniPerceiverModel(config).state_dict()
    # The fixed table of places is a parameter in published models.
    count = sum(tensor.numel() for tensor in state.values()) / 1e6
    assert round(count, 1 if millions > 1000 else 2) == millions
    published = to_published({f"model.{name}": tensor for name, tensor in state.items()})
    keys = {("none", 12): 195, ("none", 24): 363, ("odd", 12): 651, ("odd", 24): 1275, ("all", 12): 1107}
    assert len(published) == keys[kind, layers]
