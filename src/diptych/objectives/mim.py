"""Masked image modelling on pixels: paint the hidden patches.

Legend: B batch, N patches of a picture (rows first), M hidden ones of each picture, K = 3 * cell * cell
values of a patch, P = N + 1 image tokens with the class token, L text tokens, D width, W decoder width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.blocks.collective import ALONE, World
from diptych.blocks.init import draw_linears, draw_vector
from diptych.blocks.transformer import TransformerLayer


def patchify(images: Tensor, cell: int) -> Tensor:
    """Cut pictures [B, 3, H, W] into patches [B, N, K] of `cell` x `cell` pixels (channel, row, column)."""
    return F.unfold(images, cell, stride=cell).transpose(1, 2)


def unpatchify(patches: Tensor, cell: int, size: int) -> Tensor:
    """Undo `patchify`: [B, N, K] -> [B, 3, size, size]."""
    return F.fold(patches.transpose(1, 2), size, cell, stride=cell)


def blank_patches(images: Tensor, hidden: Tensor, cell: int) -> Tensor:
    """Set the pixels of hidden patches to 0, the mean colour of normalised pictures.

    Args:
        images: [B, 3, H, W].
        hidden: [B, N] bool.
        cell: side of a patch in pixels.
    """
    rows, columns = images.shape[-2] // cell, images.shape[-1] // cell
    grid = hidden.view(-1, 1, rows, columns)
    pixels = grid.repeat_interleave(cell, 2).repeat_interleave(cell, 3)
    return images.masked_fill(pixels, 0.0)


def normalise_patches(patches: Tensor) -> Tensor:
    """Give every patch [..., K] mean 0 and variance 1 over its values (a flat one becomes zeros)."""
    centred = patches - patches.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def gather_rows(x: Tensor, rows: Tensor) -> Tensor:
    """Pick rows [B, M] int64 of [B, N, D]; [B, M, D]."""
    return x.gather(1, rows[:, :, None].expand(-1, -1, x.shape[2]))


def split_patches(hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Return the visible [B, N - M] and hidden [B, M] patch numbers (int64, ascending) of a mask [B, N] bool.

    Every row must hide equally many patches.
    """
    order = hidden.int().argsort(dim=1, stable=True)
    visible = hidden.shape[1] - int(hidden[0].sum())
    return order[:, :visible], order[:, visible:]


def mim_loss(predicted: Tensor, target: Tensor, world: World = ALONE) -> Tensor:
    """Return the mean squared error over all values of hidden patches [B, M, K] (scalar; 0 if M is 0).

    With several ranks: this rank's share of the mean over the hidden patches of all (`World.mean`).
    """
    squares = F.mse_loss(predicted.float(), target.float(), reduction="sum")
    return world.mean(squares, predicted.numel())


class MaskedImageDecoder(nn.Module):
    """A light transformer that paints hidden patches from what the encoder made of the visible tokens.

    With `layers=0` it is a perceptron on the tokens of hidden patches, which the encoder must then have read.
    """

    def __init__(
        self,
        width: int,
        patches: int,
        values: int,
        *,
        decoder_width: int,
        layers: int,
        heads: int,
        replaced: bool,
    ) -> None:
        """Create the decoder.

        Args:
            width: D.
            patches: N.
            values: K.
            decoder_width: W.
            layers: transformer layers of width W.
            heads: their attention heads.
            replaced: hold the vector that stands for hidden patches in the encoder (`replacement`), whose
                outputs are then read; otherwise the decoder puts a vector of its own in their places.
        """
        super().__init__()
        self.project = nn.Linear(width, decoder_width)
        self.layers = nn.ModuleList(
            TransformerLayer(decoder_width, heads, 4 * decoder_width, "gelu") for _ in range(layers)
        )
        self.replacement = nn.Parameter(torch.empty(width)) if replaced else None
        self.hidden = nn.Parameter(torch.empty(decoder_width)) if layers and not replaced else None
        for vector in (self.replacement, self.hidden):
            if vector is not None:
                draw_vector(vector)
        if layers:
            self.positions = nn.Parameter(torch.empty(patches, decoder_width))
            draw_vector(self.positions)
        self.norm = nn.LayerNorm(decoder_width, eps=1e-6)
        self.paint = nn.Linear(decoder_width, values)
        draw_linears(self.modules(), "fan_in")

    def forward(
        self, tokens: Tensor, hidden: Tensor, text: Tensor | None = None, text_mask: Tensor | None = None
    ) -> Tensor:
        """Return the hidden patches [B, M, K], in ascending order.

        Args:
            tokens: [B, P, D], or [B, 1 + N - M, D] where the encoder read visible patches only.
            hidden: [B, N] bool, equally many in each row.
            text: [B, L, D] encoded text to look at too.
            text_mask: [B, L] bool, False at padding.
        """
        visible_rows, hidden_rows = split_patches(hidden)
        y = self.project(tokens)
        if not self.layers:
            return self._paint(F.gelu(gather_rows(y[:, 1:], hidden_rows)))
        patches = y[:, 1:]
        if self.hidden is not None:
            empty = self.hidden.to(y.dtype).expand(hidden.shape[0], hidden.shape[1], -1)
            patches = empty.scatter(1, visible_rows[:, :, None].expand_as(patches), patches)
        sequence = [y[:, :1], patches + self.positions]
        mask = None
        if text is not None and text_mask is not None:
            sequence.append(self.project(text))
            seen = torch.ones(hidden.shape[0], 1 + hidden.shape[1], dtype=torch.bool, device=hidden.device)
            mask = torch.cat([seen, text_mask], 1)
        x = torch.cat(sequence, 1)
        for layer in self.layers:
            x = layer(x, mask)
        return self._paint(gather_rows(x[:, 1 : 1 + hidden.shape[1]], hidden_rows))

    def _paint(self, x: Tensor) -> Tensor:
        out: Tensor = self.paint(self.norm(x))
        return out
