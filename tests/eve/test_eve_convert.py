"""Published EVE checkpoints to ours and back: keys, load rules, the command."""

from pathlib import Path

import pytest
import torch
import yaml
from published_layout import SMALL, answer_heads, assert_same, published_checkpoint, published_shapes
from safetensors.torch import load_file, save_file

from diptych.cli.main import run
from diptych.errors import CheckpointError
from diptych.systems.eve.checkpoint import import_checkpoint, read_checkpoint
from diptych.systems.eve.config import base
from diptych.systems.eve.convert import LoadRules, from_published, to_published
from diptych.systems.eve.keys import backbone_to_published
from diptych.systems.eve.model import EveModel
from diptych.systems.eve.shapes import read_config


def test_round_trip_bit_for_bit() -> None:
    state = published_checkpoint()
    imported = from_published(state)
    assert imported.ignored == []
    assert_same(to_published(imported.state), state)
    model = EveModel(SMALL)
    model.load_state_dict({n[6:]: t for n, t in imported.state.items() if n.startswith("model.")})


def test_half_precision_stays_half_precision() -> None:
    state = {n: t.half() if t.is_floating_point() else t for n, t in published_checkpoint().items()}
    assert_same(to_published(from_published(state).state), state)


def test_published_keys_of_the_base_model() -> None:
    """The key list of the reference page, section 3.1, for retrieval at 384 pixels."""
    config = base(384)
    with torch.device("meta"):
        model = EveModel(config)
    ours = {n: tuple(t.shape) for n, t in backbone_to_published(model.state_dict()).items()}
    expected = {n[9:]: shape for n, shape in published_shapes(config).items() if n.startswith("backbone.")}
    assert ours == expected
    assert ours["pos_embed_vision"] == (577, 768)
    assert ours["position_ids_vision"] == (1, 577)
    assert ours["encoder.layers.10.mlp_moe.moe.experts.experts.31.fc2.weight"] == (768, 3072)
    assert ours["encoder.layers.9.mlp_text.fc1.weight"] == (3072, 768)
    assert "encoder.layers.10.norm2_imag.weight" not in ours


def test_shapes_give_the_configuration_back() -> None:
    found = read_config(published_checkpoint())
    fields = (
        "image_size",
        "patch_size",
        "width",
        "layers",
        "heads",
        "hidden",
        "vocab_size",
        "max_text_tokens",
    )
    for field in (*fields, "moe_layers", "experts", "lower_ffn", "upper_ffn"):
        assert getattr(found, field) == getattr(SMALL, field), field
    assert found.router.drop_tokens
    assert found.router.padding == "published"


@pytest.mark.parametrize("lower", ["separate", "shared", "moe"])
@pytest.mark.parametrize("upper", ["moe", "vl"])
def test_every_feed_forward_kind_has_published_keys(lower: str, upper: str) -> None:
    config = SMALL.with_(lower_ffn=lower, upper_ffn=upper, router=SMALL.router.with_(modality=False))
    torch.manual_seed(0)
    state = {f"model.{n}": t for n, t in EveModel(config).state_dict().items()}
    published = to_published(state)
    assert_same(from_published(published).state, state)
    found = read_config(published)
    assert (found.lower_ffn, found.upper_ffn) == (lower, upper)
    EveModel(found).load_state_dict({n[6:]: t for n, t in state.items()})


HEAD_SOURCES = {
    "mitc_vision_proj_head.weight": 1.0,
    "mitc_text_proj_head.weight": 2.0,
    "mitc_temp": 0.2,
    "itc_vl_vision_proj_head.weight": 3.0,
    "itc_vl_text_proj_head.weight": 4.0,
    "mitm_head.weight": 5.0,
    "mitm_head.bias": 6.0,
    "itc_vision_proj_head.weight": 7.0,
}


@pytest.mark.parametrize(
    ("present", "heads", "expected"),
    [
        # The recorded case load_head.json of the original: everything present, load_head on.
        (
            set(HEAD_SOURCES),
            "best",
            {"itc.visual.weight": 3.0, "itc.text.weight": 4.0, "itc.temperature": 0.2},
        ),
        (set(HEAD_SOURCES), "best", {"itm.classifier.weight": 5.0, "itm.classifier.bias": 6.0}),
        ({"mitc_vision_proj_head.weight", "itc_vision_proj_head.weight"}, "best", {"itc.visual.weight": 1.0}),
        ({"itc_vision_proj_head.weight"}, "best", {"itc.visual.weight": 7.0}),
        (set(HEAD_SOURCES), "own", {"itc.visual.weight": 7.0}),
        (set(HEAD_SOURCES), "none", {}),
    ],
)
def test_load_rules_of_heads(present: set[str], heads: str, expected: dict[str, float]) -> None:
    backbone = {n: t for n, t in published_checkpoint().items() if n.startswith("backbone.")}
    state = backbone | {n: torch.tensor(HEAD_SOURCES[n]) for n in present}
    imported = from_published(state, LoadRules(heads))
    found = {n: t.item() for n, t in imported.state.items() if not n.startswith("model.")}
    for name, value in expected.items():
        assert found[name] == pytest.approx(value)
    if heads != "best":
        assert found.keys() == expected.keys()
    assert len(found) + len(imported.ignored) == len(present)


