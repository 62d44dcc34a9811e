"""What the demo runs, in which order, and under which names."""

from dataclasses import dataclass

PRETRAIN = "eve/pretrain/emoji_tiny"
FINETUNE = "eve/finetune/emoji_tiny"
BASELINE = "two_tower/pretrain/emoji_tiny"


@dataclass(frozen=True)
class Stage:
    """One training run of the demo, a folder of the demo's directory."""

    name: str
    recipe: str
    label: str
    """What the report calls it."""
    starts_from: str = ""
    """Stage whose weights it takes."""
    same_cpu_as: tuple[str, ...] = ()
    """Stages whose CPU seconds together are its budget."""


STAGES = (
    Stage("pretrain", PRETRAIN, "EVE pre-training"),
    Stage("finetune", FINETUNE, "EVE", starts_from="pretrain"),
    Stage("baseline", BASELINE, "two towers", same_cpu_as=("pretrain", "finetune")),
)
EVALUATED = ("finetune", "baseline")
SPLIT = "unseen_style"
