"""SOHO as the table of systems knows it."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from diptych.blocks.dictionary import DictionaryConfig
from diptych.blocks.resnet import ResNetConfig
from diptych.errors import UsageError
from diptych.systems.protocol import SystemConfig, VisionLanguageModel
from diptych.systems.soho.config import SohoConfig
from diptych.systems.soho.convert import from_published, published_names, to_published
from diptych.systems.soho.model import SohoModel


class SohoSystem:
    """Builds SOHO and converts its weights."""

    name = "soho"
    config_class: type[SystemConfig] = SohoConfig
    supports = frozenset({"multiple_choice", "nlvr", "retrieval_matching", "soho_pretrain", "vqa"})

    def build(self, config: SystemConfig) -> VisionLanguageModel:
        """Build the model with fresh weights (drawn from torch's global generator)."""
        if not isinstance(config, SohoConfig):
            raise UsageError(f"system soho: expected a SohoConfig, got {type(config).__name__}")
        return SohoModel(config)

    def toy_config(self) -> SohoConfig:
        """Return a model of a very narrow CNN, two layers and eight dictionary entries."""
        return SohoConfig(
            backbone=ResNetConfig(depth=18, stem_channels=4, base_channels=4),
            width=32,
            layers=2,
            heads=4,
            hidden=48,
            vocab_size=120,
            max_text_tokens=16,
            dropout=0.0,
            attention_dropout=0.0,
            neck="gated",
            dictionary=DictionaryConfig(codes=8),
        )

    def state_to_published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turn a task's weights (`model.*` and heads) into the published keys."""
        return to_published(state)

    def state_from_published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turn a published checkpoint's weights into ours."""
        return from_published(state).state

    def published_names(self, names: Iterable[str]) -> dict[str, str]:
        """Return parameter name -> published name, where there is one."""
        return published_names(names)


SYSTEM = SohoSystem()
