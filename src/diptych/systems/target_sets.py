"""Sets of targets (class names, words, answers) as a model compares inputs with them.

In an evaluation a set is encoded once, and again when the weights have changed. In training it is encoded in
each step, with gradients, and each rank encodes its share of it.

Legend: C targets, R rows of tokens (a target may have several: synonyms, prompts), D width.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.blocks.collective import ALONE, World
from diptych.data.text import Tokenizer
from diptych.systems.protocol import TargetKind, TargetRows, VisionLanguageModel

AT_ONCE = 4096
"""Rows that are encoded at once where no gradients are wanted."""
Synonyms = Literal["first", "random", "mean"]
"""Which rows stand for a target: its first, one of them at random, or the mean of all."""
Encode = Callable[[TargetRows], Tensor]
"""Turns rows into features [R, D]."""


class Targets:
    """A set of targets for one tokenizer.

    Attributes:
        rows: tokens of all rows, those of a target beside each other.
        counts: [C] int64, rows of each target.
        kind: what they are.
    """

    def __init__(self, rows: TargetRows, kind: TargetKind, counts: Sequence[int] | None = None) -> None:
        """Take rows as they are; `counts` of each target, one where none are given."""
        self.kind = kind
        self.counts = torch.ones(len(rows), dtype=torch.int64) if counts is None else torch.tensor(counts)
        self.rows = replace(rows, numbers=torch.arange(len(self.counts)).repeat_interleave(self.counts))
        self._first = self.counts.cumsum(0) - self.counts
        self._key: tuple[Any, ...] = ()
        self._kept: Tensor | None = None
        self.encoded = 0
        """How often the whole set was encoded."""

    @classmethod
    def of_names(
        cls,
        classes: Sequence[Sequence[str]],
        tokenizer: Tokenizer,
        kind: TargetKind = "classes",
        *,
        prompts: Sequence[str] = ("{}",),
        limit: int = 77,
    ) -> "Targets":
        """Make targets of the names of classes, each in each prompt, of at most `limit` tokens."""
        texts = [[p.replace("{}", name) for name in names for p in prompts] for names in classes]
        rows = [tokenizer.sequence(text, limit) for row in texts for text in row]
        return cls(_rows(rows), kind, [len(row) for row in texts])

    @classmethod
    def of_vocabulary(cls, tokenizer: Tokenizer) -> "Targets":
        """Return every token v as the pair (v, end), in the order of the ids (published)."""
        words = torch.arange(tokenizer.vocab_size)
        ids = torch.stack([words, torch.full_like(words, tokenizer.sep_id)], 1)
        return cls(TargetRows(ids.flatten(), torch.full_like(words, 2)), "vocabulary")

    def __len__(self) -> int:
        return len(self.counts)

    def features(
        self,
        model: VisionLanguageModel,
        world: World = ALONE,
        *,
        synonyms: Synonyms = "first",
        seed: int = 0,
        encode: Encode | None = None,
        some: Tensor | None = None,
    ) -> Tensor:
        """Return the features of all targets, [C, D].

        With gradients they are encoded now, each rank its share; all ranks must ask at the same time. Without
        gradients what was encoded before is returned as long as it holds, and nothing is shared.

        Args:
            model: has the capability `likelihood`, unless `encode` is given.
            world: the ranks that share a step.
            synonyms: which rows stand for a target.
            seed: decides what is `random`; the same on all ranks.
            encode: turns rows into features, in the place of the model.
            some: [n] int64 on the CPU: with gradients encode these targets alone, in this order.
        """
        compute = encode or (lambda rows: model.target_features(rows, self.kind))
        device = next(model.parameters()).device
        if self.rows.ids.device != device:
            self.rows = self.rows.to(device)
        if torch.is_grad_enabled():
            self.encoded += 1
            return self._chosen(synonyms, seed, lambda rows: _shared(compute, rows, world), some)
        key = (*_version(model), synonyms, seed if synonyms == "random" else 0)
        if self._kept is None or key != self._key:
            self.encoded += 1
            self._kept = self._chosen(synonyms, seed, lambda rows: _in_pieces(compute, rows))
            self._key = key
        return self._kept

    def _chosen(self, synonyms: Synonyms, seed: int, encode: Encode, some: Tensor | None = None) -> Tensor:
        """Encode the rows that stand for the targets, or for some of them."""
        counts, first = (self.counts, self._first) if some is None else (self.counts[some], self._first[some])
        if some is None and int(counts.max()) == 1:
            return encode(self.rows)
        if synonyms == "mean":
            inside = torch.arange(int(counts.sum())) - (counts.cumsum(0) - counts).repeat_interleave(counts)
            rows = first.repeat_interleave(counts) + inside
            every = F.normalize(encode(self.rows.take(rows)).float(), dim=-1)
            of = torch.arange(len(counts)).repeat_interleave(counts).to(every.device)
            return every.new_zeros(len(counts), every.shape[1]).index_add(0, of, every)
        place = torch.zeros(len(counts), dtype=torch.int64)
        if synonyms == "random":
            drawn = torch.rand(len(self), generator=torch.Generator().manual_seed(seed))
            place = ((drawn if some is None else drawn[some]) * counts).long()
        return encode(self.rows.take(first + place))


def _rows(rows: Sequence[Sequence[int]]) -> TargetRows:
    lengths = torch.tensor([len(row) for row in rows])
    return TargetRows(torch.tensor([i for row in rows for i in row]), lengths)


def _shared(compute: Encode, rows: TargetRows, world: World) -> Tensor:
    """Encode the rows, each rank as many short and long ones as the others; gradients flow to all."""
    if world.size == 1 or len(rows) < world.size:
        return compute(rows)
    by_length = rows.lengths.argsort(stable=True)
    shares = [by_length[rank :: world.size] for rank in range(world.size)]
    joined = world.gather(compute(rows.take(shares[world.rank])), [len(share) for share in shares])
    back = torch.empty_like(by_length).scatter_(0, torch.cat(shares), torch.arange(len(rows)))
    return joined[back.to(joined.device)]


def _in_pieces(compute: Encode, rows: TargetRows) -> Tensor:
    """Encode the rows, the short ones first, some at a time."""
    by_length = rows.lengths.argsort(stable=True)
    parts = [compute(rows.take(some)) for some in torch.split(by_length, AT_ONCE)]
    back = torch.empty_like(by_length).scatter_(0, by_length, torch.arange(len(rows)))
    joined = torch.cat(parts)
    return joined[back.to(joined.device)]


def _version(model: nn.Module) -> tuple[Any, ...]:
    """Return what is another when the weights, or the precision of what is computed, are."""
    found: list[Any] = [id(model)]
    for parameter in model.parameters():
        own = getattr(parameter, "_local_tensor", parameter)
        found += [own.data_ptr(), 0 if own.is_inference() else own._version]
    kind = own.device.type
    found += [torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind), model.training]
    return tuple(found)
