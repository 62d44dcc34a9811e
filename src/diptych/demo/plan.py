"""What the demo runs, in which order, and under which names."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """One training run of the demo, a folder of the demo's directory."""

    name: str
    recipe: str
    label: str
    """What the report calls it."""
    cpu_seconds: float
    """Its budget."""
    starts_from: str = ""
    """Stage whose weights it takes."""


PRETRAIN = Stage("pretrain", "eve/pretrain/emoji_tiny", "EVE pre-training", 25.0)
FINETUNE = Stage("finetune", "eve/finetune/emoji_tiny", "EVE", 165.0, starts_from="pretrain")
BASELINE = Stage(
    "baseline",
    "two_tower/pretrain/emoji_tiny",
    "two towers",
    PRETRAIN.cpu_seconds + FINETUNE.cpu_seconds,
)
OURS = (PRETRAIN, FINETUNE)
STAGES = (*OURS, BASELINE)
EVALUATED = (FINETUNE.name, BASELINE.name)
SPLIT = "unseen_style"
