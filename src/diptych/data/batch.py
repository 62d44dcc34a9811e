"""What the loader hands to a task."""

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

if TYPE_CHECKING:
    from diptych.data.packing import PackedTexts


def views(images: Tensor, frames: int) -> Tensor:
    """Return clips of several views each, [B, V * N, 3, H, W], as clips of N frames [B * V, N, 3, H, W].

    What a model says of a video is the mean over its V consecutive rows (`data.video.clips`, `crops`).
    """
    return images.reshape(-1, frames, *images.shape[2:])


@dataclass(frozen=True)
class Batch:
    """Aligned samples. B samples, L text tokens, H x W pixels. Fields a recipe does not ask for are None."""

    keys: list[str]
    positions: Tensor
    """[B] int64: global positions in the sample order (they seed per-sample randomness)."""
    match_ids: Tensor
    """[B] int64: equal numbers match each other (hash of `Sample.match_id`)."""
    images: Tensor | None = None
    """[B, 3, H, W] uint8, RGB, in memory with the channels last; normalised on the device, never in a worker.
    [B, 2, 3, H, W] for statements about two pictures, [B, N, 3, H, W] for clips of N frames (with several
    views of a video: clip after clip, `views`). Straight from the training loader there is opacity as a
    fourth channel, if `data.augment.keeps_opacity`: `augment` lays it on a background."""
    image_sizes: Tensor | None = None
    """[B, 2] int64: height and width of each picture inside a frame that is padded at the bottom and on the
    right ([B, 2, 2] for two pictures, [B, N, 2] for clips); None: every picture fills its frame."""
    frame_mask: Tensor | None = None
    """[B, N] bool of clips: False at frames that repeat one (a picture is a video of one frame, short videos
    are filled up); None: every frame is a new one, or there are no clips."""
    texts: list[str] | None = None
    """The caption chosen for each sample; the question of a choice, which may be empty."""
    text_ids: Tensor | None = None
    """[B, L] int64, padded on the right; [B, G, L] with G captions a picture (`data.text.per_picture`) or the
    G = 5 options of a choice, each behind its question (`data.examples = choices`)."""
    text_mask: Tensor | None = None
    """[B, L] or [B, G, L] bool, True at real tokens."""
    packed: "PackedTexts | None" = None
    """The same texts, several in a sequence (`data.loader.pack`); `take` drops it."""
    sources: Tensor | None = None
    """[B] int64: number of the source that each sample comes from; None where there is one."""
    labels: list[str] | None = None
    """What each sample trains: `data.sources.<name>.task`, or the source's name; None without
    `data.sources`."""
    draw: int | None = None
    """Number of the draw in the run, where the batch is this rank's alone (`data.mixture.draw` =
    `rank_batches`)."""
    captions: list[tuple[str, ...]] | None = None
    """All captions of each sample (evaluation; in training where the task asks for them)."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Samples left out of this batch, by cause."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Fields of particular tasks, one value a sample: facts that they ask for (`Task.facts`); `questions`,
    `statements` or `choices`: the entry of each row of that kind as the dataset has it, with answers, label
    or the place of the right option (`data.examples`)."""

    def __len__(self) -> int:
        return len(self.keys)

    def tensors(self) -> list[Tensor]:
        """Return all tensors of the batch."""
        values = [getattr(self, f.name) for f in fields(self)] + list(self.extra.values())
        if self.packed is not None:
            values += [getattr(self.packed, f.name) for f in fields(self.packed)]
        return [value for value in values if isinstance(value, Tensor)]

    def take(self, rows: Tensor) -> Self:
        """Return some samples of the batch, by rows [n] int64; `extra` must hold one value a sample."""
        numbers = rows.tolist()

        def taken(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value[rows.to(value.device)]
            return [value[i] for i in numbers] if isinstance(value, list) else value

        kept = {
            f.name: taken(getattr(self, f.name))
            for f in fields(self)
            if f.name not in ("skipped", "extra", "packed")
        }
        return replace(
            self, **kept, packed=None, extra={name: taken(value) for name, value in self.extra.items()}
        )

    def to(self, device: torch.device, *, non_blocking: bool = False) -> Self:
        """Return the batch with all its tensors on `device`."""
        moved = {
            f.name: getattr(self, f.name).to(device, non_blocking=non_blocking)
            for f in fields(self)
            if isinstance(getattr(self, f.name), Tensor)
        }
        extra = {
            k: v.to(device, non_blocking=non_blocking) if isinstance(v, Tensor) else v
            for k, v in self.extra.items()
        }
        packed = None if self.packed is None else self.packed.to(device, non_blocking=non_blocking)
        return replace(self, **moved, packed=packed, extra=extra)
