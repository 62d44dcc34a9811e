"""Reading published Uni-Perceiver checkpoints: current and former layouts, dense and with experts."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from diptych.errors import CheckpointError
from diptych.systems.files import read_state_dict
from diptych.systems.importing import VisualType
from diptych.systems.uniperceiver.config import ConditionalConfig, PromptConfig, UniPerceiverConfig
from diptych.systems.uniperceiver.convert import from_published
from diptych.systems.uniperceiver.embed import fit_tables, resize_grid, sine_grid
from diptych.systems.uniperceiver.model import UniPerceiverModel

VISUAL_TYPES: tuple[str, ...] = get_args(VisualType)

_KINDS = ("model", "module", "state_dict")
"""Keys under which files hold their weights."""
_FORMER = ("encoder.", "predictor.")
_RENAMED = (
    ("attention_output.residual_scale", "gamma_1"),
    ("ffn_output.residual_scale", "gamma_2"),
    ("ffn.dense.", "linear1."),
    ("ffn.dense2.", "linear2."),
    ("LayerNormModules.0.", "norm1."),
    ("LayerNormModules.1.", "norm2."),
    ("predictor.", "loss_prepare."),
)
"""Parts of names of the former layout, beside attention, in the order in which they are replaced."""
_BIAS, _TYPES = "video_embed.embeddings.bias", "video_embed.embeddings_type.weight"
_PER_HEAD = 64
_PUBLISHED_WORDS, _TRAINED = 49411, (3, 2)
"""Rows of the published word table; slot and end of vocabularies that Diptych trained."""
_SAME = 1e-3
"""How far a fixed table may be from the formula."""


def import_checkpoint(
    path: Path, heads: int | None = None, image_size: int | None = None, visual_type: VisualType = "auto"
) -> tuple[UniPerceiverConfig, dict[str, Tensor], list[str]]:
    """Read a published checkpoint; return its configuration, our state dict, and the keys that were left out.

    Args:
        path: the file: `{"model": ...}` of the current code, `{"module": ...}` of the former one, or the
            state dict itself.
        heads: attention heads; None: one per 64 of width.
        image_size: side of the pictures to come; None: as it is. A table of the formula is made anew with
            coordinates that cover the same range, another one is resized.
        visual_type: what becomes of the type row of patches.

    Raises:
        CheckpointError: not readable, not Uni-Perceiver, or tensors that do not fit together.
    """
    published = read_state_dict(path, _KINDS)
    former = any(name.startswith(_FORMER) for name in published)
    published = _current(published) if former else published
    experts = any(".experts.deepspeed_experts." in name for name in published)
    if visual_type == "merge" or (visual_type == "auto" and former and not experts):
        published = merge_type(published, str(path))
    imported = from_published(published)
    config = read_config(imported.state, str(path), heads).with_(visual_type=visual_type == "use")
    state = imported.state
    if image_size is not None and image_size != config.image_size:
        config, state = _resized(config, state, image_size)
    _check(config, state, path)
    return config, state, imported.ignored


def _current(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a checkpoint of the former layout in the names of the current one."""
    experts = any("deepspeed_moe" in name for name in state)
    attention: tuple[tuple[str, str], ...] = (
        ("attention.self.qkv_proj", "self_attn.qkv_proj"),
        ("attention.output.dense", "self_attn.dense"),
        ("deepspeed_moe.gate", "gate"),
        ("deepspeed_moe.experts", "experts"),
    )
    if not experts:
        attention = (
            ("attention.self.qkv_proj.weight", "self_attn.in_proj_weight"),
            ("attention.self.qkv_proj.bias", "self_attn.in_proj_bias"),
            ("attention.output.dense", "self_attn.out_proj"),
        )
    found = {}
    for name, tensor in state.items():
        if name.startswith("visual_embed."):
            continue
        new = re.sub(r"^encoder\.", "fused_encoder.", name)
        for theirs, ours in (*attention, *_RENAMED):
            new = new.replace(theirs, ours)
        found[new] = tensor.float() if tensor.is_floating_point() else tensor
        if new.endswith(("gamma_1", "gamma_2")):
            found[new] = found[new].flatten()
    return found


