"""Captions: which positions read which in training, and beam search.

Legend: B pictures, P visual tokens, L tokens of a caption, N beams, M words, V vocabulary, D width.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.systems.protocol import Writing, Written
from diptych.systems.uniperceiver.decoding import InputReader, KeyReader, PlainReader
from diptych.systems.uniperceiver.embed import halves
from diptych.systems.uniperceiver.layers import Sequences

if TYPE_CHECKING:
    from diptych.systems.uniperceiver.model import UniPerceiverModel

_NEVER = -999.0
"""Score of words behind the end of a finished caption, as published."""
_Reader = Callable[[Tensor, Tensor], Tensor]
_READERS: dict[str, Callable[["UniPerceiverModel", Tensor, int, Tensor | None], _Reader]] = {
    "keys": KeyReader,
    "inputs": InputReader,
    "none": PlainReader,
}


def caption_mask(prefix: int, length: int, device: torch.device | None = None) -> Tensor:
    """Return which keys a query must not read, [S, S] bool with S = prefix + 2 length.

    A sequence is [start and picture | caption | slots]; slot i is to say word i. Everything reads the prefix,
    which reads nothing else; words read those up to themselves; slots read the words before theirs, and
    themselves.

    Args:
        prefix: 1 + P.
        length: L.
        device: of the mask.
    """
    S = prefix + 2 * length
    blocked = torch.ones(S, S, dtype=torch.bool, device=device)
    blocked[:, :prefix] = False
    words, slots = slice(prefix, prefix + length), slice(prefix + length, S)
    before = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    blocked[words, words] = ~before
    blocked[slots, words] = ~before.tril(-1)
    blocked[slots, slots] = ~torch.eye(length, dtype=torch.bool, device=device)
    return blocked


def caption_states(
    model: "UniPerceiverModel", visual: Tensor, ids: Tensor, mask: Tensor, attributes: Tensor | None = None
) -> Tensor:
    """Return the state of the slot of each word of captions, [M, D], row by row.

    Args:
        model: of the system.
        visual: [B, P, D] embedded pictures.
        ids: [B, L] captions with their end token.
        mask: [B, L] bool, True at their words.
        attributes: [2, 8] of picture and text, where experts ask.
    """
    L = ids.shape[1]
    slots = torch.full_like(ids, model.config.slot).masked_fill(~mask, 0)
    text = model.text(torch.cat([ids, slots], 1), halves(2 * L, ids.device))
    x = model.assemble([visual, text])
    prefix = x.shape[1] - 2 * L
    padding = F.pad(~torch.cat([mask, mask], 1), (prefix, 0), value=False)
    about = Sequences(padding, caption_mask(prefix, L, ids.device), attributes, prefix)
    return model.encode(x, about)[:, -L:][mask]


@torch.no_grad()
def beam_search(
    model: "UniPerceiverModel",
    visual: Tensor,
    words: Tensor,
    *,
    beams: int = 2,
    steps: int = 21,
    penalty: float = 0.0,
    temperature: str = "caption",
    cache: str = "keys",
    attributes: Tensor | None = None,
) -> Written:
    """Find the likeliest captions of pictures, as published but that it ends when all captions have.

    Args:
        model: in eval mode.
        visual: [B, P, D] embedded pictures or clips.
        words: [V, D] projected features of the vocabulary, row i of word i.
        beams: N.
        steps: words of a caption at most.
        penalty: scores are divided by (words before the end + 1) to this power; 0: not.
        temperature: name of the factor on cosines.
        cache: what is remembered from word to word, see `Writing`.
        attributes: [2, 8] of picture and text, where experts ask.
    """
    B, end, device = len(visual), model.config.end, visual.device
    reader = _READERS[cache](model, visual, steps, attributes)
    units = F.normalize(words.float(), dim=-1).t()
    factor = model.likelihood.factor(temperature)
    scores = torch.zeros(B, 1, device=device)
    open_ = torch.ones(B, 1, dtype=torch.bool, device=device)
    ids = torch.zeros(B, 0, dtype=torch.int64, device=device)
    told = torch.zeros(B, 0, device=device)
    rows = torch.arange(B, device=device)
    for _ in range(steps):
        features = model.likelihood.features(reader(ids, rows))
        logits = factor * (F.normalize(features.float(), dim=-1) @ units)
        said, word = _candidates(logits.view(*scores.shape, -1), open_, beams, end)
        each = word.shape[2]
        # A finished caption has one way to go on: as it is.
        first = torch.arange(each, device=device) == 0
        totals = torch.where(open_[..., None] | first, scores[..., None] + said, _NEVER).flatten(1)
        scores, chosen = totals.sort(descending=True, stable=True)
        scores, chosen = scores[:, :beams], chosen[:, :beams]
        rows = (torch.arange(B, device=device)[:, None] * open_.shape[1] + chosen // each).flatten()
        ids = torch.cat([ids[rows], word.flatten(1).gather(1, chosen).view(-1, 1)], 1)
        told = torch.cat([told[rows], said.flatten(1).gather(1, chosen).view(-1, 1)], 1)
        open_ = (ids[:, -1] != end).view(B, -1)
        if not open_.any():
            break
    ids = F.pad(ids, (0, steps - ids.shape[1]), value=end).view(B, -1, steps)
    told = F.pad(told, (0, steps - told.shape[1])).view(B, -1, steps)
    if penalty:
        scores = scores / ((ids != end).sum(2) + 1).float() ** penalty
    order = scores.sort(dim=1, descending=True, stable=True).indices[..., None].expand(-1, -1, steps)
    return Written(ids.gather(1, order), told.gather(1, order))


def _candidates(logits: Tensor, open_: Tensor, count: int, end: int) -> tuple[Tensor, Tensor]:
    """Return log-probabilities and ids of the likeliest words, [B, N, count]; 0 and the end of finished ones.

    The best of all beams are among the best of each.

    Args:
        logits: [B, N, V].
        open_: [B, N] bool, True at captions that have not ended.
        count: words of each beam; all, where the vocabulary has no more.
        end: id of the end token.
    """
    best, word = logits.topk(min(count, logits.shape[-1]), dim=-1)
    said = best - logits.logsumexp(-1, keepdim=True)
    return said.masked_fill(~open_[..., None], 0.0), word.masked_fill(~open_[..., None], end)


def write(
    model: "UniPerceiverModel", visual: Tensor, words: Tensor, options: Writing, attributes: Tensor | None
) -> Written:
    """Write captions of pictures [B, P, D]; see `VisionLanguageModel.generate`."""
    return beam_search(
        model,
        visual,
        words,
        beams=options.beams,
        steps=options.steps,
        penalty=options.penalty,
        temperature=options.temperature,
        cache=options.cache,
        attributes=attributes,
    )
