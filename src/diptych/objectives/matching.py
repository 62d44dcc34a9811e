"""Image-text matching objective (ITM): does this text belong to this picture? Trained on hard negatives.

Legend: N pictures, M texts, K pairs.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.blocks.collective import ALONE, World
from diptych.data.draws import Draws
from diptych.objectives.contrastive import contrastive_logits, matches
from diptych.objectives.relation import Relation

IGNORED = -100
"""Label of a pair that does not count (a drawn negative that is none)."""


class MatchingHead(nn.Module):
    """Two-way classifier of fused pairs: class 1 means that text and picture belong together."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(width, 2)
        nn.init.normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        """Turn pooled pair tokens [K, width] into logits [K, 2] float32."""
        logits: Tensor = self.classifier(pooled)
        return logits.float()


@dataclass(frozen=True)
class Negatives:
    """Drawn negatives; index tensors are int64 and point into the N pictures and M texts."""

    image: Tensor
    """[K] a wrong picture for each text asked about."""
    text: Tensor
    """[K] a wrong text for each picture asked about."""
    image_valid: Tensor
    """[K] bool, False where every picture matches the text, so that the drawn one is no negative."""
    text_valid: Tensor
    """[K] bool, False where every text matches the picture."""


def draw_negatives(
    logits: Tensor,
    matching: Tensor,
    draws: Draws | None = None,
    *,
    images: Tensor | None = None,
    texts: Tensor | None = None,
    floor: float = 1e-5,
) -> Negatives:
    """Draw a wrong text for each picture and a wrong picture for each text, the more similar the likelier.

    The weight of a candidate is its softmax probability (over all candidates) plus `floor`, zero where it
    matches. As the model learns, the right answer takes all the probability and the floor makes the draw
    uniform; `floor=0` keeps drawing by similarity among the wrong ones alone. Where every candidate matches,
    the draw is uniform over all and marked invalid (the published code stops with an error there).

    Args:
        logits: [N, M] similarities over temperature; no gradient is taken.
        matching: [N, M] bool, True where text and picture belong together.
        draws: of the K samples asked about; None draws from torch's global generator.
        images: [K] pictures to draw texts for (default: all N).
        texts: [K] texts to draw pictures for (default: all M).
        floor: added to every candidate's probability.
    """
    logits = logits.detach().float()
    by_image = (logits, matching) if images is None else (logits[images], matching[images])
    by_text = (logits.t(), matching.t()) if texts is None else (logits.t()[texts], matching.t()[texts])
    return _negatives(by_text, by_image, floor, draws)


@torch.no_grad()
def draw_hard_negatives(
    features: tuple[Tensor, Tensor],
    temperature: Tensor | float,
    relation: Relation,
    draws: Draws | None,
    *,
    images: Tensor,
    texts: Tensor,
    floor: float = 1e-5,
) -> Negatives:
    """Return `draw_negatives` from features: only the similarities of what is asked about are computed.

    Args:
        features: of pictures [N, D] and texts [M, D], unit vectors.
        temperature: scalar above 0.
        relation: which of the N pictures match which of the M texts.
        draws: as in `draw_negatives`, like what follows.
        images: [K] pictures to draw texts for.
        texts: [K] texts to draw pictures for.
        floor: added to every candidate's probability.
    """
    seen, words = features
    by_image = contrastive_logits(seen[images], words, temperature), relation.block(images)
    by_text = contrastive_logits(words[texts], seen, temperature), relation.t().block(texts)
    return _negatives(by_text, by_image, floor, draws)


def _negatives(
    by_text: tuple[Tensor, Tensor], by_image: tuple[Tensor, Tensor], floor: float, draws: Draws | None
) -> Negatives:
    image, image_valid = _draw(*by_text, floor, draws)
    text, text_valid = _draw(*by_image, floor, draws)
    return Negatives(image, text, image_valid, text_valid)


def sample_negatives(
    logits: Tensor, match_ids: Tensor, draws: Draws | None = None, floor: float = 1e-5
) -> Negatives:
    """Return `draw_negatives` of N aligned pictures and texts; equal `match_ids` [N] int64 match."""
    return draw_negatives(logits, matches(match_ids, match_ids), draws, floor=floor)


