"""The two-tower baseline as the table of systems knows it."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from diptych.blocks.stem import ConvStemConfig
from diptych.errors import UsageError
from diptych.systems.protocol import SystemConfig, VisionLanguageModel
from diptych.systems.two_tower.config import TwoTowerConfig
from diptych.systems.two_tower.model import TwoTowerModel


class TwoTowerSystem:
    """Builds the baseline. It is ours, so there are no published checkpoints to convert."""

    name = "two_tower"
    config_class: type[SystemConfig] = TwoTowerConfig
    supports = frozenset({"classification", "multiple_choice", "retrieval", "retrieval_levels"})

    def build(self, config: SystemConfig) -> VisionLanguageModel:
        """Build the model with fresh weights (drawn from torch's global generator)."""
        if not isinstance(config, TwoTowerConfig):
            raise UsageError(f"system two_tower: expected a TwoTowerConfig, got {type(config).__name__}")
        return TwoTowerModel(config)

    def toy_config(self) -> TwoTowerConfig:
        """Return towers of one layer on 4 image tokens."""
        return TwoTowerConfig(
            image_size=16,
            stem="conv",
            conv=ConvStemConfig(channels=(8, 16, 16), strides=(2, 2, 2), blocks=(0, 0, 0)),
            class_mean=True,
            width=32,
            image_layers=1,
            text_layers=1,
            heads=4,
            hidden=48,
            vocab_size=120,
            max_text_tokens=16,
            init="fan_in",
        )

    def state_to_published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Refuse: nobody published this model."""
        raise UsageError("system two_tower is Diptych's own baseline: there is no published layout")

    def state_from_published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Refuse: nobody published this model."""
        raise UsageError("system two_tower is Diptych's own baseline: there are no published checkpoints")

    def published_names(self, names: Iterable[str]) -> dict[str, str]:
        """Refuse: nobody published this model."""
        raise UsageError("system two_tower is Diptych's own baseline: there are no published names")


SYSTEM = TwoTowerSystem()
