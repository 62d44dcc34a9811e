"""What tasks that classify fused pairs share: pictures at the model's size, and controls without one input.

Legend: B samples, L text tokens, P image tokens, D width.
"""

from typing import Literal

import torch
from torch import Tensor

from diptych.data.image import normalise
from diptych.data.text import Tokenizer
from diptych.errors import UsageError
from diptych.objectives.pictures import blank_outside
from diptych.systems.protocol import VisionLanguageModel, Visual

Blind = Literal["none", "image", "text"]
"""What a control does not see: pictures are grey, texts empty."""


def embed_pictures(
    model: VisionLanguageModel, images: Tensor, blind: Blind = "none", sizes: Tensor | None = None
) -> Tensor | Visual:
    """Normalise pictures [B, 3, H, W], or clips [B, N, 3, H, W]; embed them, where the model can.

    Args and errors as `normal_pictures`.
    """
    pixels = normal_pictures(model, images, blind, sizes)
    return model.embed_visual(pixels, sizes) if "embed_visual" in model.capabilities else pixels


def normal_pictures(
    model: VisionLanguageModel, images: Tensor, blind: Blind = "none", sizes: Tensor | None = None
) -> Tensor:
    """Normalise pictures [B, 3, H, W] (uint8, or float in 0..1) as the model wants them.

    Args:
        model: the system's.
        images: the pictures, uint8 or float in 0..1.
        blind: `image`: the model sees grey.
        sizes: [B, 2] int64, [B, N, 2] for clips: height and width of pictures that are padded
            (`Batch.image_sizes`).

    Raises:
        UsageError: pictures of another size than the model reads, or more frames.
    """
    spec = model.image_spec
    if images.ndim == 5 and images.shape[1] > spec.frames:
        reads = f"at most {spec.frames}" if spec.frames else "pictures alone"
        raise UsageError(
            f"data.video.frames: clips of {images.shape[1]} frames, but the model reads {reads}; "
            f"set data.video.frames={spec.frames}"
        )
    if spec.sizes == "square" and images.shape[-2:] != (spec.size, spec.size):
        raise UsageError(
            f"data.image.size: pictures of {images.shape[-2]} x {images.shape[-1]} pixels, but the model "
            f"reads {spec.size} x {spec.size}; set data.image.size={spec.size}"
        )
    pixels = normalise(images, spec)
    if blind == "image":
        pixels = torch.zeros_like(pixels)
    elif sizes is not None:
        pixels = blank_outside(pixels, sizes)
    return pixels


def visible_text(ids: Tensor, mask: Tensor, tokenizer: Tokenizer, blind: Blind) -> tuple[Tensor, Tensor]:
    """Return ids and mask [B, L] as they are; where `blind` is text, of empty texts (start and end token)."""
    if blind != "text":
        return ids, mask
    empty = torch.full_like(ids, tokenizer.pad_id)
    empty[:, 0], empty[:, 1] = tokenizer.cls_id, tokenizer.sep_id
    return empty, (torch.arange(ids.shape[1], device=ids.device) < 2).expand_as(mask)
