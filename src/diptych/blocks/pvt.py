"""Pyramid Vision Transformer v2: stages of ever fewer tokens, attention to a smaller copy of the map.

Wang et al., "PVT v2" (2022). Legend: B pictures, h and w rows and columns, N = h w tokens, C channels.
"""

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from diptych.config.schema import Section

STRIDE = 32
"""Pixels along the side of a cell of the last map."""
PvtName = Literal["b0", "b1", "b2", "b2_li", "b3", "b4", "b5"]


class PvtConfig(Section):
    """A pyramid transformer. The defaults are `b2`; `named` gives the others."""

    widths: tuple[int, ...] = Field((64, 128, 320, 512), description="Channels of each stage.")
    depths: tuple[int, ...] = Field((3, 4, 6, 3), description="Blocks of each stage.")
    heads: tuple[int, ...] = Field((1, 2, 5, 8), description="Attention heads of each stage.")
    mlp_ratios: tuple[float, ...] = Field(
        (8, 8, 4, 4), description="Hidden width of the perceptrons over their input, of each stage."
    )
    reductions: tuple[int, ...] = Field(
        (8, 4, 2, 1), description="By how much keys and values are coarser than queries, of each stage."
    )
    linear: bool = Field(
        False, description="Keys and values on a map of 7 x 7 whatever the picture's size (`b2_li`)."
    )
    eps: float = Field(1e-6, gt=0, description="Of the norms of tokens.")


_WIDE = {"widths": (64, 128, 320, 512), "heads": (1, 2, 5, 8)}
_NAMED: dict[PvtName, dict[str, object]] = {
    "b0": {"widths": (32, 64, 160, 256), "heads": (1, 2, 5, 8), "depths": (2, 2, 2, 2)},
    "b1": {**_WIDE, "depths": (2, 2, 2, 2)},
    "b2": {**_WIDE, "depths": (3, 4, 6, 3)},
    "b2_li": {**_WIDE, "depths": (3, 4, 6, 3), "linear": True},
    "b3": {**_WIDE, "depths": (3, 4, 18, 3)},
    "b4": {**_WIDE, "depths": (3, 8, 27, 3)},
    "b5": {**_WIDE, "depths": (3, 6, 40, 3), "mlp_ratios": (4, 4, 4, 4)},
}


def named(name: PvtName) -> PvtConfig:
    """Return a published size."""
    return PvtConfig.model_validate(_NAMED[name])


class OverlappingPatches(nn.Module):
    """A convolution whose patches overlap, and a norm."""

    def __init__(self, inputs: int, width: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(inputs, width, kernel, stride, kernel // 2)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Turn [B, C, H, W] into [B, h, w, C']."""
        out: Tensor = self.norm(self.proj(x).permute(0, 2, 3, 1))
        return out


class ReducedAttention(nn.Module):
    """Attention from every token to a coarser copy of the map."""

    def __init__(self, width: int, heads: int, reduction: int, *, linear: bool) -> None:
        super().__init__()
        self.heads, self.linear = heads, linear
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.sr: nn.Conv2d | None = None
        self.norm: nn.LayerNorm | None = None
        if linear:
            self.sr = nn.Conv2d(width, width, 1)
        elif reduction > 1:
            self.sr = nn.Conv2d(width, width, reduction, reduction)
        if self.sr is not None:
            self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within [B, h, w, C]."""
        B, h, w, C = x.shape
        q = self.q(x).view(B, h * w, self.heads, C // self.heads).transpose(1, 2)
        k, v = self.kv(self._coarse(x)).view(B, -1, 2, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(y.transpose(1, 2).reshape(B, h, w, C))
        return out

    def _coarse(self, x: Tensor) -> Tensor:
        if self.sr is None or self.norm is None:
            return x
        y = x.permute(0, 3, 1, 2)
        y = self.norm(self.sr(F.adaptive_avg_pool2d(y, 7) if self.linear else y).permute(0, 2, 3, 1))
        return F.gelu(y) if self.linear else y


class DepthwiseConv(nn.Module):
    """A 3x3 convolution of each channel by itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 3, 1, 1, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, h, w, C]."""
        out: Tensor = self.dwconv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return out


class ConvMlp(nn.Module):
    """Two layers with a convolution of each channel between them."""

    def __init__(self, width: int, hidden: int, *, linear: bool) -> None:
        super().__init__()
        self.linear = linear
        self.fc1 = nn.Linear(width, hidden)
        self.dwconv = DepthwiseConv(hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, h, w, C]."""
        y = self.fc1(x)
        out: Tensor = self.fc2(F.gelu(self.dwconv(F.relu(y) if self.linear else y)))
        return out


class PvtBlock(nn.Module):
    """Attention, then a perceptron, each with its norm before it."""

    def __init__(self, stage: int, config: PvtConfig) -> None:
        super().__init__()
        width, linear = config.widths[stage], config.linear
        self.norm1 = nn.LayerNorm(width, eps=config.eps)
        self.attn = ReducedAttention(width, config.heads[stage], config.reductions[stage], linear=linear)
        self.norm2 = nn.LayerNorm(width, eps=config.eps)
        self.mlp = ConvMlp(width, int(width * config.mlp_ratios[stage]), linear=linear)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, h, w, C]."""
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Pvt(nn.Module):
    """Pictures to the map of the last stage, 1/32 of their size. Parameters have the published names."""

    def __init__(self, config: PvtConfig) -> None:
        super().__init__()
        self.config = config
        inputs = 3
        for stage, width in enumerate(config.widths):
            kernel, stride = (7, 4) if stage == 0 else (3, 2)
            self.add_module(f"patch_embed{stage + 1}", OverlappingPatches(inputs, width, kernel, stride))
            blocks = nn.ModuleList(PvtBlock(stage, config) for _ in range(config.depths[stage]))
            self.add_module(f"block{stage + 1}", blocks)
            self.add_module(f"norm{stage + 1}", nn.LayerNorm(width, eps=config.eps))
            inputs = width
        self.out_channels = inputs
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Conv2d):
                outputs = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=(2 / outputs) ** 0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Turn normalised pictures [B, 3, H, W] into [B, C, H / 32, W / 32]."""
        x = images
        for stage in range(1, len(self.config.widths) + 1):
            x = self.get_submodule(f"patch_embed{stage}")(x)
            for block in self.get_submodule(f"block{stage}").children():
                x = block(x)
            x = self.get_submodule(f"norm{stage}")(x).permute(0, 3, 1, 2)
        return x
