"""BERT's parts: embeddings of text, and the post-norm layer.

Legend: B batch, L text tokens, S sequence, D width.
"""

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor, nn

from diptych.blocks.products import Linear
from diptych.blocks.tied import TiedTable

EPS = 1e-12


class BertEmbedding(nn.Module):
    """Words, positions and types added up, normalised."""

    def __init__(self, vocab_size: int, positions: int, types: int, width: int, dropout: float) -> None:
        super().__init__()
        self.words = nn.Embedding(vocab_size, width, padding_idx=0)
        self.positions = nn.Embedding(positions, width)
        self.types = nn.Embedding(types, width)
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids: Tensor, types: Tensor | None = None, *, table: TiedTable | None = None) -> Tensor:
        """Embed token ids [B, L] int64, of types [B, L] int64 or all of type 0; [B, L, D].

        `table`: that of the words, where it is multiplied with in the same step; see `tied`.
        """
        words = self.words(ids) if table is None else table.look_up(ids)
        if types is None:
            return self.place(words)
        return self._finish(words + self.types(types))

    def tied(self) -> TiedTable:
        """Return the table of words for a step that looks words up and multiplies with all of them."""
        return TiedTable(self.words.weight, self.words.padding_idx)

    def place(self, vectors: Tensor, kind: int = 0) -> Tensor:
        """Embed vectors [B, L, D] in the place of words, all of one type."""
        return self._finish(vectors + self.types.weight[kind])

    def _finish(self, x: Tensor) -> Tensor:
        out: Tensor = self.dropout(self.norm(x + self.positions.weight[: x.shape[1]]))
        return out


class BertLayer(nn.Module):
    """Attention and feed-forward network, each with its norm behind the sum."""

    def __init__(
        self, width: int, heads: int, hidden: int, dropout: float = 0.1, attention_dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.heads, self.attention_dropout = heads, attention_dropout
        self.query = Linear(width, width)
        self.key = Linear(width, width)
        self.value = Linear(width, width)
        self.proj = Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.fc1 = Linear(width, hidden)
        self.fc2 = Linear(hidden, width)
        self.ffn_norm = nn.LayerNorm(width, eps=EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None, at: Tensor | None = None) -> Tensor:
        """Return the next states [B, S, D].

        Args:
            x: the states [B, S, D].
            mask: [B, S] bool, True at keys that may be read; [B, S, S], True where query i may read key j;
                None: all may be read.
            at: [B, N] int64, the places whose next states are wanted; the others are read, but not computed,
                and [B, N, D] is returned. The mask is one of keys then.
        """
        asking = x if at is None else x.gather(1, at[..., None].expand(-1, -1, x.shape[2]))
        x = self.norm(asking + self.dropout(self.proj(self._attend(asking, x, mask))))
        out: Tensor = self.ffn_norm(x + self.dropout(self.fc2(F.gelu(self.fc1(x)))))
        return out

    def attention(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return who attends to whom in [B, S, D], [B, heads, S, S] float32 (query, key), without dropout."""
        B, S, D = x.shape
        q, k = (
            part(x).view(B, S, self.heads, D // self.heads).transpose(1, 2) for part in (self.query, self.key)
        )
        scores = (q @ k.transpose(2, 3)).float() * (D // self.heads) ** -0.5
        if mask is not None:
            readable = mask[:, None, None, :] if mask.dim() == 2 else mask[:, None]
            scores = scores.masked_fill(~readable, float("-inf"))
        found: Tensor = scores.softmax(-1)
        return found

    def _attend(self, asking: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
        B, N, D = asking.shape
        q, k, v = (
            part(of).view(B, -1, self.heads, D // self.heads).transpose(1, 2)
            for part, of in ((self.query, asking), (self.key, x), (self.value, x))
        )  # [B, heads, N or S, head]
        if mask is not None:
            mask = mask[:, None, None, :] if mask.dim() == 2 else mask[:, None]
        dropped = self.attention_dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropped)
        return y.transpose(1, 2).reshape(B, N, D)


def draw_bert(modules: Iterable[nn.Module], std: float = 0.02) -> None:
    """Fill the linear layers and tables among `modules` in place as BERT does; biases become zero."""
    for module in modules:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=std)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


BERT_LAYER = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "proj",
    "attention.output.LayerNorm": "norm",
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
    "output.LayerNorm": "ffn_norm",
}
"""Parts of a layer: name in BERT checkpoints -> ours."""
BERT_EMBEDDING = {
    "word_embeddings": "words",
    "position_embeddings": "positions",
    "token_type_embeddings": "types",
    "LayerNorm": "norm",
}
"""Parts of the embedding: name in BERT checkpoints -> ours."""


def bert_name(name: str, embedding: str = "text", layers: str = "layers") -> str | None:
    """Return our name of a weight of a BERT checkpoint (`embeddings.*`, `encoder.layer.N.*`), if it has one.

    Args:
        name: without what comes before `embeddings` or `encoder`.
        embedding: our module of the embedding.
        layers: our list of layers.
    """
    part, _, kind = name.rpartition(".")
    if part.startswith("embeddings."):
        own = BERT_EMBEDDING.get(part.removeprefix("embeddings."))
        return None if own is None else f"{embedding}.{own}.{kind}"
    if part.startswith("encoder.layer."):
        number, _, rest = part.removeprefix("encoder.layer.").partition(".")
        own = BERT_LAYER.get(rest)
        return None if own is None else f"{layers}.{number}.{own}.{kind}"
    return None


def bert_original(name: str, embedding: str = "text", layers: str = "layers") -> str | None:
    """Undo `bert_name`."""
    part, _, kind = name.rpartition(".")
    if part.startswith(f"{embedding}."):
        back = {ours: theirs for theirs, ours in BERT_EMBEDDING.items()}
        theirs = back.get(part.removeprefix(f"{embedding}."))
        return None if theirs is None else f"embeddings.{theirs}.{kind}"
    if part.startswith(f"{layers}."):
        number, _, rest = part.removeprefix(f"{layers}.").partition(".")
        back = {ours: theirs for theirs, ours in BERT_LAYER.items()}
        theirs = back.get(rest)
        return None if theirs is None else f"encoder.layer.{number}.{theirs}.{kind}"
    return None
