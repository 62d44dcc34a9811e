"""The Q-Former: learned queries that read pictures, in one BERT with texts (BLIP-2, VideoChat2).

Legend: B samples, Q queries, L text tokens, S = Q + L, V visual tokens, D width, C width of visual tokens.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from diptych.blocks.bert import draw_bert
from diptych.blocks.drop_path import DropPath
from diptych.config.schema import Section

EPS = 1e-12
Keys = tuple[Tensor, Tensor]
"""Keys and values of one layer's queries, each [B, Q, D]."""


class QFormerConfig(Section):
    """Sizes of a Q-Former. The defaults are VideoChat2's (BERT base)."""

    queries: int = Field(32, ge=1, description="Learned queries, as trained in stage 1.")
    extra_queries: int = Field(
        64, ge=0, description="Further queries that later stages add; stage 1 has none (set 0)."
    )
    width: int = Field(768, ge=1, description="Width of queries and words.")
    layers: int = Field(12, ge=1, description="Layers.")
    heads: int = Field(12, ge=1, description="Attention heads; they divide the width.")
    hidden: int = Field(3072, ge=1, description="Hidden width of the feed-forward networks.")
    cross_every: int = Field(
        2, ge=1, description="Every so many layers, from the first, look at the picture."
    )
    text: bool = Field(
        True,
        description="Whether it reads texts: captions in stage 1, the instruction in stage 3. Stage 2 of "
        "VideoChat2 goes without.",
    )
    vocab_size: int = Field(30523, ge=1, description="Rows of the word table (BERT's and [DEC]).")
    max_text_tokens: int = Field(512, ge=1, description="Rows of the position table.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout of embeddings, sublayers and attention.")
    drop_path: float = Field(0.2, ge=0, lt=1, description="Stochastic depth of the last layer.")
    query_std: float = Field(
        0.02,
        gt=0,
        description="Spread of fresh queries. The published stage 1 starts at 1.0, and the published extra "
        "queries at zero, all alike.",
    )

    @model_validator(mode="after")
    def _shapes(self) -> "QFormerConfig":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class _Attention(nn.Module):
    """Attention with its norm behind the sum; keys and values may come from elsewhere."""

    def __init__(self, config: QFormerConfig, source: int, drop_path: float) -> None:
        super().__init__()
        width = config.width
        self.heads, self.dropped = config.heads, config.dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(source, width)
        self.value = nn.Linear(source, width)
        self.proj = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.dropout, self.drop_path = nn.Dropout(config.dropout), DropPath(drop_path)

    def keys(self, source: Tensor) -> Keys:
        return self.key(source), self.value(source)

    def forward(self, x: Tensor, keys: Keys, mask: Tensor | None) -> Tensor:
        B, S, D = x.shape
        q, k, v = (
            part.view(B, -1, self.heads, D // self.heads).transpose(1, 2) for part in (self.query(x), *keys)
        )
        dropped = self.dropped if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropped)
        y = self.proj(y.transpose(1, 2).reshape(B, S, D))
        out: Tensor = self.norm(x + self.drop_path(self.dropout(y)))
        return out


class _FeedForward(nn.Module):
    """A feed-forward network with its norm behind the sum."""

    def __init__(self, config: QFormerConfig, drop_path: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.hidden)
        self.fc2 = nn.Linear(config.hidden, config.width)
        self.norm = nn.LayerNorm(config.width, eps=EPS)
        self.dropout, self.drop_path = nn.Dropout(config.dropout), DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        y = self.dropout(self.fc2(F.gelu(self.fc1(x))))
        out: Tensor = self.norm(x + self.drop_path(y))
        return out