@pytest.mark.parametrize(
    ("kind", "prefix"), [("vqa", "vqa."), ("nlvr_plain", "nlvr."), ("nlvr_biattn", "nlvr.")]
)
def test_heads_of_answers_round_trip(kind: str, prefix: str) -> None:
    backbone = {n: t for n, t in published_checkpoint().items() if n.startswith("backbone.")}
    state = backbone | answer_heads(kind)
    imported = from_published(state, LoadRules("none"))
    assert imported.ignored == []
    heads = [n for n in imported.state if not n.startswith("model.")]
    assert all(n.startswith(prefix) for n in heads)
    assert len(heads) == len(answer_heads(kind))
    assert_same(to_published(imported.state), state)


def test_leftovers_of_pretraining_are_listed() -> None:
    state = published_checkpoint()
    state |= {"backbone.mask_embed_vision": torch.zeros(64), "decoder.0.weight": torch.zeros(1)}
    assert from_published(state).ignored == ["backbone.mask_embed_vision", "decoder.0.weight"]


def test_unknown_backbone_keys_are_refused() -> None:
    state = published_checkpoint() | {"backbone.encoder.layers.0.extra": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"no place for: encoder\.layers\.0\.extra"):
        from_published(state)
    with pytest.raises(CheckpointError, match=r"without a name in published checkpoints: mlm\.bias"):
        to_published({"mlm.bias": torch.zeros(1)})
    gap = published_checkpoint()
    del gap["backbone.encoder.layers.2.mlp_moe.moe.experts.experts.1.fc1.weight"]
    with pytest.raises(CheckpointError, match="gaps"):
        from_published(gap)


def test_command_converts_both_ways(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = published_checkpoint() | {"mlm_head.weight": torch.zeros(2)}
    torch.save({"model": state, "config": {"image_res": 32}}, tmp_path / "eve.th")
    assert run(["convert", "eve", str(tmp_path / "eve.th"), str(tmp_path / "export")]) == 0
    captured = capsys.readouterr()
    assert captured.out.strip() == str(tmp_path / "export")
    assert "left out: mlm_head.weight" in captured.err
    facts = yaml.safe_load((tmp_path / "export" / "model.yaml").read_text())
    assert facts["system"]["name"] == "eve"
    assert facts["task"]["eval_final_norm"] is False
    back = str(tmp_path / "back.safetensors")
    assert run(["convert", "eve", str(tmp_path / "export"), back, "--to-published"]) == 0
    del state["mlm_head.weight"]
    assert_same(load_file(back), state)


def test_command_resizes_for_larger_pictures(tmp_path: Path) -> None:
    save_file(published_checkpoint(), tmp_path / "eve.safetensors")
    arguments = ["convert", "eve", str(tmp_path / "eve.safetensors"), str(tmp_path / "out")]
    assert run([*arguments, "--image-size", "48", "--routing", "dropless", "--heads", "none"]) == 0
    state = load_file(tmp_path / "out" / "model.safetensors")
    assert state["model.visual.positions"].shape == (37, 64)
    assert not any(n.startswith(("itc.", "itm.")) for n in state)
    facts = yaml.safe_load((tmp_path / "out" / "model.yaml").read_text())
    assert facts["system"]["image_size"] == 48
    assert facts["system"]["router"]["drop_tokens"] is False
    assert "task" not in facts


def test_command_refuses_clearly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    assert run(["convert", "evee", "x", out]) == 2
    assert run(["convert", "eve", str(tmp_path / "none.pt"), out]) == 1
    assert "no such file" in capsys.readouterr().err
    (tmp_path / "bad.pt").write_bytes(b"not a checkpoint")
    assert run(["convert", "eve", str(tmp_path / "bad.pt"), out]) == 1
    torch.save({"model": published_checkpoint(), "code": Path("/")}, tmp_path / "code.pt")
    assert run(["convert", "eve", str(tmp_path / "code.pt"), out]) == 1
    assert "Python objects" in capsys.readouterr().err
    (tmp_path / "there").mkdir()
    assert run(["convert", "eve", "x", str(tmp_path / "there")]) == 2


def test_files_that_are_no_eve(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"backbone\.patch_embed\.weight"):
        import_checkpoint(tmp_path / "other.safetensors")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="expected a state dict, got list"):
        read_checkpoint(tmp_path / "list.pt")
    odd = published_checkpoint()
    odd["backbone.pos_embed_vision"] = torch.zeros(12, 64)
    save_file(odd, tmp_path / "odd.safetensors")
    with pytest.raises(CheckpointError, match="12 rows"):
        import_checkpoint(tmp_path / "odd.safetensors")
    short = published_checkpoint()
    short["backbone.norm.weight"] = torch.zeros(3)
    save_file(short, tmp_path / "short.safetensors")
    with pytest.raises(CheckpointError, match=r"wrong shape: model\.norm\.weight"):
        import_checkpoint(tmp_path / "short.safetensors")
