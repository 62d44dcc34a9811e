"""Input embeddings of pictures and texts.

Legend: B batch, N picture tokens, P = N + 1 with the class token first, L text tokens, D width.
"""

import torch
from torch import Tensor, nn

from diptych.blocks.init import draw_vector
from diptych.blocks.stem import ConvStem, PatchStem
from diptych.errors import DataError


class VisualEmbedding(nn.Module):
    """Class token and stem tokens, with positions and a type vector."""

    def __init__(
        self, stem: PatchStem | ConvStem, width: int, *, class_mean: bool, position_std: float = 0.02
    ) -> None:
        """Create the tables; `class_mean` adds the mean of the picture's tokens to the class token (ours)."""
        super().__init__()
        self.stem = stem
        self.class_mean = class_mean
        self.class_token = nn.Parameter(torch.empty(width))
        self.positions = nn.Parameter(torch.empty(1 + stem.side**2, width))
        self.modality = nn.Parameter(torch.empty(width))
        draw_vector(self.class_token)
        draw_vector(self.positions, position_std)
        draw_vector(self.modality)

    def forward(self, images: Tensor, replaced: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Turn normalised pictures [B, 3, H, W] into [B, P, D].

        Args:
            images: the pictures.
            replaced: tokens [B, N] bool whose content gives way to a vector [D], keeping its position.

        Raises:
            DataError: the pictures do not have the model's size.
        """
        size = self.stem.side * self.stem.cell
        if images.shape[1:] != (3, size, size):
            raise DataError(
                f"pictures of shape {tuple(images.shape)}: expected [batch, 3, {size}, {size}];"
                f" set data.image.size={size} or build the model with system.image_size={images.shape[-1]}"
            )
        tokens = self.stem(images)
        if replaced is not None:
            hidden, vector = replaced
            tokens = torch.where(hidden[:, :, None], vector.to(tokens.dtype), tokens)
        first = self.class_token.to(tokens.dtype).expand(len(tokens), 1, -1)
        if self.class_mean:
            first = first + tokens.mean(1, keepdim=True)
        return torch.cat([first, tokens], 1) + (self.positions + self.modality)


class TextEmbedding(nn.Module):
    """Word vectors, normalised and dropped out, then positions and a type vector."""

    def __init__(
        self,
        vocab_size: int,
        max_tokens: int,
        width: int,
        *,
        dropout: float,
        eps: float,
        word_std: float,
        class_sum: bool,
        position_std: float = 0.02,
    ) -> None:
        """Create the tables; `class_sum` adds the sum of a text's words to its first token (ours)."""
        super().__init__()
        self.words = nn.Embedding(vocab_size, width)
        self.norm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(dropout)
        self.class_sum = class_sum
        self.positions = nn.Parameter(torch.empty(max_tokens, width))
        self.modality = nn.Parameter(torch.empty(width))
        nn.init.normal_(self.words.weight, std=word_std)
        draw_vector(self.positions, position_std)
        draw_vector(self.modality)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Turn token ids [B, L] int64 with their mask [B, L] bool into [B, L, D].

        Raises:
            DataError: more tokens than the position table has rows.
        """
        length = ids.shape[1]
        if length > len(self.positions):
            raise DataError(
                f"text of {length} tokens: expected at most {len(self.positions)};"
                f" lower data.text.max_tokens or raise system.max_text_tokens"
            )
        words: Tensor = self.dropout(self.norm(self.words(ids)))
        if self.class_sum:
            words = torch.cat([words[:, :1] + _scaled_sum(words[:, 1:], mask[:, 1:]), words[:, 1:]], 1)
        return words + (self.positions[:length] + self.modality)


def _scaled_sum(words: Tensor, mask: Tensor) -> Tensor:
    """Return [B, 1, D]: the sum of the real tokens over the root of their number."""
    kept = mask[:, :, None].to(words.dtype)
    return (words * kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True).clamp(min=1).sqrt()
