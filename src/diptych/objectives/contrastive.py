"""Image-text contrastive objective (ITC): pull matching pictures and texts together, push the others apart.

Legend: N pictures, M texts, D feature width. `contrast` and `contrast_pictures` are for training: they know
of ranks and of memory. The functions before them are plain and for one process.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.blocks.collective import ALONE, Joiner, World
from diptych.blocks.init import Init, draw_matrix
from diptych.errors import UsageError
from diptych.objectives.lean import NEVER, LeanJob, lean_contrastive_loss
from diptych.objectives.relation import Relation


class ContrastiveHead(nn.Module):
    """Projects pooled tokens into the common space; holds the learned temperature.

    Two projections without bias and one scalar, which `current_temperature` keeps within `bounds`.
    """

    def __init__(
        self,
        width: int,
        dim: int = 0,
        temperature: float = 0.07,
        bounds: tuple[float, float] = (0.001, 0.5),
        init: Init = "published",
    ) -> None:
        """Create the head; `dim` 0 means `width`; weights from N(0, 0.02) (published) or by fan-in (ours)."""
        super().__init__()
        low, high = bounds
        if not 0 < low <= temperature <= high:
            raise UsageError(
                f"temperature {temperature} is outside its bounds {low} to {high} (which must be positive)"
            )
        self.bounds = bounds
        self.visual = nn.Linear(width, dim or width, bias=False)
        self.text = nn.Linear(width, dim or width, bias=False)
        self.temperature = nn.Parameter(torch.tensor(float(temperature)))
        for projection in (self.visual, self.text):
            if init == "published":
                nn.init.normal_(projection.weight, std=0.02)
            else:
                draw_matrix(projection.weight, init, width)

    def project_visual(self, pooled: Tensor) -> Tensor:
        """Turn pooled picture tokens [N, width] into unit vectors [N, dim] float32."""
        return F.normalize(self.visual(pooled).float(), dim=-1)

    def project_text(self, pooled: Tensor) -> Tensor:
        """Turn pooled text tokens [M, width] into unit vectors [M, dim] float32."""
        return F.normalize(self.text(pooled).float(), dim=-1)

    def current_temperature(self) -> Tensor:
        """Return the temperature (scalar), first moved back into its bounds as the published code does.

        The parameter itself is moved instead of using a clamped copy: a copy would have no gradient outside
        the bounds and could never come back.
        """
        # Through `.data`: two tasks of one step may share the head, and the second move changes nothing that
        # the first one's graph has kept.
        self.temperature.data.clamp_(*self.bounds)
        return self.temperature


def contrastive_logits(image_features: Tensor, text_features: Tensor, temperature: Tensor | float) -> Tensor:
    """Return similarities over temperature, [N, M] float32 also under autocast.

    Args:
        image_features: [N, D] unit vectors.
        text_features: [M, D] unit vectors.
        temperature: scalar above 0.
    """
    with torch.autocast(image_features.device.type, enabled=False):
        return image_features.float() @ text_features.float().t() / temperature


def matches(image_ids: Tensor, text_ids: Tensor) -> Tensor:
    """Return [N, M] bool: picture and text carry equal match ids ([N] and [M] int64)."""
    return image_ids[:, None] == text_ids[None, :]


def contrastive_loss(logits: Tensor, matching: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the mean of the picture-to-text and text-to-picture soft cross-entropies (scalar).

    Args:
        logits: [N, M] similarities over temperature.
        matching: [N, M] bool. The target of a row (and of a column) is spread evenly over its matches; rows
            and columns without any match are left out of the mean.
        label_smoothing: share of every target that is spread evenly over all candidates.
    """
    to_text = _soft_cross_entropy(logits, matching, label_smoothing)
    to_image = _soft_cross_entropy(logits.t(), matching.t(), label_smoothing)
    return (to_text + to_image) / 2


def itc_loss(
    image_features: Tensor,
    text_features: Tensor,
    temperature: Tensor | float,
    match_ids: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the contrastive loss of aligned unit vectors, both [N, D] (scalar).

    Without `match_ids` [N] int64 picture i matches text i only (one-hot; the published code has a defect
    there: it takes the numbers 0..N-1 as weights). With them, all pairs of equal id are positives.
    """
    logits = contrastive_logits(image_features, text_features, temperature)
    if match_ids is None:
        match_ids = torch.arange(len(image_features), device=logits.device)
    return contrastive_loss(logits, matches(match_ids, match_ids), label_smoothing)


def supervised_contrastive_loss(features: Tensor, temperature: Tensor | float, match_ids: Tensor) -> Tensor:
    """Return the supervised contrastive loss among pictures [N, D] (scalar): equal ids attract each other.

    One concept in several styles should lie at one place. A picture is no candidate for itself; pictures
    without a partner in the batch are left out; 0 if there is no pair at all.
    """
    logits = contrastive_logits(features, features, temperature)
    itself = torch.eye(len(features), dtype=torch.bool, device=features.device)
    logits = logits.masked_fill(itself, NEVER)
    return _soft_cross_entropy(logits, matches(match_ids, match_ids) & ~itself)


def contrast(
    image_features: Tensor,
    text_features: Tensor,
    temperature: Tensor | float,
    relation: Relation,
    *,
    world: World = ALONE,
    label_smoothing: float = 0.0,
    chunk: int = 0,
) -> tuple[Tensor, Tensor]:
    """Return the contrastive loss of the global batch and the share of pictures whose best text is right.

    Loss and share are the same on every rank.

    Args:
        image_features: [N, D] unit vectors of this rank's pictures.
        text_features: [M, D] unit vectors of the texts of all ranks, joined with gradient.
        temperature: scalar above 0.
        relation: which of the N pictures match which of the M texts.
        world: the ranks; pictures of all ranks are candidates of the texts.
        label_smoothing: as in `contrastive_loss`.
        chunk: pictures whose similarities are held at once (`lean_contrastive_loss`); 0: all.
    """
    if world.size > 1 or 0 < chunk < len(image_features):
        job = LeanJob(relation, chunk, world, label_smoothing)
        return lean_contrastive_loss(image_features, text_features, temperature, job)
    logits, matching = contrastive_logits(image_features, text_features, temperature), relation.block()
    right = matching.gather(1, logits.detach().argmax(1, keepdim=True))
    return contrastive_loss(logits, matching, label_smoothing), right.float().mean()


def contrast_pictures(
    features: Tensor, temperature: Tensor | float, match_ids: Tensor, join: Joiner, chunk: int = 0
) -> Tensor:
    """Return `supervised_contrastive_loss` of the pictures of all ranks, the same on every rank.

    Args:
        features: [N, D] unit vectors of this rank's pictures.
        temperature: scalar above 0.
        match_ids: [N] int64.
        join: of these pictures.
        chunk: pictures whose similarities are held at once; 0: all.
    """
    if join.world.size == 1 and not 0 < chunk < len(features):
        return supervised_contrastive_loss(features, temperature, match_ids)
    relation = Relation(match_ids, join(match_ids))
    job = LeanJob(relation, chunk, join.world, columns_too=False, itself=join.start)
    return lean_contrastive_loss(features, join(features), temperature, job)[0]


def _soft_cross_entropy(logits: Tensor, matching: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with targets spread evenly over `matching`, mean over rows that match anything."""
    counts = matching.sum(1)
    target = matching.float() / counts.clamp(min=1)[:, None]
    if label_smoothing:
        target = target * (1 - label_smoothing) + label_smoothing / logits.shape[1]
    per_row = -(target * logits.log_softmax(1)).sum(1)
    counted = counts > 0
    return (per_row * counted).sum() / counted.sum().clamp(min=1)
