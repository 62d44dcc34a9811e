"""`diptych convert soho`: published files to exports and back, and what pre-training starts from."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from soho_files import ANSWERS, SMALL, assert_same, published_pretraining, published_vqa
from torch import Tensor

from diptych.blocks.resnet import ResNet, ResNetConfig
from diptych.cli.main import run
from diptych.data.text import Tokenizer
from diptych.errors import CheckpointError
from diptych.systems.soho.checkpoint import import_checkpoint
from diptych.systems.soho.config import SohoConfig
from diptych.systems.soho.convert import from_published
from diptych.systems.soho.shapes import read_config
from diptych.train.build import load_task

GOLDEN = Path(__file__).parent.parent / "parity" / "golden" / "soho" / "state_dict_keys.json"


def file_of(state: dict[str, Tensor], path: Path, prefix: str = "") -> str:
    """Write a file as the original code does."""
    content = {
        "meta": {"epoch": 40, "iter": 9, "config": "model = dict()", "time": "now"},
        "state_dict": {prefix + name: tensor for name, tensor in state.items()},
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4, "params": [0]}]},
    }
    torch.save(content, path)
    return str(path)


def test_pretraining_round_trip_bit_for_bit(tmp_path: Path) -> None:
    state = published_pretraining()
    file = file_of(state, tmp_path / "soho.pth", "module.")
    assert run(["convert", "soho", file, str(tmp_path / "export")]) == 0
    facts = yaml.safe_load((tmp_path / "export" / "model.yaml").read_text())
    assert facts["task"] == {
        "name": "soho_pretrain",
        "visual_mask": "published",
        "visual_mask_ratio": 0.015,
    }
    assert facts["data"]["image"]["resize"] == "fit"
    assert facts["data"]["text"] == {"max_tokens": 16, "per_picture": 4, "pick": "random"}
    assert SohoConfig.model_validate(facts["system"]) == SMALL
    back = str(tmp_path / "back.safetensors")
    assert run(["convert", "soho", str(tmp_path / "export"), back, "--to-published"]) == 0
    assert_same(load_file(back), state)


def test_half_precision_becomes_single(tmp_path: Path) -> None:
    """The published file: equal values, and no counters of batches."""
    state = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in published_vqa().items()
        if not name.endswith("num_batches_tracked")
    }
    config, ours, ignored = import_checkpoint(Path(file_of(state, tmp_path / "half.pth")))
    assert ignored == []
    assert config == SMALL.with_(neck="plain", dictionary=config.dictionary)
    assert all(t.dtype in (torch.float32, torch.int64) for t in ours.values())
    words = state["language.bert.embeddings.word_embeddings.weight"]
    assert torch.equal(ours["model.text.words.weight"], words.float())
    assert ours["model.backbone.bn1.num_batches_tracked"] == 0


def test_vqa_checkpoint_becomes_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = published_vqa()
    extra = {"head.old.weight": torch.zeros(2)}
    file = file_of(state | extra, tmp_path / "vqa.pth")
    (tmp_path / "answers.json").write_text(json.dumps(ANSWERS))
    Tokenizer.train(["a cat", "two dogs"] * 2, 60).save(tmp_path / "words")
    arguments = ["--answers", str(tmp_path / "answers.json"), "--tokenizer", str(tmp_path / "words")]
    assert run(["convert", "soho", file, str(tmp_path / "export"), *arguments]) == 0
    assert "left out: head.old.weight" in capsys.readouterr().err
    config, task = load_task(tmp_path / "export")
    assert config.task.name == "vqa"
    assert config.data.examples == "questions"
    assert task.assets() == {"answers": ANSWERS}
    assert "within 1000 x 600 pixels" in (tmp_path / "export" / "README.md").read_text()
    back = str(tmp_path / "back.safetensors")
    assert run(["convert", "soho", str(tmp_path / "export"), back, "--to-published"]) == 0
    assert_same(load_file(back), state)
    assert run(["convert", "soho", file, str(tmp_path / "bare"), "--heads", "none"]) == 0
    facts = yaml.safe_load((tmp_path / "bare" / "model.yaml").read_text())
    assert "task" not in facts


def test_shapes_of_the_released_models() -> None:
    """The key list that was recorded from the original classes gives the released configurations."""
    golden = json.loads(GOLDEN.read_text())
    keys = {"pretrain": golden["pretrain"], "vqa": golden["vqa"]}
    for kind, neck in (("pretrain", "gated"), ("vqa", "plain")):
        shapes = {}
        with torch.device("meta"):
            state = {name: torch.empty(shape) for name, shape in keys[kind]}
        state.pop("mask_l_fc.weight", None)
        shapes = {name: tuple(t.shape) for name, t in from_published(state).state.items()}
        found = read_config(shapes)
        expected = SohoConfig(neck=neck, dictionary=found.dictionary.published())
        assert found == expected.with_(backbone=expected.backbone.with_(frozen_stages=1))


@pytest.mark.slow
@pytest.mark.parametrize("depth", [18, 34, 50, 101])
@pytest.mark.parametrize("options", [{"neck": "added"}, {"align": False, "align_before": True}])
def test_every_depth_and_neck_is_recognised(depth: int, options: dict[str, object]) -> None:
    backbone = ResNetConfig(depth=depth, stem_channels=2, base_channels=2, frozen_stages=1)  # type: ignore[arg-type]
    config = SMALL.with_(backbone=backbone, layers=1, **options)
    state = from_published(published_pretraining(config)).state
    assert read_config({name: tuple(t.shape) for name, t in state.items()}) == config


def test_backbone_and_bert_to_start_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files in torchvision's and BERT's own layout, the latter with old names of norms and five layers."""
    torch.manual_seed(4)
    net = ResNet(ResNetConfig(stem_channels=4, base_channels=6)).state_dict()
    torch.save(net | {"fc.weight": torch.zeros(10, 48), "fc.bias": torch.zeros(10)}, tmp_path / "resnet.pth")
    published = published_pretraining(SMALL.with_(layers=5))
    old = {".LayerNorm.weight": ".LayerNorm.gamma", ".LayerNorm.bias": ".LayerNorm.beta"}
    bert = {}
    for name, tensor in published.items():
        if name.startswith("language."):
            name = name.removeprefix("language.")
            end = next((end for end in old if name.endswith(end)), "")
            bert[name.removesuffix(end) + old.get(end, "")] = tensor
    torch.save(bert | {"bert.pooler.dense.weight": torch.zeros(2)}, tmp_path / "bert.bin")
    parts = ["--backbone", str(tmp_path / "resnet.pth"), "--bert", str(tmp_path / "bert.bin")]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    arguments = [*parts, "--tokenizer", str(tmp_path / "vocab.txt")]
    assert run(["convert", "soho", str(tmp_path / "start"), *arguments]) == 0
    assert "bert.encoder.layer.3.attention.output.LayerNorm.beta" in capsys.readouterr().err
    state = load_file(tmp_path / "start" / "model.safetensors")
    for name, tensor in net.items():
        assert torch.equal(state[f"model.backbone.{name}"], tensor), name
    again = from_published(published).state
    assert {n for n in state if n.startswith("model.layers.")} == {
        n for n in again if n.startswith(("model.layers.0.", "model.layers.1.", "model.layers.2."))
    }
    assert torch.equal(state["model.text.norm.weight"], again["model.text.norm.weight"])
    assert torch.equal(state["model.layers.2.ffn_norm.bias"], again["model.layers.2.ffn_norm.bias"])
    facts = yaml.safe_load((tmp_path / "start" / "model.yaml").read_text())
    assert facts["system"]["backbone"]["base_channels"] == 6
    assert facts["system"]["layers"] == 3
    assert (tmp_path / "start" / "tokenizer" / "tokenizer.json").exists()
    assert run(["convert", "soho", str(tmp_path / "deep"), *parts, "--layers", "6"]) == 1
    assert "has no 6 layers" in capsys.readouterr().err
    assert run(["convert", "soho", str(tmp_path / "x"), "--backbone", str(tmp_path / "bert.bin")]) == 1
    assert run(["convert", "soho", str(tmp_path / "x"), "--bert", str(tmp_path / "resnet.pth")]) == 1


def test_files_that_are_no_soho(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="expected a published SOHO checkpoint"):
        import_checkpoint(tmp_path / "other.safetensors")
    state = published_vqa()
    del state["backbone.layer3.1.conv1.weight"], state["backbone.layer3.1.conv2.weight"]
    save_file(state, tmp_path / "gap.safetensors")
    with pytest.raises(CheckpointError, match="expected a ResNet of depth 18"):
        import_checkpoint(tmp_path / "gap.safetensors")
    state = published_vqa()
    del state["neck.ln.weight"]
    save_file(state, tmp_path / "less.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.neck\.norm\.weight"):
        import_checkpoint(tmp_path / "less.safetensors")
    out = str(tmp_path / "out")
    assert run(["convert", "soho", str(tmp_path / "less.safetensors"), out, "--image-size", "64"]) == 2
    assert run(["convert", "soho", str(tmp_path / "less.safetensors"), out, "--routing", "dropless"]) == 2
    assert run(["convert", "soho", out]) == 2
    assert run(["convert", "soho", "a", out, "--bert", "b"]) == 2
    assert run(["convert", "eve", out, "--bert", "b"]) == 2
    assert "does not start from" in capsys.readouterr().err
