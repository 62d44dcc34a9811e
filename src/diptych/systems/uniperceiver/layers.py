"""The transformer layer, dense or with experts, with prompts and with a history for decoding.

Legend: B batch, L positions, K keys, D width, S segments.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.blocks.drop_path import DropPath
from diptych.systems.uniperceiver.conditional import ConditionalLinear, Decision
from diptych.systems.uniperceiver.config import UniPerceiverConfig


@dataclass(frozen=True)
class Sequences:
    """What a layer has to know of the sequences it reads."""

    padding: Tensor | None = None
    """[B, K] bool, True at keys that nobody reads; None: there are none."""
    blocked: Tensor | None = None
    """[L, K] bool, True where a query must not read a key."""
    attributes: Tensor | None = None
    """[S, 8] what the segments are; only experts ask."""
    prefix: int = 0
    """Positions of the first of two segments, counted with the history."""
    is_target: bool = False
    """Targets may have prompts of their own."""
    noise: tuple[Tensor, Tensor] | None = None
    """[S, E] noise on the gates of attention and of the feed-forward network; None: drawn in training."""

    def lengths_of(self, count: int, before: int = 0) -> tuple[int, ...]:
        """Return the lengths of the segments of the last `count` positions.

        With a single segment, or where nothing of the first one is left, the others have none.

        Args:
            count: positions that are looked at.
            before: prompts among them, in front of all others; they belong to the first segment.
        """
        segments = 1 if self.attributes is None else len(self.attributes)
        if segments == 1:
            return (count,)
        if self.decoding and count == 1:
            return (0, 1)
        first = min(self.prefix + before, count)
        return (first, count - first)

    decoding: bool = False
    """One more token is read behind a history."""
    groups: tuple[tuple[int, int], ...] = ()
    """Number and length of sequences that lie behind each other in a single row [1, L, D], each of which
    reads itself alone: targets of many lengths without any padding. Empty: every row is a sequence."""

    def readable(self, queries: int, keys: int) -> Tensor | None:
        """Return which keys each query reads, [B or 1, 1, L or 1, K] bool, prompts in front; None: all."""
        found: Tensor | None = None
        if self.padding is not None:
            found = ~self.padding[:, None, None]
        if self.blocked is not None:
            free = ~self.blocked[None, None]
            found = free if found is None else found & free
        if found is None or found.shape[-1] == keys:
            return found
        return F.pad(found, (keys - found.shape[-1], 0), value=True)


PLAIN = Sequences()
"""Sequences without padding, in which everything reads everything."""


class Layer(nn.Module):
    """Attention and feed-forward network, each with its norm before it and a scale behind it."""

    def __init__(self, config: UniPerceiverConfig, number: int) -> None:
        super().__init__()
        D, hidden = config.width, config.hidden
        self.heads, self.conditional = config.heads, config.has_experts(number)
        self.norm1, self.norm2 = nn.LayerNorm(D), nn.LayerNorm(D)

        def linear(inputs: int, outputs: int) -> nn.Module:
            if self.conditional:
                return ConditionalLinear(inputs, outputs, D, config.experts)
            return nn.Linear(inputs, outputs)

        self.qkv, self.out = linear(D, 3 * D), linear(D, D)
        self.fc1, self.fc2 = linear(D, hidden), linear(hidden, D)
        self.scale1 = nn.Parameter(torch.full((D,), config.layer_scale))
        self.scale2 = nn.Parameter(torch.full((D,), config.layer_scale))
        self.drop_path = DropPath(config.drop_path)
        prompts = config.prompts
        self.prompt: nn.Parameter | None = None
        self.target_prompt: nn.Parameter | None = None
        if prompts.deep:
            self.prompt = nn.Parameter(torch.randn(prompts.deep, D) * 0.02)
        if prompts.deep_targets:
            self.target_prompt = nn.Parameter(torch.randn(prompts.deep_targets, D) * 0.02)

    def forward(self, x: Tensor, about: Sequences, history: Tensor | None = None) -> Tensor:
        """Return the next states [B, L, D].

        Args:
            x: the states.
            about: masks and attributes; those of keys are for the history first.
            history: [B, H, D] states that went into this layer before, which are read too (decoding).
        """
        first, second = self.decide(about)
        x = x + self._drop(self._attend(x, about, history, first), about) * self.scale1
        lengths = about.lengths_of(x.shape[1])
        y = F.gelu(mapped(self.fc1, self.norm2(x), lengths, second))
        out: Tensor = x + self._drop(mapped(self.fc2, y, lengths, second), about) * self.scale2
        return out

    def _drop(self, branch: Tensor, about: Sequences) -> Tensor:
        """Drop the branch [B, L, D] of some sequences in training."""
        if not about.groups or not self.training or not self.drop_path.rate:
            dropped: Tensor = self.drop_path(branch)
            return dropped
        counts, lengths = torch.tensor(about.groups).unbind(1)
        kept = self.drop_path(branch.new_ones(int(counts.sum()), 1))[:, 0]
        each = lengths.repeat_interleave(counts).to(branch.device)
        factors = kept.repeat_interleave(each, output_size=branch.shape[1])
        scaled: Tensor = branch * factors[None, :, None]
        return scaled

    def decide(self, about: Sequences) -> tuple[Decision | None, Decision | None]:
        """Return the decisions for attention and for the feed-forward network.

        The second map of each takes the decision of the first; its own gate is there, and not asked.
        """
        if not (isinstance(self.qkv, ConditionalLinear) and isinstance(self.fc1, ConditionalLinear)):
            return None, None
        assert about.attributes is not None
        first, second = about.noise or (None, None)
        return self.qkv.gate(about.attributes, first), self.fc1.gate(about.attributes, second)

    def _attend(
        self, x: Tensor, about: Sequences, history: Tensor | None, decision: Decision | None
    ) -> Tensor:
        B, L, D = x.shape
        y = self.norm1(x)
        lengths = about.lengths_of(L)
        prompt = self.target_prompt if about.is_target and self.target_prompt is not None else self.prompt
        if about.groups:
            qkv = mapped(self.qkv, y, lengths, decision)
            return mapped(self.out, self._attend_groups(qkv, about.groups), lengths, decision)
        if history is None and prompt is None:
            q, k, v = mapped(self.qkv, y, lengths, decision).chunk(3, -1)
        else:
            read = y if history is None else torch.cat([self.norm1(history), y], 1)
            before = 0
            if prompt is not None:
                before = len(prompt)
                read = torch.cat([self.norm1(prompt).expand(B, -1, -1), read], 1)
            q = mapped(self.qkv, y, lengths, decision, slice(None, D))
            keys = about.lengths_of(read.shape[1], before)
            k, v = mapped(self.qkv, read, keys, decision, slice(D, None)).chunk(2, -1)
        q, k, v = (t.view(B, -1, self.heads, D // self.heads).transpose(1, 2) for t in (q, k, v))
        mask = about.readable(L, k.shape[2])
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return mapped(self.out, out.transpose(1, 2).reshape(B, L, D), lengths, decision)

    def _attend_groups(self, qkv: Tensor, groups: tuple[tuple[int, int], ...]) -> Tensor:
        """Let sequences of equal length read themselves, group by group: [1, L, 3 D] -> [1, L, D]."""
        D = qkv.shape[-1] // 3
        made, start = [], 0
        for count, length in groups:
            part = qkv[0, start : start + count * length].view(count, length, 3, self.heads, D // self.heads)
            q, k, v = part.permute(2, 0, 3, 1, 4)
            out = F.scaled_dot_product_attention(q, k, v)
            made.append(out.transpose(1, 2).reshape(count * length, D))
            start += count * length
        return torch.cat(made)[None]


def mapped(
    module: nn.Module, x: Tensor, lengths: Sequence[int], decision: Decision | None, part: slice = slice(None)
) -> Tensor:
    """Map [B, L, inputs] by a linear map of either kind, or by some of its outputs."""
    if isinstance(module, ConditionalLinear):
        assert decision is not None
        mixed: Tensor = module(x, lengths, decision, part)
        return mixed
    assert isinstance(module, nn.Linear)
    return F.linear(x, module.weight[part], module.bias[part])
