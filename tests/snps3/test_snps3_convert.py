"""`diptych convert snps3`: published files to exports and back; key lists and sizes of the reference page."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from snps3_toys import TOKENIZER, make_task
from torch import Tensor

import diptych
from diptych.blocks.pvt import PvtConfig
from diptych.blocks.pvt import named as pvt_named
from diptych.blocks.resnet import ResNetConfig
from diptych.blocks.video_swin import VideoSwin, VideoSwinConfig
from diptych.cli.main import run
from diptych.errors import CheckpointError
from diptych.objectives.matching import MatchingHead
from diptych.objectives.mlm import MaskedTextHead
from diptych.objectives.pair_scores import PairScorer
from diptych.systems.snps3.checkpoint import import_checkpoint
from diptych.systems.snps3.config import SnpS3Config
from diptych.systems.snps3.convert import from_published
from diptych.systems.snps3.heads import Momentum
from diptych.systems.snps3.layout import to_layout
from diptych.systems.snps3.model import SnpS3Model
from diptych.systems.snps3.shapes import read_config
from diptych.train.build import load_task

SWIN = VideoSwinConfig(width=8, depths=(1, 2), heads=(1, 2), window=(2, 3, 3), drop_path=0.2)
SMALL: dict[str, Any] = {
    "width": 64,
    "layers": 2,
    "heads": 1,
    "hidden": 48,
    "vocab_size": TOKENIZER.vocab_size,
    "max_text_tokens": 32,
    "separator": TOKENIZER.vocab_size - 1,
    "mask": "published",
    "swin": SWIN,
}
"""Sizes that the shapes tell, and what follows from their being published."""


def published(config: SnpS3Config, kind: str) -> dict[str, Tensor]:
    """Return a whole published state dict of `pretrain`, `retrieval` or `answers`, with random weights."""
    torch.manual_seed(1)
    model = SnpS3Model(config)
    heads: dict[str, torch.nn.Module] = {"match": PairScorer(config.width)}
    if kind == "pretrain":
        heads |= {n: MaskedTextHead(config.width, config.vocab_size) for n in ("mlm", "text_mlm")}
        heads |= {"itm": MatchingHead(config.width), "moco": Momentum(model, places=6)}
    if kind == "answers":
        heads = {"vqa.classifier": torch.nn.Linear(config.width, 5)}
    state = {f"model.{n}": t for n, t in model.state_dict().items()}
    state |= {f"{n}.{k}": t for n, head in heads.items() for k, t in head.state_dict().items()}
    return to_layout(state)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("kind", [pytest.param("pretrain", marks=pytest.mark.slow), "retrieval", "answers"])
def test_round_trip_bit_for_bit(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = SnpS3Config.model_validate(SMALL)
    state = published(config, kind)
    content = {
        "model": {f"module.{name}": tensor for name, tensor in state.items()},
        "optimizer": {"state": {}, "param_groups": [{"lr": 5e-5, "params": [0]}]},
        "current_iteration": 7,
        "best_metric_value": 0.5,
    }
    content["model"]["module.model.module.img_proj"] = torch.zeros(8, 64)
    torch.save(content, tmp_path / "model_7.ckpt")
    TOKENIZER.save(tmp_path / "words")
    words = ["--tokenizer", str(tmp_path / "words")]
    file, export = str(tmp_path / "model_7.ckpt"), tmp_path / "export"
    assert run(["convert", "snps3", file, str(export), *words]) == 0
    assert "left out" not in capsys.readouterr().err
    facts = yaml.safe_load((export / "model.yaml").read_text())
    assert SnpS3Config.model_validate(facts["system"]) == config
    expected = {"pretrain": "snps3_pretrain", "retrieval": "retrieval_levels", "answers": "vqa"}
    assert facts["task"]["name"] == expected[kind]
    back = str(tmp_path / "back.safetensors")
    assert run(["convert", "snps3", str(export), back, "--to-published"]) == 0
    assert_same(load_file(back), state)
    if kind == "pretrain":
        _, task = load_task(export)
        assert task.moco.text_queue.filled == 6
        model = diptych.load("snps3", tmp_path / "model_7.ckpt", tokenizer=tmp_path / "words")
        assert model.config.task.name == "snps3_pretrain"
        assert "system | snps3" in (export / "README.md").read_text()
        picture = torch.randint(0, 256, (40, 30, 3), dtype=torch.uint8).numpy()
        assert model.match(picture, ["a b", "cat"]).shape == (2,)
    assert run(["convert", "snps3", file, str(tmp_path / "bare"), "--heads", "none"]) == 0
    assert "task" not in yaml.safe_load((tmp_path / "bare" / "model.yaml").read_text())


def test_a_trained_task_is_published_and_read_again(tmp_path: Path) -> None:
    """Queues may be missing: files from before the first step have none."""
    task = make_task({"resnet": ResNetConfig(depth=18, stem_channels=4, base_channels=4, norm="frozen")})
    state = task.state_dict()
    file = tmp_path / "whole.safetensors"
    save_file({name: tensor.clone() for name, tensor in to_layout(state).items()}, file)
    config, ours, ignored = import_checkpoint(file, heads=2)
    assert ignored == []
    assert (config.encoder, config.sizes, config.width) == ("resnet", "any", 16)
    extra = {name for name in state if name.endswith((".ids", ".filled"))}
    assert ours.keys() == state.keys()
    for name in ours.keys() - extra:
        assert torch.equal(ours[name], state[name]), name
    part = {n: t.clone() for n, t in to_layout(state).items() if "_queue_ptr" not in n}
    save_file(part, file)
    _, ours, ignored = import_checkpoint(file, heads=2)
    assert ours.keys() == {name for name in state if not name.startswith("moco.")}
    assert ignored
    assert all(name.startswith("moco.") for name in ignored)


# Reference page, section 13 (shapes) and 3 (sizes).
FULL: dict[str, tuple[int, ...]] = {
    "module.text_encoder.embeddings.word_embeddings.weight": (30522, 768),
    "module.text_encoder.embeddings.position_embeddings.weight": (512, 768),
    "module.text_encoder.embeddings.token_type_embeddings.weight": (2, 768),
    "module.text_encoder.encoder.layer.11.attention.self.query.weight": (768, 768),
    "module.text_encoder.encoder.layer.11.intermediate.dense.weight": (3072, 768),
    "module.text_encoder.module.encoder.layer.0.output.dense.weight": (768, 3072),
    "module.cross_embeddings.LayerNorm.weight": (768,),
    "module.cross_encoder.layer.11.output.LayerNorm.bias": (768,),
    "module.cross_pooler.dense.weight": (768, 768),
    "module.img_encoder.img_fc.2.bias": (768,),
    "similarity_dense.0.weight": (1536, 768),
    "similarity_dense.2.weight": (1, 1536),
}
SWIN_FULL: dict[str, tuple[int, ...]] = {
    "module.img_encoder.swin.patch_embed.proj.weight": (96, 3, 2, 4, 4),
    "module.img_encoder.swin.layers.2.blocks.17.attn.relative_position_bias_table": (2535, 12),
    "module.img_encoder.swin.layers.2.blocks.17.attn.relative_position_index": (392, 392),
    "module.img_encoder.swin.layers.2.downsample.reduction.weight": (768, 1536),
}


def test_full_size_has_the_recorded_keys_and_numbers_of_weights() -> None:
    with torch.device("meta"):
        model = SnpS3Model(SnpS3Config())
        heads: dict[str, torch.nn.Module] = {
            "match": PairScorer(768),
            "mlm": MaskedTextHead(768, 30522),
            "text_mlm": MaskedTextHead(768, 30522),
            "itm": MatchingHead(768),
        }
    visual = sum(p.numel() for p in model.visual.encoder.parameters())
    assert visual == pytest.approx(49.5e6, rel=2e-3)
    text = sum(p.numel() for n, p in model.named_parameters() if n.startswith(("text", "layers")))
    assert text == 109_482_240  # BERT-base, uncased, with its pooler
    state = {f"model.{n}": t for n, t in model.state_dict().items()}
    fine = to_layout(state | {f"match.{n}": t for n, t in heads["match"].state_dict().items()})
    for name, shape in (FULL | SWIN_FULL).items():
        assert fine[f"model.{name}"].shape == shape, name
    whole = to_layout(state | {f"{h}.{n}": t for h, m in heads.items() for n, t in m.state_dict().items()})
    for name, shape in (FULL | SWIN_FULL).items():  # pre-training nests once more
        assert whole[f"model.model.{name}"].shape == shape, name
    for head in ("transformer_mlm", "text_encoder_mlm"):
        assert whole[f"model.mlm_head.{head}.cls.predictions.decoder.weight"].shape == (30522, 768)
    assert whole["model.itm_head.cls.seq_relationship.weight"].shape == (2, 768)


@pytest.mark.parametrize("encoder", ["pvt", "resnet"])
def test_full_size_of_the_other_encoders(encoder: str) -> None:
    with torch.device("meta"):
        model = SnpS3Model(SnpS3Config.model_validate({"encoder": encoder}))
    state = to_layout({f"model.{n}": t for n, t in model.state_dict().items()})
    inputs = {"pvt": 512, "resnet": 2048}[encoder]
    assert state["model.module.img_encoder.output_proj.weight"].shape == (768, inputs, 1, 1)
    # The paper counts 161.1 and 160.4 million with its heads, of which some are not told.
    total = sum(p.numel() for p in model.parameters()) + sum(b.numel() for b in model.buffers())
    assert total == pytest.approx({"pvt": 136.6e6, "resnet": 136.5e6}[encoder], rel=0.01)


ENCODERS: dict[str, dict[str, Any]] = {
    "swin": {"swin": VideoSwinConfig(width=6, depths=(1, 1, 2), heads=(1, 2, 3), window=(8, 7, 7))},
    "pvt": {"encoder": "pvt", "pvt": PvtConfig()},
    "b0": {"encoder": "pvt", "pvt": pvt_named("b0")},
    "b2_li": {"encoder": "pvt", "pvt": pvt_named("b2_li")},
    "b5": {"encoder": "pvt", "pvt": pvt_named("b5")},
    "resnet": {"encoder": "resnet", "resnet": ResNetConfig(depth=101, norm="frozen")},
    "narrow": {
        "encoder": "resnet",
        "resnet": ResNetConfig(depth=50, norm="frozen", widths=(4, 4, 6, 8), blocks=(1, 1, 1, 1)),
    },
    "ours": {
        "encoder": "resnet",
        "resnet": ResNetConfig(depth=18, stem="small", widths=(4, 4, 6, 8), blocks=(1, 1, 1, 1)),
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_is_recognised(name: str) -> None:
    config = SnpS3Config.model_validate(SMALL | {"swin": VideoSwinConfig()} | ENCODERS[name])
    config = config.with_(sizes="square" if config.encoder == "swin" else "any")
    with torch.device("meta"):
        state = {f"model.{n}": tuple(t.shape) for n, t in SnpS3Model(config).state_dict().items()}
    found = read_config(state)
    if name in ("narrow", "ours"):  # base_channels follows from the widths
        found = found.with_(resnet=found.resnet.with_(base_channels=64, stem_channels=64))
    assert found == config


def test_parts_to_start_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A Video Swin as its authors wrap it, and a BERT with old names of norms and three layers."""
    torch.manual_seed(4)
    swin = VideoSwin(SWIN).state_dict()
    wrapped = {f"backbone.{name}": tensor for name, tensor in swin.items()}
    tables = [n for n in wrapped if n.endswith("bias_table")]
    wrapped |= {n.replace("bias_table", "index"): torch.zeros(18, 18).long() for n in tables}
    wrapped |= {"cls_head.fc_cls.weight": torch.zeros(4, 8)}
    torch.save({"state_dict": wrapped, "meta": {"epoch": 3}}, tmp_path / "swin.pth")
    config = SnpS3Config.model_validate(SMALL | {"layers": 3})
    bert = {}
    for name, tensor in published(config, "retrieval").items():
        if name.startswith("model.module.text_encoder.") and ".text_encoder.module." not in name:
            name = name.removeprefix("model.module.text_encoder.")
            for new, old in (
                (".LayerNorm.weight", ".LayerNorm.gamma"),
                (".LayerNorm.bias", ".LayerNorm.beta"),
            ):
                name = name.replace(new, old)
            bert[f"bert.{name}"] = tensor.clone()
    torch.save(bert | {"cls.predictions.bias": torch.zeros(3)}, tmp_path / "bert.bin")
    parts = ["--backbone", str(tmp_path / "swin.pth"), "--bert", str(tmp_path / "bert.bin")]
    assert run(["convert", "snps3", str(tmp_path / "start"), *parts]) == 0
    told = capsys.readouterr().err
    assert "cls_head.fc_cls.weight" in told
    assert "cls.predictions.bias" in told
    state = load_file(tmp_path / "start" / "model.safetensors")
    for name, tensor in swin.items():
        assert torch.equal(state[f"model.visual.encoder.{name}"], tensor), name
    own = {f"model.{n}" for n in SnpS3Model(config).state_dict()}
    assert own - state.keys() == {
        n for n in own if n.startswith(("model.visual.fc", "model.visual.projection"))
    }
    assert torch.equal(state["model.cross_pooler.weight"], bert["bert.pooler.dense.weight"])
    facts = yaml.safe_load((tmp_path / "start" / "model.yaml").read_text())
    assert (facts["system"]["layers"], facts["system"]["swin"]["window"]) == (3, [2, 3, 3])
    assert run(["convert", "snps3", str(tmp_path / "less"), *parts, "--layers", "2"]) == 0
    assert not any(
        ".layers.2." in n for n in load_file(tmp_path / "less" / "model.safetensors") if "visual" not in n
    )
    assert run(["convert", "snps3", str(tmp_path / "x"), *parts, "--layers", "4"]) == 1
    assert "has no 4 layers" in capsys.readouterr().err


