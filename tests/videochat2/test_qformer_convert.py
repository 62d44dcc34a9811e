"""`diptych convert qformer`: published files to exports and back, and the parts that training starts from."""

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor
from videochat2_toys import TOKENIZER, make_task

from diptych.blocks.qformer import QFormer, QFormerConfig
from diptych.blocks.video_vit import VideoVit, VideoVitConfig
from diptych.cli.main import run
from diptych.errors import CheckpointError
from diptych.systems.qformer.checkpoint import import_checkpoint, import_parts
from diptych.systems.qformer.config import QFormerSystemConfig
from diptych.systems.qformer.convert import from_published, our_name, published_name, to_published

WIDE = {
    "video": VideoVitConfig(width=64, layers=2, heads=1, hidden=24, patch_size=8),
    "qformer": {
        "queries": 3,
        "extra_queries": 0,
        "width": 64,
        "layers": 3,
        "heads": 1,
        "hidden": 48,
        "max_text_tokens": 16,
    },
    "frames": 3,
}


def published(**task: object) -> dict[str, Tensor]:
    return to_published(make_task(WIDE, **task).state_dict())


def test_names_that_the_reference_page_gives() -> None:
    state = published()
    for name in (
        "vision_encoder.encoder.patch_embed.proj.weight",
        "vision_encoder.encoder.blocks.1.attn.q_bias",
        "vision_encoder.encoder.blocks.0.mlp.fc2.bias",
        "vision_layernorm.weight",
        "vision_temp_embed",
        "temp",
        "query_tokens",
        "qformer.bert.embeddings.word_embeddings.weight",
        "qformer.bert.encoder.layer.2.crossattention.output.LayerNorm.bias",
        "qformer.bert.encoder.layer.1.intermediate_query.dense.weight",
        "qformer.cls.predictions.transform.LayerNorm.weight",
        "itm_head.weight",
    ):
        assert name in state, name
    assert torch.equal(
        state["qformer.cls.predictions.decoder.weight"],
        state["qformer.bert.embeddings.word_embeddings.weight"],
    )
    # BLIP-2 writes the same parts like this.
    assert our_name("Qformer.bert.encoder.layer.0.output_query.dense.bias") == our_name(
        "qformer.bert.encoder.layer.0.output_query.dense.bias"
    )
    assert our_name("ln_vision.weight") == "model.visual_norm.weight"
    assert our_name("llama_proj.weight") is None
    assert published_name("elsewhere.weight") is None


def test_tied_tensors_must_agree() -> None:
    state = published()
    state["qformer.cls.predictions.decoder.weight"] = state["query_tokens"][0]
    with pytest.raises(CheckpointError, match="are one tensor, but their values differ"):
        from_published(state)
    with pytest.raises(CheckpointError, match="no query_tokens"):
        from_published({"a": torch.zeros(1)})


def test_round_trip_bit_for_bit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = published()
    state["qformer.bert.embeddings.position_ids"] = torch.arange(16)[None]
    torch.save({"model": state, "epoch": 9}, tmp_path / "stage1.pth")
    TOKENIZER.save(tmp_path / "words")
    file, export = str(tmp_path / "stage1.pth"), tmp_path / "export"
    words = ["--tokenizer", str(tmp_path / "words"), "--image-size", "16"]
    assert run(["convert", "qformer", file, str(export), *words]) == 0
    assert "left out" not in capsys.readouterr().err
    facts = yaml.safe_load((export / "model.yaml").read_text())
    assert facts["task"]["name"] == "qformer_align"
    assert facts["system"]["video"]["layers"] == 2
    assert facts["system"]["qformer"]["cross_every"] == 2
    assert facts["system"]["frames"] == 3
    back = str(tmp_path / "back.safetensors")
    assert run(["convert", "qformer", str(export), back, "--to-published"]) == 0
    found = load_file(back)
    del state["qformer.bert.embeddings.position_ids"]
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(found[name], tensor), name


def test_missing_tensors_are_named(tmp_path: Path) -> None:
    state = published()
    del state["qformer.bert.encoder.layer.1.output.dense.bias"]
    torch.save(state, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match="1 tensors missing"):
        import_checkpoint(tmp_path / "file.pth")


def test_parts_that_stage_one_starts_from(tmp_path: Path) -> None:
    torch.manual_seed(0)
    eyes = VideoVit(VideoVitConfig(width=64, layers=3, heads=1, hidden=24, patch_size=8)).state_dict()
    umt = {}
    for name, tensor in eyes.items():
        name = name.replace("patch_embed.", "patch_embed.proj.").replace(".fc", ".mlp.fc")
        umt[f"encoder.{name}"] = tensor
    umt["decoder.head.weight"] = torch.zeros(2, 2)
    torch.save({"model": umt}, tmp_path / "l16.pth")
    reader = QFormer(
        QFormerConfig(extra_queries=0, width=64, layers=2, heads=1, hidden=24, vocab_size=20), 64
    )
    bert = {
        f"bert.{theirs.removeprefix('qformer.bert.')}": tensor
        for name, tensor in reader.state_dict().items()
        if (theirs := published_name(f"model.qformer.{name}"))
        and not any(part in theirs for part in ("crossattention", "_query", "query_tokens"))
    }
    bert["bert.embeddings.token_type_embeddings.weight"] = torch.zeros(2, 64)
    torch.save(bert, tmp_path / "bert.bin")
    fields, state, ignored = import_parts(tmp_path / "l16.pth", tmp_path / "bert.bin")
    config = QFormerSystemConfig.model_validate({**fields, "image_size": 16})
    assert (config.video.layers, config.qformer.layers, config.qformer.vocab_size) == (2, 2, 21)
    assert "decoder.head.weight" in ignored
    assert "bert.embeddings.token_type_embeddings.weight" in ignored
    assert any("blocks.2." in name for name in ignored)
    assert torch.equal(state["model.visual.blocks.1.fc1.weight"], eyes["blocks.1.fc1.weight"])
    text, query = (state[f"model.qformer.layers.0.{kind}_ffn.fc1.weight"] for kind in ("text", "query"))
    assert torch.equal(text, query)
    assert torch.equal(
        state["model.qformer.words.weight"][:20], bert["bert.embeddings.word_embeddings.weight"]
    )
    with pytest.raises(CheckpointError, match="expected a UMT encoder"):
        import_parts(tmp_path / "bert.bin", None)
    with pytest.raises(CheckpointError, match="expected a BERT"):
        import_parts(None, tmp_path / "l16.pth")
