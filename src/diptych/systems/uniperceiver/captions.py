"""Captions: which positions read which in training, and beam search.

Legend: B pictures, P visual tokens, L tokens of a caption, N beams, V words, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diptych.systems.uniperceiver.layers import Sequences
from diptych.systems.uniperceiver.model import UniPerceiverModel

_NEVER = -999.0
"""Score of words behind the end of a finished caption, as published."""


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


@dataclass(frozen=True)
class Beams:
    """Captions, the best first."""

    ids: Tensor
    """[B, N, steps] int64; behind the end token there are only end tokens."""
    log_probs: Tensor
    """[B, N, steps] of each word, 0 behind the end."""


class _Search:
    """The state of a beam search: what went into each layer so far, and the scores."""

    def __init__(self, model: UniPerceiverModel, visual: Tensor, attributes: Tensor | None) -> None:
        self.model = model
        x = model.assemble([visual])
        self.prefix = x.shape[1]
        self.about = Sequences(attributes=attributes, prefix=self.prefix)
        self.history: list[Tensor] = []
        for layer in model.layers:
            self.history.append(x)
            x = layer(x, self.about)
        self.step = Sequences(attributes=attributes, prefix=self.prefix, decoding=True)

    def read(self, ids: Tensor, place: int, *, keep: bool) -> Tensor:
        """Read one more token [B N] at a place of the caption; return its state [B N, D].

        Args:
            ids: the tokens.
            place: counted from the beginning of the caption.
            keep: remember it for what comes after.
        """
        position = torch.tensor([place], device=ids.device)
        x = self.model.text(ids[:, None], position)
        for number, layer in enumerate(self.model.layers):
            given = x
            x = layer(given, self.step, self.history[number])
            if keep:
                self.history[number] = torch.cat([self.history[number], given], 1)
        first: Tensor = x[:, 0]
        return first

    def reorder(self, rows: Tensor) -> None:
        """Go on with some of the sequences, [new B N] int64."""
        self.history = [states[rows] for states in self.history]


@torch.no_grad()
def beam_search(
    model: UniPerceiverModel,
    visual: Tensor,
    words: Tensor,
    *,
    beams: int = 2,
    steps: int = 21,
    penalty: float = 0.0,
    temperature: str = "caption",
    attributes: Tensor | None = None,
) -> Beams:
    """Find the likeliest captions of pictures, all in `steps` steps (published: no early end).

    Args:
        model: in eval mode.
        visual: [B, P, D] embedded pictures or clips.
        words: [V, D] projected features of the vocabulary, row i of word i.
        beams: N.
        steps: words of a caption at most.
        penalty: scores are divided by (words before the end + 1) to this power; 0: not.
        temperature: name of the factor on cosines.
        attributes: [2, 8] of picture and text, where experts ask.
    """
    B, end, slot = len(visual), model.config.end, model.config.slot
    device = visual.device
    search = _Search(model, visual, attributes)
    scores = torch.zeros(B, 1, device=device)
    alive = torch.ones(B, 1, device=device)
    ids = torch.zeros(B, 1, 0, dtype=torch.int64, device=device)
    told = torch.zeros(B, 1, 0, device=device)
    for t in range(steps):
        now = scores.shape[1]
        slots = torch.full((B * now,), slot, device=device)
        states = search.read(slots, t, keep=False)
        logits = model.likelihood(model.likelihood.features(states), words, temperature)
        log_probs = logits.log_softmax(-1).view(B, now, -1)
        V = log_probs.shape[-1]
        if t:
            alive = alive * (ids[..., -1] != end)
        log_probs = log_probs * alive[..., None]
        over = torch.full_like(log_probs, _NEVER)
        over[..., end] = scores
        candidates = torch.where(alive[..., None] > 0, scores[..., None] + log_probs, over)
        scores, chosen = candidates.flatten(1).sort(descending=True, stable=True)
        scores, chosen = scores[:, :beams], chosen[:, :beams]
        origin, word = chosen // V, chosen % V
        rows = (torch.arange(B, device=device)[:, None] * now + origin).flatten()
        step_probs = log_probs.flatten(1).gather(1, chosen)
        ids = torch.cat([ids.flatten(0, 1)[rows].view(B, beams, t), word[..., None]], 2)
        told = torch.cat([told.flatten(0, 1)[rows].view(B, beams, t), step_probs[..., None]], 2)
        alive = alive.flatten()[rows].view(B, beams)
        search.reorder(rows)
        search.read(word.flatten(), t, keep=True)
    if penalty:
        scores = scores / ((ids != end).sum(2) + 1).float() ** penalty
    order = scores.sort(dim=1, descending=True, stable=True).indices[..., None].expand(-1, -1, steps)
    return Beams(ids.gather(1, order), told.gather(1, order))
