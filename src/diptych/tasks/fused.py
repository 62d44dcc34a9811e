"""What tasks that classify fused pairs share: pictures at the model's size, and controls without one input.

Legend: B samples, L text tokens, P image tokens, D width.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from diptych.data.batch import Batch
from diptych.data.image import normalise
from diptych.data.text import Tokenizer
from diptych.errors import UsageError
from diptych.objectives.pictures import blank_outside
from diptych.systems.protocol import Encoded, VisionLanguageModel, Visual

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


def embed_batch(model: VisionLanguageModel, batch: Batch, blind: Blind, *, share: bool) -> Tensor | Visual:
    """Embed the pictures of a batch; with `share` those that several rows show once.

    Args:
        model: the system's.
        batch: rows of one key whose pixels are equal show the same picture.
        blind: as `normal_pictures`.
        share: embed equal pictures once. Random parts of the model are then drawn once for all their rows.

    Raises:
        UsageError: as `normal_pictures`.
    """
    assert batch.images is not None  # the engine checks `batch_fields`
    if share:
        first, row = equal_pictures(batch.keys, batch.images)
        if len(first) < len(row):
            chosen = torch.tensor(first, device=batch.images.device)
            sizes = None if batch.image_sizes is None else batch.image_sizes[chosen]
            visual = embed_pictures(model, batch.images[chosen], blind, sizes)
            return visual[torch.tensor(row, device=batch.images.device)]
    return embed_pictures(model, batch.images, blind, batch.image_sizes)


def equal_pictures(keys: Sequence[str], images: Tensor) -> tuple[list[int], list[int]]:
    """Return the first rows of different pictures, and which of these each row shows.

    Args:
        keys: [B]; rows of different keys are different.
        images: [B, ...]; rows of one key are equal or not (cropped at other places).
    """
    first: list[int] = []
    row: list[int] = []
    of_key: dict[str, list[int]] = {}
    for i, key in enumerate(keys):
        known = of_key.setdefault(key, [])
        found = next((number for number in known if torch.equal(images[first[number]], images[i])), None)
        if found is None:
            found = len(first)
            first.append(i)
            known.append(found)
        row.append(found)
    return first, row


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
    """Return ids and mask [B, L] as they are; where `blind` is text, those of empty texts."""
    if blind != "text":
        return ids, mask
    shown = [tokenizer.cls_id, tokenizer.sep_id] if tokenizer.opens else [tokenizer.sep_id]
    empty = torch.full_like(ids, tokenizer.pad_id)
    empty[:, : len(shown)] = torch.tensor(shown, device=ids.device)
    return empty, (torch.arange(ids.shape[1], device=ids.device) < len(shown)).expand_as(mask)


def own_features(encoded: Encoded) -> Tensor:
    """Return the vectors of a model that needs no head for them; of a picture in parts their mean."""
    return encoded.pooled if encoded.parts is None else nn.functional.normalize(encoded.parts.mean(1), dim=-1)