def test_files_that_are_no_snps3(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="expected a published SNP-S3 checkpoint"):
        import_checkpoint(tmp_path / "other.safetensors")
    state = {n: t.clone() for n, t in published(SnpS3Config.model_validate(SMALL), "retrieval").items()}
    del state["model.module.img_encoder.img_fc.2.weight"]
    save_file(state, tmp_path / "less.safetensors")
    with pytest.raises(CheckpointError, match=r"1 tensors missing.*visual\.fc2\.weight"):
        import_checkpoint(tmp_path / "less.safetensors")
    other = {n: t + 1 for n, t in state.items() if n.endswith("cross_encoder.layer.0.output.dense.bias")}
    with pytest.raises(CheckpointError, match="one tensor, but their values differ"):
        from_published({**state, **other})
    out = str(tmp_path / "out")
    assert run(["convert", "snps3", str(tmp_path / "less.safetensors"), out, "--image-size", "64"]) == 2
    assert run(["convert", "snps3", str(tmp_path / "less.safetensors"), out, "--routing", "dropless"]) == 2


GOLDEN = Path(__file__).parent.parent / "parity" / "golden" / "snps3"


@pytest.mark.parametrize("case", ["pretrain_train_plain", "pretrain_eval", "retrieval", "qa_classification"])
def test_key_lists_are_those_of_the_original_code(case: str) -> None:
    tied = json.loads((GOLDEN / f"{case}.json").read_text())["tied_keys"]
    recorded = {
        n.removeprefix("w."): t for n, t in load_file(GOLDEN / f"{case}.safetensors").items() if n[0] == "w"
    }
    ours = to_layout(from_published(recorded).state)
    unused = {name for name in recorded if ".img_encoder.model.head." in name}
    # Recorded without what is outermost.
    assert {name.removeprefix("model.") for name in ours} == (recorded.keys() | tied.keys()) - unused
