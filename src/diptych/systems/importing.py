"""What converters of published checkpoints share: what readers are told, and names that must exist."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any, Literal

from torch import Tensor

from diptych.errors import CheckpointError, UsageError

Heads = Literal["best", "own", "none"]
Routing = Literal["published", "dropless"]
VisualType = Literal["auto", "merge", "use", "drop"]
"""What becomes of the type row of patches of Uni-Perceiver: into the bias of the patches, added by the model,
or left out. `auto`: former dense checkpoints need it in the bias, all others are taken as they are."""

Parts = tuple[dict[str, Any], dict[str, Tensor], list[str]]
"""Settings (sections of `RunConfig`), our weights, and the published keys that have no place, sorted."""


@dataclass(frozen=True)
class ImportOptions:
    """How a published checkpoint is read."""

    heads: Heads = "best"
    """Which retrieval heads to take; see `diptych.systems.eve.convert.LoadRules`."""
    image_size: int | None = None
    """Side of the pictures to come, for which the position table is resized; None: as it is."""
    attention_heads: int | None = None
    """None: one per 64 of width, or what the system's checkpoints have."""
    routing: Routing = "published"
    """published: experts drop tokens beyond their capacity. dropless: Diptych's default."""
    visual_type: VisualType = "auto"
    """Of Uni-Perceiver."""

    def refuse(self, **reasons: str) -> None:
        """Stop at an option that a system has no use for.

        Args:
            reasons: name of an option -> why it must stay as it is.

        Raises:
            UsageError: one of them is not at its default.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in reasons and value != field.default:
                raise UsageError(f"{field.name.replace('_', ' ')} = {value}: {reasons[field.name]}")


def names_in_published(names: Iterable[str], published_name: Callable[[str], str | None]) -> dict[str, str]:
    """Return our names of weights -> their published names.

    Raises:
        CheckpointError: weights that the published layout has no name for.
    """
    found = {name: published_name(name) for name in names}
    unknown = sorted(name for name, theirs in found.items() if theirs is None)
    if unknown:
        raise CheckpointError(f"weights without a name in published checkpoints: {', '.join(unknown)}")
    return {name: theirs for name, theirs in found.items() if theirs is not None}
