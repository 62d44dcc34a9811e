"""What several kinds of SNP-S3 cases share: configurations, weights through the converter, comparisons."""

from collections.abc import Mapping
from typing import Any

import torch
from tests.parity.runner import Case, Comparison, gradient
from torch import Tensor, nn

from diptych.blocks.pvt import PvtConfig
from diptych.blocks.resnet import ResNetConfig
from diptych.blocks.video_swin import VideoSwinConfig
from diptych.systems.snps3.config import SnpS3Config
from diptych.systems.snps3.convert import bare, from_published, our_name, to_published


def system_config(published: Mapping[str, Any]) -> SnpS3Config:
    """Translate the configuration of a case."""
    bert, image = published["bert"], published["image_encoder"]
    chosen: dict[str, Any] = {}
    if image["kind"] == "swin":
        chosen = {
            "encoder": "swin",
            "swin": VideoSwinConfig(
                width=image["embed_dim"],
                depths=tuple(image["depths"]),
                heads=tuple(image["num_heads"]),
                window=tuple(image["window_size"]),
                patch=tuple(image["patch_size"]),
                mlp_ratio=image["mlp_ratio"],
                eps=image["ln_eps"],
                drop_path=0.0,
            ),
        }
    elif image["kind"] == "pvt":
        chosen = {
            "encoder": "pvt",
            "pvt": PvtConfig(
                widths=tuple(image["embed_dims"]),
                heads=tuple(image["num_heads"]),
                depths=tuple(image["depths"]),
                mlp_ratios=tuple(image["mlp_ratios"]),
                reductions=tuple(image["sr_ratios"]),
                eps=image["ln_eps"],
            ),
        }
    elif image["kind"] == "resnet":
        chosen = {
            "encoder": "resnet",
            "resnet": ResNetConfig(
                depth=50,
                stem_channels=image["stem"],
                widths=tuple(image["planes"]),
                blocks=tuple(image["blocks"]),
                norm="frozen" if image.get("frozen_bn", True) else "batch",
            ),
        }
    else:  # nothing of it is used
        chosen = {"swin": VideoSwinConfig(width=4, depths=(1, 1, 1, 1), heads=(1, 1, 1, 1))}
    return SnpS3Config(
        width=published["hidden"],
        layers=bert["layers"],
        heads=bert["heads"],
        hidden=bert["intermediate"],
        vocab_size=published["vocab"],
        max_text_tokens=bert["max_position"],
        dropout=bert.get("dropout", 0.0),
        attention_dropout=bert.get("dropout", 0.0),
        **chosen,
    )


def fill(module: nn.Module, case: Case, *, partly: bool = False) -> None:
    """Load the weights of a case through the converter; all of ours must be given, unless `partly`."""
    weights = {name: t.float() if t.is_floating_point() else t for name, t in case.under("w.").items()}
    imported = from_published(weights)
    assert not imported.ignored, imported.ignored
    own = module.state_dict()
    unknown = sorted(imported.state.keys() - own.keys())
    assert not unknown, unknown
    kept = (".ids", ".filled", "num_batches_tracked")
    lacking = sorted(n for n in own.keys() - imported.state.keys() if not n.endswith(kept))
    assert partly or not lacking, lacking
    module.load_state_dict(own | imported.state)


def frames_of(case: Case) -> tuple[Tensor, Tensor]:
    """Return the normalised frames [B, N, 3, H, W] and their padding [B, N, H, W] bool."""
    given = case.tensors
    return given["in.image_data_q"].float() / 32, given["in.image_pad_mask"].bool()


def texts_of(case: Case, name: str) -> tuple[Tensor, Tensor]:
    """Return ids int64 and mask bool of `in.<name>_ids`; the mask is that of the captions."""
    ids = case.tensors[f"in.{name}_ids"].long()
    masks = (f"in.{name}_mask", "in.caption_input_mask")
    return ids, next(case.tensors[m] for m in masks if m in case.tensors).bool()


def gradients(case: Case, module: nn.Module, encoder: str) -> list[Comparison]:
    """Compare the recorded gradients of parameters, under any of their published names."""
    found = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in module.named_parameters()}
    to_published(found, encoder)  # every parameter has a published name
    done = []
    for name, expected in case.under("grad.").items():
        ours = our_name(bare(name))
        assert ours is not None, name
        # A bias that shifts all scores alike changes no loss: its gradient is zero but for rounding.
        floor = 1e-2 if ours == "match.score.bias" else 1e-5
        done.append(gradient(f"grad.{name}", found[ours], expected, floor))
    return done
