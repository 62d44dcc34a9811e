"""Published checkpoints of VideoChat2's stages 2 and 3 (on Vicuna, Mistral and Phi) and our weights.

They hold the video encoder, the Q-Former, the projection and, from stage 3 on, the language model's LoRA. The
language model comes from its own files.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from diptych.blocks.video_vit import our_video_name, published_video_name
from diptych.errors import CheckpointError
from diptych.systems.files import read_state_dict
from diptych.systems.importing import ImportOptions, Parts
from diptych.systems.mllm.qformer import our_connector_name, published_connector_name

_KINDS = ("model", "state_dict", "module")
"""Keys under which files hold their weights."""
_EYES, _OURS = "vision_encoder.encoder.", "model.vision.model."
_CONNECTOR, _LANGUAGE = "model.connector.", "model.language.model."
_BLOCK = re.compile(r"model\.vision\.model\.blocks\.(\d+)\.")
_LAYER = re.compile(r"model\.connector\.qformer\.layers\.(\d+)\.")
_LORA = re.compile(r"(?:llama|mistral|phi)_model\.base_model\.model\.(.+\.lora_[AB])(?:\.default)?\.weight")
"""Adapters as peft names them in the model that it wraps."""
_PROJECTION = re.compile(r"(llama|mistral|phi)_proj\.weight")
TEMPLATES = {"llama": "videochat2", "mistral": "videochat2_mistral", "phi": ""}
"""Language model -> the chat template of its conversations; that of Phi is its tokenizer's own."""


def our_name(name: str) -> str | None:
    """Return our name of a published key; None: it has none."""
    if name.startswith(_EYES):
        found = our_video_name(name.removeprefix(_EYES))
        return None if found is None else _OURS + found
    adapter = _LORA.fullmatch(name)
    if adapter:
        return f"{_LANGUAGE}{adapter[1]}.default.weight"
    found = our_connector_name(name)
    return None if found is None else _CONNECTOR + found


def published_name(name: str, language: str = "llama") -> str | None:
    """Return the published key of one of our weights; None: it has none.

    Args:
        name: ours.
        language: `llama` (Vicuna), `mistral` or `phi`.
    """
    if name.startswith(_OURS):
        found = published_video_name(name.removeprefix(_OURS))
        return None if found is None else _EYES + found
    if name.startswith(_CONNECTOR):
        return published_connector_name(name.removeprefix(_CONNECTOR), f"{language}_proj")
    if name.startswith(_LANGUAGE) and ".lora_" in name:
        return f"{language}_model.base_model.model.{name.removeprefix(_LANGUAGE)}"
    return None


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Tensor], list[str]]:
    """Read a published checkpoint.

    Returns:
        The sections `system`, `data` and `task` of a run (the path of the language model is for the user to
        set), our weights, and the published keys without a place, sorted.

    Raises:
        CheckpointError: not readable, or not such a checkpoint.
    """
    state: dict[str, Tensor] = {}
    ignored = []
    published = read_state_dict(path, _KINDS)
    for name, tensor in published.items():
        ours = our_name(name)
        if ours is not None:
            state[ours] = tensor.float() if tensor.is_floating_point() else tensor
        elif not name.endswith("position_ids"):
            ignored.append(name)
    found = next((m for m in map(_PROJECTION.fullmatch, published) if m), None)
    if found is None or f"{_CONNECTOR}qformer.query_tokens" not in state:
        raise CheckpointError(
            f"{path}: no query_tokens and no {'_proj, '.join(TEMPLATES)}_proj: expected a checkpoint of "
            f"VideoChat2's stage 2 or 3, got {sorted(published)[:3]}"
        )
    return _settings(state, found[1]), state, sorted(ignored)


def _settings(state: Mapping[str, Tensor], language: str) -> dict[str, Any]:
    queries = state[f"{_CONNECTOR}qformer.query_tokens"]
    extra = state.get(f"{_CONNECTOR}qformer.extra_query_tokens")
    layers = f"{_CONNECTOR}qformer.layers.0."
    words = state.get(f"{_CONNECTOR}qformer.words.weight")
    patch = _needed(state, f"{_OURS}patch_embed.weight")
    width = queries.shape[2]
    qformer: dict[str, Any] = {
        "queries": queries.shape[1],
        "extra_queries": 0 if extra is None else extra.shape[1],
        "width": width,
        "layers": _count(state, _LAYER),
        "heads": max(width // 64, 1),
        "hidden": len(_needed(state, f"{layers}query_ffn.fc1.weight")),
        "text": words is not None,
    }
    if words is not None:
        places = _needed(state, f"{_CONNECTOR}qformer.positions.weight")
        qformer |= {"vocab_size": len(words), "max_text_tokens": len(places)}
    video = {
        "width": len(patch),
        "layers": _count(state, _BLOCK),
        "heads": max(len(patch) // 64, 1),
        "hidden": len(_needed(state, f"{_OURS}blocks.0.fc1.weight")),
        "patch_size": patch.shape[-1],
    }
    system: dict[str, Any] = {
        "name": "mllm",
        "vision": {"kind": "umt", "settings": video},
        "tiling": {"tile": 224},
        "connector": {"kind": "qformer"},
        "qformer": qformer,
        "language": {"path": "", "template": TEMPLATES[language], **_lora(state)},
    }
    data = {"image": {"size": 224, "resize": "crop"}, "video": {"frames": 8, "short": "last"}}
    # What the Q-Former reads in stage 3 is BERT's, whose vocabulary the files do not hold.
    return {"system": system, "data": data, "task": {"name": "instruct", "max_tokens": 608}}


def _lora(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the settings of the adapters; their alpha is not in the files: 32, published."""
    found = {name: tensor for name, tensor in state.items() if ".lora_A." in name}
    if not found:
        return {}
    ranks = {tensor.shape[0] for tensor in found.values()}
    names = sorted({name.split(".lora_A.")[0].rpartition(".")[2] for name in found})
    return {"lora": {"rank": max(ranks), "alpha": 32.0, "dropout": 0.1, "names": names}}


def _needed(state: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in state:
        raise CheckpointError(f"not VideoChat2: {name} missing (our names)")
    return state[name]


def _count(state: Mapping[str, Tensor], pattern: re.Pattern[str]) -> int:
    numbers = {int(found.group(1)) for found in map(pattern.match, state) if found}
    if not numbers or numbers != set(range(len(numbers))):
        raise CheckpointError(
            f"not VideoChat2: layers {sorted(numbers)} of {pattern.pattern}: expected 0, 1, ... without gaps"
        )
    return len(numbers)


class VideoChat2Converter:
    """Turns published checkpoints into settings and weights, and weights into published ones."""

    def read(self, checkpoint: Path, options: ImportOptions) -> Parts:
        """Return settings, weights and the published keys that were left out; see `read_checkpoint`.

        Raises:
            UsageError: an option that has no meaning here.
        """
        fixed = "VideoChat2 has it in its configuration"
        options.refuse(image_size=fixed, attention_heads=fixed, routing="VideoChat2 has no experts")
        return read_checkpoint(checkpoint)

    def publish(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return published weights, and our names without a place among them (the language model's)."""
        named = {name: published_name(name) for name in state}
        known = {theirs: state[name] for name, theirs in named.items() if theirs is not None}
        return known, sorted(name for name, theirs in named.items() if theirs is None)


CONVERTER = VideoChat2Converter()