def candidate_weights(logits: Tensor, matching: Tensor, floor: float = 1e-5) -> Tensor:
    """Return how likely each column is drawn as negative of its row, [N, M]; see `draw_negatives`.

    Args:
        logits: [N, M] similarities over temperature.
        matching: [N, M] bool, True where they belong together. A row that matches everything is uniform.
        floor: added to every candidate's probability.
    """
    valid = ~matching.all(1, keepdim=True)
    if floor:
        weights = (logits.softmax(1) + floor).masked_fill(matching, 0.0)
    else:
        weights = logits.masked_fill(matching & valid, float("-inf")).softmax(1)
    return torch.where(valid, weights, torch.ones_like(weights))


def _draw(logits: Tensor, matching: Tensor, floor: float, draws: Draws | None) -> tuple[Tensor, Tensor]:
    """Draw one unmatched column for each row; return ([K] columns, [K] valid)."""
    valid = ~matching.all(1)
    weights = candidate_weights(logits, matching, floor)
    uniform = torch.rand(len(weights)) if draws is None else draws.rand()
    # The inverse of the cumulated weights: one draw a row, whatever the other rows are.
    # In double: rounding must not reach the columns of weight 0 behind the last one that counts.
    reached = weights.double().cumsum(1)
    target = uniform.to(reached)[:, None] * reached[:, -1:]
    columns = torch.searchsorted(reached, target, right=True)[:, 0].clamp(max=weights.shape[1] - 1)
    return columns, valid


@dataclass(frozen=True)
class Pairs:
    """Pairs to be fused in one pass."""

    images: Tensor
    """[K] int64 into the pictures."""
    texts: Tensor
    """[K] int64 into the texts."""
    labels: Tensor
    """[K] int64: 1 matching, 0 not, IGNORED."""


def matching_passes(images: Tensor, texts: Tensor, negatives: Negatives) -> list[Pairs]:
    """Return the three published passes: matching pairs, wrong picture per text, wrong text per picture.

    Args:
        images: [K] int64, pictures of the matching pairs.
        texts: [K] int64, their texts.
        negatives: drawn for exactly these pictures and texts.
    """
    return [
        Pairs(images, texts, torch.ones_like(images)),
        Pairs(negatives.image, texts, torch.where(negatives.image_valid, 0, IGNORED)),
        Pairs(images, negatives.text, torch.where(negatives.text_valid, 0, IGNORED)),
    ]


def draw_others(match_ids: Tensor, share: Tensor, among: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return for each sample others that do not match it [B, K] int64, and whether there are any [B, 1] bool.

    Args:
        match_ids: [B] int64; equal ones match.
        share: [B, K] in 0..1: where among those that do not match it, in their order, the drawn one stands.
        among: [A] int64, match ids of the samples to draw from; None: the B samples.
    """
    other = match_ids[:, None] != (match_ids if among is None else among)[None]  # [B, A]
    numbers = other.sum(1, keepdim=True)
    nth = (share * numbers).long().clamp(max=(numbers - 1).clamp(min=0))
    order = other.long().cumsum(1)
    source = (order[:, None] == (nth + 1)[..., None]) & other[:, None]
    return source.long().argmax(2), numbers > 0


def itm_loss(logits: Tensor, labels: Tensor, world: World = ALONE) -> Tensor:
    """Return the mean cross-entropy of logits [K, 2] over pairs whose label [K] is not IGNORED (scalar).

    With several ranks: this rank's share of the mean over the pairs of all (`World.mean`).
    """
    total = F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum")
    return world.mean(total, (labels != IGNORED).sum())


def itm_accuracy(logits: Tensor, labels: Tensor, world: World = ALONE) -> Tensor:
    """Return the share of counted pairs that the logits [K, 2] classify rightly; as `itm_loss`."""
    counted = labels != IGNORED
    right = (logits.detach().argmax(1) == labels) & counted
    return world.mean(right.float().sum(), counted.sum())
