"""Answers of a multimodal language model, token by token.

Legend: R conversations, L tokens of the longest, V words.
"""

from collections.abc import Iterator, Sequence

import torch
from pydantic import Field
from torch import Tensor

from diptych.config.schema import Section
from diptych.systems.mllm.model import MllmModel, Rows


class GenerationConfig(Section):
    """How an answer is drawn from the scores of words."""

    max_new_tokens: int = Field(64, ge=1, description="Longest answer in tokens, its end mark included.")
    temperature: float = Field(
        0.0, ge=0, description="Scores are divided by it before a word is drawn; 0: always the best word."
    )
    top_k: int = Field(0, ge=0, description="Draw among so many best words only; 0: all.")
    top_p: float = Field(
        1.0, gt=0, le=1, description="Draw among the fewest best words that have this probability together."
    )
    repetition_penalty: float = Field(
        1.0, gt=0, description="Above 1: words that the conversation has had become less likely."
    )
    seed: int = Field(0, ge=0, description="Of what is drawn.")
    cache: bool = Field(
        True,
        description="Keep keys and values of what was read; without them answers are the same, but slow.",
    )


@torch.inference_mode()
def generate(
    model: MllmModel, rows: Rows, tokens: Tensor | None, settings: GenerationConfig, stop: Sequence[int]
) -> Iterator[Tensor]:
    """Yield the next token of every conversation, [R] int64, until all have stopped.

    A conversation that has stopped goes on with its stop token.

    Args:
        model: in eval mode.
        rows: conversations that wait for an answer, padded on the left, one a row.
        tokens: of their pictures, as `MllmModel.read`.
        settings: how words are chosen.
        stop: tokens that end an answer.
    """
    generator = torch.Generator(device=rows.ids.device).manual_seed(settings.seed)
    cache = model.language.new_cache() if settings.cache else None
    done = torch.zeros(len(rows.ids), dtype=torch.bool, device=rows.ids.device)
    ends = torch.tensor(list(stop), device=rows.ids.device)
    whole, step = rows, rows
    for i in range(settings.max_new_tokens):
        seen = tokens if i == 0 or cache is None else None
        states = _read(model, whole, step, seen, cache)
        scores = model.language.scores(states[:, -1])
        chosen = _choose(scores, whole, settings, generator)
        chosen = torch.where(done, ends[0], chosen)
        done = done | torch.isin(chosen, ends)
        yield chosen
        if bool(done.all()):
            return
        whole, step = _longer(whole, chosen)
        step = whole if cache is None else step


def _read(model: MllmModel, whole: Rows, step: Rows, tokens: Tensor | None, cache: object) -> Tensor:
    """Return the states of a step; what the cache holds is not read again, but may be looked at."""
    found: Tensor = model.language(
        model.inputs(step.ids, step.pictures, tokens),
        mask=None if bool(whole.mask.all()) else whole.mask,
        positions=step.positions,
        pictures=step.pictures if tokens is not None else None,
        cache=cache,
    )
    return found


def _longer(rows: Rows, chosen: Tensor) -> tuple[Rows, Rows]:
    """Return the rows with a token more, and that token alone."""
    new = chosen[:, None]
    last = Rows(
        ids=new,
        mask=torch.ones_like(new, dtype=torch.bool),
        pictures=torch.zeros_like(new, dtype=torch.bool),
        positions=rows.positions[:, -1:] + 1,
    )
    names = ("ids", "mask", "pictures", "positions")
    return Rows(*(torch.cat([getattr(rows, n), getattr(last, n)], 1) for n in names)), last


def _choose(scores: Tensor, rows: Rows, settings: GenerationConfig, generator: torch.Generator) -> Tensor:
    """Return a word for each conversation, [R] int64, by scores [R, V]."""
    if settings.repetition_penalty != 1:
        scores = _penalised(scores, rows, settings.repetition_penalty)
    if not settings.temperature:
        return scores.argmax(1)
    scores = scores / settings.temperature
    if settings.top_k:
        least = scores.topk(min(settings.top_k, scores.shape[1]), dim=1).values[:, -1:]
        scores = scores.masked_fill(scores < least, float("-inf"))
    if settings.top_p < 1:
        sorted_scores, order = scores.sort(1, descending=True)
        shares = sorted_scores.softmax(1)
        # A word stays if those before it do not reach the probability yet: the best one always does.
        dropped = shares.cumsum(1) - shares >= settings.top_p
        scores = scores.masked_fill(torch.zeros_like(dropped).scatter(1, order, dropped), float("-inf"))
    return torch.multinomial(scores.softmax(1), 1, generator=generator)[:, 0]


def _penalised(scores: Tensor, rows: Rows, penalty: float) -> Tensor:
    """Divide positive scores of words that were there, and multiply negative ones (CTRL)."""
    there = torch.zeros_like(scores, dtype=torch.bool)
    real = rows.mask & ~rows.pictures & (rows.ids < scores.shape[1])
    ids = rows.ids.masked_fill(~real, 0)
    there.scatter_(1, ids, True)
    first = ((rows.ids == 0) & real).any(1)
    there[:, 0] = first
    return torch.where(there, torch.where(scores > 0, scores / penalty, scores * penalty), scores)