class QFormerLayer(nn.Module):
    """Self-attention of queries and text, cross-attention of the queries, a feed-forward network for each."""

    def __init__(self, config: QFormerConfig, number: int, visual_width: int) -> None:
        super().__init__()
        rate = config.drop_path * number / max(config.layers - 1, 1)
        self.attention = _Attention(config, config.width, rate)
        self.cross = None
        if number % config.cross_every == 0:
            self.cross = _Attention(config, visual_width, rate)
        self.query_ffn = _FeedForward(config, rate)
        self.text_ffn = _FeedForward(config, rate) if config.text else None

    def forward(
        self, x: Tensor, queries: int, mask: Tensor | None, seen: Tensor | None, past: Keys | None
    ) -> tuple[Tensor, Keys]:
        """Return the next states [B, S, D], and keys and values of this layer [B, S, D].

        Args:
            x: states of the queries, then of the text.
            queries: how many of them are queries.
            mask: [B, 1, 1 or S, keys] bool, True where may be read; None: everything.
            seen: [B, V, C] what the queries look at; needed with queries.
            past: keys and values in front of those of `x`.
        """
        own = self.attention.keys(x)
        keys = own if past is None else (torch.cat([past[0], own[0]], 1), torch.cat([past[1], own[1]], 1))
        x = self.attention(x, keys, mask)
        asking, text = x[:, :queries], x[:, queries:]
        parts = []
        if queries:
            if self.cross is not None:
                assert seen is not None
                asking = self.cross(asking, self.cross.keys(seen), None)
            parts.append(self.query_ffn(asking))
        if text.shape[1]:
            assert self.text_ffn is not None
            parts.append(self.text_ffn(text))
        return torch.cat(parts, 1), own


@dataclass(frozen=True)
class QFormed:
    """What a Q-Former returns."""

    queries: Tensor
    """[B, Q, D]; Q = 0 where it read a text alone."""
    text: Tensor
    """[B, L, D]; L = 0 where there was no text."""
    keys: list[Keys]
    """Of each layer, of everything that was read; `caption` of a text starts from those of the queries."""


class QFormer(nn.Module):
    """Queries, word embeddings and layers."""

    def __init__(self, config: QFormerConfig, visual_width: int) -> None:
        super().__init__()
        self.config = config
        self.query_tokens = nn.Parameter(torch.empty(1, config.queries, config.width))
        self.extra_query_tokens = None
        if config.extra_queries:
            self.extra_query_tokens = nn.Parameter(torch.empty(1, config.extra_queries, config.width))
        self.words = self.positions = None
        if config.text:
            self.words = nn.Embedding(config.vocab_size, config.width, padding_idx=0)
            self.positions = nn.Embedding(config.max_text_tokens, config.width)
        self.norm = nn.LayerNorm(config.width, eps=EPS)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(QFormerLayer(config, i, visual_width) for i in range(config.layers))
        draw_bert(self.modules())
        for table in (self.query_tokens, self.extra_query_tokens):
            if table is not None:
                nn.init.trunc_normal_(table, std=config.query_std)
        self.copy_text_to_queries()

    def copy_text_to_queries(self) -> None:
        """Start the feed-forward networks of the queries from those of the text (BLIP-2)."""
        for layer in self.layers:
            assert isinstance(layer, QFormerLayer)
            if layer.text_ffn is not None:
                layer.query_ffn.load_state_dict(layer.text_ffn.state_dict())

    @property
    def count(self) -> int:
        """Number of queries, the extra ones included."""
        return self.config.queries + self.config.extra_queries

    def queries(self) -> Tensor:
        """Return all queries [1, Q, D]."""
        if self.extra_query_tokens is None:
            return self.query_tokens
        return torch.cat([self.query_tokens, self.extra_query_tokens], 1)

    def embed_words(self, ids: Tensor) -> Tensor:
        """Return words and positions of a text [B, L] int64, [B, L, D]."""
        assert self.words is not None
        assert self.positions is not None
        out: Tensor = self.words(ids) + self.positions.weight[: ids.shape[1]]
        return out

    def forward(
        self,
        seen: Tensor | None,
        ids: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        mode: Literal["together", "caption"] = "together",
        past: list[Keys] | None = None,
    ) -> QFormed:
        """Read visual tokens by queries, a text, or both together.

        Args:
            seen: [B, V, C]; None: no queries, the text alone.
            ids: [B, L] int64; None: no text.
            mask: [B, L] bool, True at real tokens.
            mode: `together`: everything reads everything but padding; `caption`: words read the queries and
                the words before them, queries read queries.
            past: keys of queries that were read before; then `seen` is None, and the text follows them.
        """
        Q = 0 if seen is None else self.count
        parts = []
        if seen is not None:
            parts.append(self.queries().expand(len(seen), -1, -1))
        if ids is not None:
            parts.append(self.embed_words(ids))
        x = self.dropout(self.norm(torch.cat(parts, 1)))
        allowed = None
        if ids is not None and mask is not None:
            before = past[0][0].shape[1] if past else 0
            allowed = _allowed(mask.bool(), Q, before, causal=mode == "caption")
        keys = []
        for i, layer in enumerate(self.layers):
            x, own = layer(x, Q, allowed, seen, past[i] if past else None)
            keys.append(own)
        return QFormed(x[:, :Q], x[:, Q:], keys)


