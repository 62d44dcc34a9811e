"""The models of others whose training steps `train_step.py` measures."""

import importlib.util
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TorchClip(nn.Module):
    """ViT-B/16 and the text tower of CLIP made of torch's own transformer layers."""

    def __init__(self, size: int, words: int, length: int, *, toy: bool) -> None:
        super().__init__()
        width, text_width, layers, patch = (32, 32, 2, 8) if toy else (768, 512, 12, 16)
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.image_positions = nn.Parameter(torch.randn((size // patch) ** 2 + 1, width) * 0.02)
        self.class_token = nn.Parameter(torch.zeros(width))
        self.words = nn.Embedding(words, text_width)
        self.text_positions = nn.Parameter(torch.randn(length, text_width) * 0.02)
        self.image_tower = self._tower(width, layers)
        self.text_tower = self._tower(text_width, layers)
        self.image_out = nn.Linear(width, text_width, bias=False)
        self.text_out = nn.Linear(text_width, text_width, bias=False)
        self.scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    @staticmethod
    def _tower(width: int, layers: int) -> nn.Module:
        layer = nn.TransformerEncoderLayer(
            width, max(width // 64, 1), 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        return nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)

    def forward(self, images: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return features [B, D] of pictures and texts, each of length 1, and the scale of their products."""
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(len(x), 1, -1).to(x.dtype), x], 1) + self.image_positions
        y = self.words(ids) + self.text_positions[: ids.shape[1]]
        image = F.normalize(self.image_out(self.image_tower(x)[:, 0]), dim=-1)
        return image, F.normalize(self.text_out(self.text_tower(y)[:, 0]), dim=-1), self.scale.exp()


def contrast(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Return CLIP's loss of features [B, D]."""
    logits = scale * image @ text.t()
    right = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits.t(), right)) / 2


def build_peer(name: str, size: int, ids: Tensor, *, toy: bool) -> tuple[nn.Module, Callable[..., Tensor]]:
    """Return a peer's model and its loss of (model, pictures, texts).

    Args:
        name: one of `peers_here`.
        size: side of the pictures.
        ids: the texts [B, L] int64 that it will be given.
        toy: a small one.
    """
    if name == "timm-vit-b16":
        import timm

        labels = torch.arange(len(ids), device=ids.device) % 1000
        model = timm.create_model("vit_base_patch16_224")
        return model, lambda forward, images, ids: F.cross_entropy(forward(images), labels)
    if name == "open_clip-vit-b16":
        import open_clip

        model = open_clip.create_model("ViT-B-16")
        length = model.context_length
        padded = F.pad(ids[:, :length], (0, max(0, length - ids.shape[1])))
        return model, lambda forward, images, ids: contrast(*forward(images, padded)[:3])
    model = TorchClip(size, 49408, 77, toy=toy)
    return model, lambda forward, images, ids: contrast(*forward(images, ids))


def peers_here(toy: bool) -> list[str]:
    """Return the peers that can run."""
    if toy:
        return ["torch-vit-b16-clip"]
    found = ["open_clip-vit-b16" if importlib.util.find_spec("open_clip") else "torch-vit-b16-clip"]
    return found + (["timm-vit-b16"] if importlib.util.find_spec("timm") else [])
