"""Published checkpoints of InternLM-XComposer2-4KHD: settings and weights, both ways, and the tokenizer.

The language model becomes a Llama (`internlm`), partial LoRA stays apart, the vision encoder is that of CLIP.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as RawTokenizer
from torch import Tensor

from diptych.data.chat import ChatTokenizer
from diptych.data.chat_templates import TEMPLATES
from diptych.data.tiling_config import TilingConfig
from diptych.errors import CheckpointError, DataError
from diptych.systems.files import read_state_dict
from diptych.systems.importing import ImportOptions, Parts
from diptych.systems.mllm.config import LanguageConfig, MllmConfig, PartialLoraConfig
from diptych.systems.mllm.connector import TilesConfig
from diptych.systems.mllm.internlm import Heads, from_llama, to_llama
from diptych.systems.mllm.model import MllmModel
from diptych.systems.mllm.vision import VisionConfig

LANGUAGE, VISION, CONNECTOR = "model.language.model.", "model.vision.model.", "model.connector."
_TOWER, _PROJECTOR = "vit.vision_tower.vision_model.", "vision_proj."
_MARKERS = {
    "plora_glb_GN": (f"{CONNECTOR}separator", (1, 1, -1)),
    "plora_sub_GN": (f"{CONNECTOR}newline", (1, 1, 1, -1)),
}
"""Published name -> our name, and the published shape."""
_UNUSED = ("post_layernorm.", "embeddings.position_ids")
"""Of the vision encoder: what lies behind the layer that counts, and what follows from its size."""
_HEAD = 128
"""Width of an attention head of the language model, where nothing says otherwise."""
START, END = "[UNUSED_TOKEN_146]", "[UNUSED_TOKEN_145]"
DATA = {"text": {"max_tokens": 4096}}
"""Length of conversations in the published fine-tuning."""


class IxcConverter:
    """What `diptych.train.published` calls."""

    def read(self, checkpoint: Path, options: ImportOptions) -> Parts:
        """Return settings, our weights, and the published keys that were left out.

        Args:
            checkpoint: the folder with config.json and the files of weights, or one file of weights.
            options: `attention_heads` are those of the language model, where there is no config.json; None:
                one per 128 of width. `heads` mean nothing here.

        Raises:
            UsageError: an option that it has no use for.
            CheckpointError: not readable, or no checkpoint of this model.
        """
        options.refuse(
            image_size="tiles of 4KHD have the size of its vision encoder",
            routing="InternLM-XComposer2 has no experts",
        )
        published, told = read_weights(checkpoint), told_by(checkpoint)
        attention = heads_of(published, told, options.attention_heads)
        state, ignored = from_published(published, attention)
        config = read_config(published, told, attention)
        _check(checkpoint, config, state)
        data = {"image": {"size": config.tiling.tile}, **DATA}
        settings = {"system": config.model_dump(mode="json"), "data": data, "task": {"name": "instruct"}}
        return settings, state, ignored

    def publish(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return published weights and our names without a place; heads of the published width."""
        return self.publish_model(state, {})

    def publish_model(
        self, state: Mapping[str, Tensor], system: Mapping[str, Any]
    ) -> tuple[dict[str, Tensor], list[str]]:
        """Return published weights, and our names that have no place among them.

        Args:
            state: of an export.
            system: its section `system`, which knows the heads; empty: heads are 128 wide.

        Raises:
            CheckpointError: no language model of this kind.
        """
        told = system.get("language", {}).get("settings", {})
        name = f"{LANGUAGE}model.layers.0.self_attn.k_proj"
        keys = next((state[n] for n in (f"{name}.base.weight", f"{name}.weight") if n in state), None)
        if keys is None:
            raise CheckpointError(
                f"no {name}: expected a multimodal language model whose language part is a Llama"
            )
        each = int(told.get("head_dim") or 0) or _HEAD
        if "num_attention_heads" in told:
            each = keys.shape[1] // int(told["num_attention_heads"])
        return to_published(state, Heads(keys.shape[1] // each, len(keys) // each))

    def read_tokenizer(self, path: Path) -> ChatTokenizer:
        """Return the tokenizer.json of InternLM2 with the published chat template.

        Raises:
            DataError: not readable, or without the marks of turns.
        """
        return read_tokenizer(path)


CONVERTER = IxcConverter()


def from_published(state: Mapping[str, Tensor], heads: Heads) -> tuple[dict[str, Tensor], list[str]]:
    """Return our weights, and the published keys that have no place.

    Raises:
        CheckpointError: tensors that do not fit together.
    """
    language, left = to_llama(state, heads)
    found = {LANGUAGE + name: tensor for name, tensor in language.items()}
    ignored = []
    for name in left:
        tensor = state[name]
        if name in _MARKERS:
            found[_MARKERS[name][0]] = tensor.flatten()
        elif name.startswith(_PROJECTOR):
            found[f"{CONNECTOR}projector.{name.removeprefix(_PROJECTOR)}"] = tensor
        elif name.startswith(_TOWER) and not name.removeprefix(_TOWER).startswith(_UNUSED):
            found[VISION + name.removeprefix(_TOWER)] = tensor
        else:
            ignored.append(name)
    return found, ignored


def to_published(state: Mapping[str, Tensor], heads: Heads) -> tuple[dict[str, Tensor], list[str]]:
    """Undo `from_published`; return our names without a place, too."""
    markers = {ours: (theirs, shape) for theirs, (ours, shape) in _MARKERS.items()}
    own = {n.removeprefix(LANGUAGE): t for n, t in state.items() if n.startswith(LANGUAGE)}
    found, left = from_llama(own, heads)
    ignored = [LANGUAGE + name for name in left]
    for name, tensor in state.items():
        if name in markers:
            theirs, shape = markers[name]
            found[theirs] = tensor.view(shape)
        elif name.startswith(f"{CONNECTOR}projector."):
            found[_PROJECTOR + name.removeprefix(f"{CONNECTOR}projector.")] = tensor
        elif name.startswith(VISION):
            found[_TOWER + name.removeprefix(VISION)] = tensor
        elif not name.startswith(LANGUAGE):
            ignored.append(name)
    return found, sorted(ignored)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read one file of weights, or all of a folder that transformers wrote.

    Raises:
        CheckpointError: nothing there, or a damaged file.
    """
    if not path.is_dir():
        return read_state_dict(path)
    for pattern in ("*.safetensors", "pytorch_model*.bin"):
        files = sorted(path.glob(pattern))
        if files:
            parts = [read_state_dict(file) for file in files]
            return {name: tensor for part in parts for name, tensor in part.items()}
    raise CheckpointError(f"{path}: no files of weights (*.safetensors or pytorch_model*.bin)")


def told_by(path: Path) -> dict[str, Any]:
    """Return the config.json beside the weights; empty without one.

    Raises:
        CheckpointError: a damaged file.
    """
    file = (path if path.is_dir() else path.parent) / "config.json"
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error})") from error
    return found if isinstance(found, dict) else {}


def heads_of(state: Mapping[str, Tensor], told: Mapping[str, Any], asked: int | None) -> Heads:
    """Return the heads of the language model: what is asked for, or told, or one per 128 of width.

    Raises:
        CheckpointError: no fused projection, or one that such heads do not make.
    """
    fused = state.get("model.layers.0.attention.wqkv.weight")
    if fused is None:
        raise CheckpointError(
            "no model.layers.0.attention.wqkv.weight: expected a published InternLM-XComposer2-4KHD "
            f"or InternLM2 checkpoint, got {sorted(state)[:3]}"
        )
    rows, width = fused.shape
    queries = asked or int(told.get("num_attention_heads") or 0) or max(1, width // _HEAD)
    each = width // queries
    keys = (rows - width) // (2 * each) if each else 0
    if not keys or width % queries or queries % keys or (queries + 2 * keys) * each != rows:
        raise CheckpointError(
            f"wqkv has {rows} rows for a width of {width}, which {queries} attention heads do not make; give "
            "--attention-heads"
        )
    return Heads(queries, keys)


def read_config(state: Mapping[str, Tensor], told: Mapping[str, Any], heads: Heads) -> MllmConfig:
    """Return the system's settings: sizes as the tensors have them, the rest by config.json or as published.

    Args:
        state: published weights.
        told: config.json, or empty.
        heads: of the language model.

    Raises:
        CheckpointError: a tensor that is missing, or positions that are scaled.
    """
    try:
        vision, language = _vision(state), language_settings(state, told, heads)
        branch = state.get("model.layers.0.attention.wqkv.Plora_A.weight")
        merged, width = state[f"{_PROJECTOR}0.weight"].shape[1], vision["hidden_size"]
    except KeyError as error:
        raise CheckpointError(f"{error.args[0]} is missing: expected InternLM-XComposer2-4KHD") from error
    rank = 0 if branch is None else len(branch)
    return MllmConfig(
        vision=VisionConfig(settings=vision),
        tiling=TilingConfig(kind="hd", tile=vision["image_size"], hd_num=25, eval_hd_num=55),
        connector=TilesConfig(merge=math.isqrt(merged // width)),
        language=LanguageConfig(
            path="",
            settings=language,
            template="internlm",
            learn_rest=True,
            dtype="bf16" if "16" in str(state["model.norm.weight"].dtype) else "fp32",
            plora=PartialLoraConfig(rank=rank, alpha=rank or 1, dropout=0.05, shared=True),
        ),
    )


def _check(checkpoint: Path, config: MllmConfig, state: Mapping[str, Tensor]) -> None:
    """Compare names and shapes with those of the model."""
    with torch.device("meta"):
        expected = {f"model.{n}": t.shape for n, t in MllmModel(config).state_dict().items()}
    found = {name: tensor.shape for name, tensor in state.items()}
    if found != expected:
        wrong = sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
        raise CheckpointError(
            f"{checkpoint}: {len(wrong)} tensors missing, too many or of the wrong shape: "
            f"{', '.join(wrong[:6])}"
        )


def _vision(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the settings of CLIP's vision tower as transformers writes them; heads are 64 wide."""
    patches = state[f"{_TOWER}embeddings.patch_embedding.weight"]
    positions = state[f"{_TOWER}embeddings.position_embedding.weight"]
    width, patch = patches.shape[0], patches.shape[-1]
    return {
        "model_type": "clip_vision_model",
        "hidden_size": width,
        "intermediate_size": len(state[f"{_TOWER}encoder.layers.0.mlp.fc1.weight"]),
        "num_hidden_layers": _count(state, f"{_TOWER}encoder.layers."),
        "num_attention_heads": max(1, width // 64),
        "image_size": math.isqrt(len(positions) - 1) * patch,
        "patch_size": patch,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    }


def language_settings(state: Mapping[str, Tensor], told: Mapping[str, Any], heads: Heads) -> dict[str, Any]:
    """Return the settings of the Llama that an InternLM2 is.

    Raises:
        CheckpointError: positions that are scaled.
    """
    if told.get("rope_scaling"):
        raise CheckpointError(
            f"config.json: rope_scaling = {told['rope_scaling']}: expected none, as published for 4KHD"
        )
    words = state["model.tok_embeddings.weight"]
    return {
        "model_type": "llama",
        "hidden_size": words.shape[1],
        "intermediate_size": len(state["model.layers.0.feed_forward.w1.weight"]),
        "num_hidden_layers": _count(state, "model.layers."),
        "num_attention_heads": heads.queries,
        "num_key_value_heads": heads.keys,
        "vocab_size": len(words),
        "rms_norm_eps": told.get("rms_norm_eps", 1e-5),
        "rope_parameters": {"rope_type": "default", "rope_theta": float(told.get("rope_theta", 1e6))},
        "max_position_embeddings": told.get("max_position_embeddings", 32768),
        "hidden_act": told.get("hidden_act", "silu"),
        "attention_bias": "model.layers.0.attention.wqkv.bias" in state,
        "tie_word_embeddings": False,
        "bos_token_id": told.get("bos_token_id", 1),
        "eos_token_id": told.get("eos_token_id", 2),
        "pad_token_id": told.get("pad_token_id", 2),
    }


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    numbers = {name.removeprefix(prefix).partition(".")[0] for name in state if name.startswith(prefix)}
    return len(numbers)


def read_tokenizer(path: Path) -> ChatTokenizer:
    """Return a tokenizer.json of InternLM2 with the chat template of 4KHD; a text begins with `<s>` once.

    Raises:
        DataError: not readable, or without the marks of turns.
    """
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        raw = RawTokenizer.from_file(str(file))
    except Exception as error:  # the Rust parser raises plain Exception for every kind of wrong content
        raise DataError(f"{file}: no tokenizer.json ({error})") from error
    lacking = [mark for mark in (START, END, "<s>", "</s>") if raw.token_to_id(mark) is None]
    if lacking:
        raise DataError(f"{file}: no token {', '.join(lacking)}; expected the tokenizer of InternLM2")
    raw.add_special_tokens([START, END, "<s>", "</s>"])  # they have their numbers already
    settings = {
        "bos_token": "<s>",
        "eos_token": END,
        "pad_token": "</s>",
        "unk_token": "<unk>",
        "chat_template": "{{- bos_token -}}" + TEMPLATES["internlm"],
        "learn_rest": True,
    }
    return ChatTokenizer(raw, settings, str(file))