def _allowed(mask: Tensor, queries: int, past: int, *, causal: bool) -> Tensor:
    """Return who may read whom, [B, 1, 1 or Q + L, past + Q + L] bool."""
    L = mask.shape[1]
    keys = F.pad(mask, (past + queries, 0), value=True)[:, None, None]  # [B, 1, 1, past + Q + L]
    if not causal:
        return keys
    order = torch.ones(queries + L, queries + L, dtype=torch.bool, device=mask.device).tril()
    order[:queries, :queries] = True
    return keys & F.pad(order, (past, 0), value=True)


_LAYER = {
    "attention.self.query": "attention.query",
    "attention.self.key": "attention.key",
    "attention.self.value": "attention.value",
    "attention.output.dense": "attention.proj",
    "attention.output.LayerNorm": "attention.norm",
    "crossattention.self.query": "cross.query",
    "crossattention.self.key": "cross.key",
    "crossattention.self.value": "cross.value",
    "crossattention.output.dense": "cross.proj",
    "crossattention.output.LayerNorm": "cross.norm",
    "intermediate.dense": "text_ffn.fc1",
    "output.dense": "text_ffn.fc2",
    "output.LayerNorm": "text_ffn.norm",
    "intermediate_query.dense": "query_ffn.fc1",
    "output_query.dense": "query_ffn.fc2",
    "output_query.LayerNorm": "query_ffn.norm",
}
_EMBEDDING = {"word_embeddings": "words", "position_embeddings": "positions", "LayerNorm": "norm"}
_LAYER_BACK = {ours: theirs for theirs, ours in _LAYER.items()}
_EMBEDDING_BACK = {ours: theirs for theirs, ours in _EMBEDDING.items()}


def our_qformer_name(name: str) -> str | None:
    """Return our name of a weight of a Q-Former (`embeddings.*`, `encoder.layer.N.*`); None: it has none.

    The names are those below `bert.` of BLIP-2 and VideoChat2.
    """
    part, _, kind = name.rpartition(".")
    if part.startswith("embeddings."):
        own = _EMBEDDING.get(part.removeprefix("embeddings."))
        return None if own is None else f"{own}.{kind}"
    number, _, rest = part.removeprefix("encoder.layer.").partition(".")
    own = _LAYER.get(rest) if part.startswith("encoder.layer.") else None
    return None if own is None else f"layers.{number}.{own}.{kind}"


def published_qformer_name(name: str) -> str | None:
    """Undo `our_qformer_name`."""
    part, _, kind = name.rpartition(".")
    if part in _EMBEDDING_BACK:
        return f"embeddings.{_EMBEDDING_BACK[part]}.{kind}"
    number, _, rest = part.removeprefix("layers.").partition(".")
    theirs = _LAYER_BACK.get(rest) if part.startswith("layers.") else None
    return None if theirs is None else f"encoder.layer.{number}.{theirs}.{kind}"
