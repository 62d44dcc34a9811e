"""`diptych convert videochat2`: stages 2 and 3 to exports that training starts from, and back."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from test_mllm_clips import EYES, QUERIES
from torch import Tensor
from videochat2_toys import TOKENIZER

from diptych.cli.main import run
from diptych.data.tiling_config import TilingConfig
from diptych.errors import CheckpointError
from diptych.systems.mllm.config import LanguageConfig, LoraConfig, MllmConfig
from diptych.systems.mllm.connector import TilesConfig
from diptych.systems.mllm.model import MllmModel
from diptych.systems.mllm.system import TOY_LLAMA
from diptych.systems.mllm.videochat2 import our_name, published_name, read_checkpoint
from diptych.systems.mllm.vision import VisionConfig
from diptych.tasks.instruct import InstructConfig, InstructTask
from diptych.train.config import InitConfig
from diptych.train.export import find_weights, read_weights
from diptych.train.init import fill


def make_task(**qformer: Any) -> InstructTask:
    torch.manual_seed(5)
    sizes = {"width": 64, "heads": 1, **qformer}
    return InstructTask(
        MllmModel(
            MllmConfig(
                vision=VisionConfig(kind="umt", settings={**EYES, "width": 64, "heads": 1}),
                tiling=TilingConfig(tile=16),
                connector=TilesConfig(kind="qformer"),
                qformer=QUERIES.with_(**sizes),
                language=LanguageConfig(
                    path="", settings=TOY_LLAMA, template="videochat2", lora=LoraConfig(rank=2, alpha=32.0)
                ),
            )
        ),
        InstructConfig(),
        TOKENIZER,
    )


def published(task: InstructTask, language: str = "llama") -> dict[str, Tensor]:
    named = {published_name(n, language): t for n, t in task.state_dict().items()}
    return {name: tensor for name, tensor in named.items() if name is not None}


@pytest.mark.slow
@pytest.mark.parametrize("text", [True, False])
def test_stages_two_and_three_go_there_and_back(tmp_path: Path, text: bool) -> None:
    task = make_task(text=text)
    state = published(task)
    assert "llama_model.base_model.model.model.layers.1.self_attn.q_proj.lora_B.default.weight" in state
    assert {
        "llama_proj.weight",
        "query_tokens",
        "extra_query_tokens",
        "vision_layernorm.bias",
    } <= state.keys()
    assert ("qformer.bert.embeddings.word_embeddings.weight" in state) == text
    torch.save(
        {"model": {**state, "llama_model.base_model.model.lm_head.weight": torch.zeros(2)}},
        tmp_path / "f.pth",
    )
    export = tmp_path / "export"
    assert run(["convert", "videochat2", str(tmp_path / "f.pth"), str(export)]) == 0
    facts = yaml.safe_load((export / "model.yaml").read_text())
    assert facts["system"]["qformer"]["text"] == text
    assert facts["system"]["qformer"]["extra_queries"] == 2
    assert facts["system"]["language"]["lora"]["names"] == ["q_proj", "v_proj"]
    assert facts["system"]["language"]["template"] == "videochat2"
    other = make_task(text=text)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    wanted = InitConfig(path="x", allow_missing=("model.language.*",))
    fill(other, read_weights(find_weights(export)), wanted)
    ours, found = task.state_dict(), other.state_dict()
    known = [n for n in ours if published_name(n) is not None]
    assert all(torch.equal(ours[n], found[n]) for n in known)
    back = tmp_path / "back.safetensors"
    assert run(["convert", "videochat2", str(export), str(back), "--to-published"]) == 0
    again = load_file(back)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[n], t) for n, t in state.items())


def test_other_language_models() -> None:
    state = published(make_task(), "mistral")
    assert "mistral_proj.bias" in state
    assert all(our_name(name) is not None for name in state)
    assert our_name("mistral_model.base_model.model.lm_head.lora_A.weight") == (
        "model.language.model.lm_head.lora_A.default.weight"
    )
    assert our_name("llama_model.base_model.model.lm_head.weight") is None
    assert our_name("vision_encoder.encoder.head.weight") is None


def test_other_files_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "f.pth")
    with pytest.raises(CheckpointError, match="expected a checkpoint of VideoChat2's stage 2 or 3"):
        read_checkpoint(tmp_path / "f.pth")
    state = published(make_task())
    del state["vision_encoder.encoder.patch_embed.proj.weight"]
    torch.save(state, tmp_path / "f.pth")
    with pytest.raises(CheckpointError, match=r"patch_embed\.weight missing"):
        read_checkpoint(tmp_path / "f.pth")
