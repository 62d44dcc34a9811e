"""Checkpoints in EVE's published layout, made from the reference page alone (sections 1.1 and 3.1)."""

import torch
from torch import Tensor

from diptych.systems.eve.config import EveConfig

SMALL = EveConfig(
    image_size=32,
    patch_size=8,
    width=64,
    layers=3,
    heads=1,
    hidden=40,
    vocab_size=50,
    max_text_tokens=12,
    moe_layers=(2,),
    experts=3,
)


def published_shapes(config: EveConfig) -> dict[str, tuple[int, ...]]:
    """Return the keys and shapes of the reference page, section 3.1, with retrieval heads."""
    D, H, E = config.width, config.hidden, config.experts
    rows = 1 + (config.image_size // config.patch_size) ** 2
    shapes: dict[str, tuple[int, ...]] = {
        "class_embedding_vision": (D,),
        "type_embed_vision": (D,),
        "type_embed_text": (D,),
        "pos_embed_vision": (rows, D),
        "pos_embed_text": (config.max_text_tokens, D),
        "position_ids_vision": (1, rows),
        "position_ids_text": (config.max_text_tokens,),
        "patch_embed.weight": (D, 3, config.patch_size, config.patch_size),
        "patch_embed.bias": (D,),
        "word_embedding.weight": (config.vocab_size, D),
    }
    for norm in ("layer_norm_text", "pre_layrnorm", "norm"):
        shapes |= {f"{norm}.weight": (D,), f"{norm}.bias": (D,)}
    mlp = {"fc1.weight": (H, D), "fc1.bias": (H,), "fc2.weight": (D, H), "fc2.bias": (D,)}
    for i in range(config.layers):
        layer: dict[str, tuple[int, ...]] = {"gamma_1": (D,), "gamma_2": (D,)}
        layer |= {"attn.q_bias": (D,), "attn.v_bias": (D,), "attn.qkv.weight": (3 * D, D)}
        layer |= {"attn.proj.weight": (D, D), "attn.proj.bias": (D,)}
        upper = i in config.moe_layers
        for norm in ["norm1", *(["norm2_vl"] if upper else ["norm2_imag", "norm2_text"])]:
            layer |= {f"{norm}.weight": (D,), f"{norm}.bias": (D,)}
        if upper:
            moe = {"gate.wg.weight": (E, D), "vision_embed": (D,), "text_embed": (D,)}
            moe |= {f"experts.experts.{e}.{n}": s for e in range(E) for n, s in mlp.items()}
            layer |= {f"mlp_moe.moe.{n}": s for n, s in moe.items()}
        else:
            layer |= {f"{m}.{n}": s for m in ("mlp_imag", "mlp_text") for n, s in mlp.items()}
        shapes |= {f"encoder.layers.{i}.{n}": s for n, s in layer.items()}
    heads = {"itc_temp": (), "itc_vision_proj_head.weight": (D, D), "itc_text_proj_head.weight": (D, D)}
    heads |= {"itm_head.weight": (2, D), "itm_head.bias": (2,)}
    return {f"backbone.{n}": s for n, s in shapes.items()} | heads


def published_checkpoint(config: EveConfig = SMALL) -> dict[str, Tensor]:
    """Return random weights in the published layout, made from shapes alone (not by renaming our weights)."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.arange(shape[-1]).view(shape)
        if "position_ids" in name
        else torch.randn(shape, generator=generator)
        for name, shape in published_shapes(config).items()
    }


def answer_heads(kind: str, width: int = 64) -> dict[str, Tensor]:
    """Return random heads in the published layout, shapes of the reference page, section 3.1."""
    D, shapes = width, dict[str, tuple[int, ...]]()
    if kind == "nlvr_biattn":
        shapes = {
            f"attn{i}.{name}": shape
            for i in (1, 2)
            for name, shape in {
                "in_proj_weight": (3 * D, D),
                "in_proj_bias": (3 * D,),
                "out_proj.weight": (D, D),
                "out_proj.bias": (D,),
            }.items()
        }
        shapes |= {"fc.0.weight": (D, 2 * D), "fc.0.bias": (D,)}
        shapes |= {"attn_pool.fc.0.weight": (1, D), "attn_pool.fc.0.bias": (1,)}
        shapes |= {"nlvr2_output.weight": (2, 2 * D), "nlvr2_output.bias": (2,)}
    else:
        read, classes = (D, 19) if kind == "vqa" else (2 * D, 2)
        shapes = {"output.0.weight": (2 * D, read), "output.0.bias": (2 * D,)}
        shapes |= {"output.1.weight": (2 * D,), "output.1.bias": (2 * D,)}
        shapes |= {"output.3.weight": (classes, 2 * D), "output.3.bias": (classes,)}
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def assert_same(ours: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert ours.keys() == expected.keys()
    for name, tensor in expected.items():
        assert ours[name].dtype == tensor.dtype, name
        assert torch.equal(ours[name], tensor), name
