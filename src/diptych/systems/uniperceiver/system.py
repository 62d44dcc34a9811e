"""Uni-Perceiver as the table of systems knows it."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from diptych.errors import UsageError
from diptych.systems.protocol import SystemConfig, VisionLanguageModel
from diptych.systems.uniperceiver.config import UniPerceiverConfig
from diptych.systems.uniperceiver.convert import from_published, published_names, to_published
from diptych.systems.uniperceiver.model import UniPerceiverModel


class UniPerceiverSystem:
    """Builds Uni-Perceiver, dense or with experts, and converts its weights."""

    name = "uniperceiver"
    config_class: type[SystemConfig] = UniPerceiverConfig
    supports = frozenset(
        {
            "captioning",
            "classification",
            "glue",
            "multiple_choice",
            "nlvr",
            "retrieval",
            "retrieval_levels",
            "retrieval_matching",
            "uniperceiver_words",
            "vqa",
        }
    )

    def build(self, config: SystemConfig) -> VisionLanguageModel:
        """Build the model with fresh weights (drawn from torch's global generator)."""
        if not isinstance(config, UniPerceiverConfig):
            raise UsageError(
                f"system uniperceiver: expected a UniPerceiverConfig, got {type(config).__name__}"
            )
        return UniPerceiverModel(config)

    def toy_config(self) -> UniPerceiverConfig:
        """Return a model of two narrow layers for a tokenizer that was trained with its special tokens."""
        return UniPerceiverConfig(
            image_size=16,
            patch_size=8,
            max_frames=2,
            width=32,
            layers=2,
            heads=4,
            hidden=48,
            vocab_size=120,
            max_text_tokens=24,
            slot=3,
            end=2,
            layer_scale=0.1,
            drop_path=0.0,
        )

    def state_to_published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turn a task's weights (`model.*`) into the published keys."""
        return to_published(state)

    def state_from_published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turn a published checkpoint's weights into ours."""
        return from_published(state).state

    def published_names(self, names: Iterable[str]) -> dict[str, str]:
        """Return parameter name -> published name, where there is one."""
        return published_names(names)


SYSTEM = UniPerceiverSystem()