def merge_type(state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Return weights with the type row of patches added to their bias, which is all that the row did.

    Raises:
        CheckpointError: one of the two is missing.
    """
    missing = [name for name in (_BIAS, _TYPES) if name not in state]
    if missing:
        raise CheckpointError(
            f"{where}: {missing[0]} is missing, so the type of patches cannot be merged; give "
            "--visual-type drop"
        )
    return {**state, _BIAS: state[_BIAS].float() + state[_TYPES][0].float()}


def read_config(state: Mapping[str, Tensor], where: str, heads: int | None = None) -> UniPerceiverConfig:
    """Return the configuration that the shapes of our weights tell.

    Raises:
        CheckpointError: something that tells it is missing.
    """

    def shape(name: str) -> torch.Size:
        if f"model.{name}" not in state:
            raise CheckpointError(f"{where}: no whole Uni-Perceiver checkpoint, {name} is missing")
        return state[f"model.{name}"].shape

    vocabulary, width = shape("text.words.weight")
    patch, cells = shape("visual.patches.weight")[-1], shape("visual.spatial")[0]
    layers = 1 + max((int(n.split(".")[2]) for n in state if n.startswith("model.layers.")), default=-1)
    hidden = shape("layers.0.fc1.bias")[-1]
    side = math.isqrt(cells)
    slot, end = (vocabulary - 1, vocabulary - 4) if vocabulary == _PUBLISHED_WORDS else _TRAINED
    learned = any(name.startswith("model.likelihood.scales.") for name in state)
    return UniPerceiverConfig(
        image_size=side * patch,
        patch_size=patch,
        max_frames=shape("visual.temporal.weight")[0],
        width=width,
        layers=layers,
        heads=heads or max(width // _PER_HEAD, 1),
        hidden=hidden,
        vocab_size=vocabulary,
        max_text_tokens=shape("text.positions.weight")[0],
        slot=slot,
        end=end,
        share_norm="model.visual.norm.weight" not in state,
        grid_scale=_scale_of(state["model.visual.spatial"], side) or 1.0,
        temperature=0.07 if learned else 0.03,
        learn_temperatures=learned,
        experts=_experts(state, layers),
        prompts=_prompts(state),
    )


def _experts(state: Mapping[str, Tensor], layers: int) -> ConditionalConfig:
    with_gates = [n for n in range(layers) if f"model.layers.{n}.qkv.gate.weight" in state]
    if not with_gates:
        return ConditionalConfig()
    count = len(state[f"model.layers.{with_gates[0]}.qkv.gate.weight"])
    for kind, step in (("all", 1), ("odd", 2), ("four", 4)):
        if with_gates == list(range(0, layers, step)):
            return ConditionalConfig.model_validate({"layers": kind, "experts": count})
    raise CheckpointError(
        f"layers {with_gates} of {layers} have experts; expected all, every second or fourth"
    )


def _prompts(state: Mapping[str, Tensor]) -> PromptConfig:
    def rows(name: str) -> int:
        found = state.get(f"model.{name}")
        return 0 if found is None else len(found)

    return PromptConfig(
        deep=rows("layers.0.prompt"),
        deep_targets=rows("layers.0.target_prompt"),
        slot_bias="model.text.slot_bias" in state,
        labels=rows("label_prompt"),
        classes=rows("classifier.bias"),
    )


def _scale_of(table: Tensor, side: int) -> float | None:
    """Return the factor on coordinates that a table of the formula was made with; None: it was not."""
    if side < 2:
        return None
    # The first channel of the second row is the sine of its coordinate.
    scale = math.asin(min(max(float(table[side, 0]), -1.0), 1.0))
    made = sine_grid(side, table.shape[1], scale or 1.0)
    return round(scale, 6) if scale > 0 and float((made - table.float()).abs().max()) < _SAME else None


def _resized(
    config: UniPerceiverConfig, state: dict[str, Tensor], image_size: int
) -> tuple[UniPerceiverConfig, dict[str, Tensor]]:
    if image_size % config.patch_size:
        raise CheckpointError(f"image size {image_size}: expected a multiple of {config.patch_size}, a patch")
    table, side = state["model.visual.spatial"], image_size // config.patch_size
    scale = _scale_of(table, config.side)
    found = dict(state)
    if scale is None:
        found["model.visual.spatial"] = resize_grid(table, side)
    else:
        scale *= config.side / side
        found["model.visual.spatial"] = sine_grid(side, config.width, scale)
    return config.with_(image_size=image_size, grid_scale=scale or 1.0), fit_tables(
        found, side, config.max_frames
    )


def _check(config: UniPerceiverConfig, state: Mapping[str, Tensor], path: Path) -> None:
    with torch.device("meta"):
        own = UniPerceiverModel(config).state_dict()
    expected: dict[str, Any] = {f"model.{name}": tensor.shape for name, tensor in own.items()}
    found = {name: tensor.shape for name, tensor in state.items()}
    if found != expected:
        wrong = sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
        raise CheckpointError(
            f"{path}: {len(wrong)} tensors missing, too many or of the wrong shape: {', '.join(wrong[:6])}"
        )
