"""EVE as the table of systems knows it."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from diptych.blocks.router import RouterConfig
from diptych.blocks.stem import ConvStemConfig
from diptych.errors import CheckpointError, UsageError
from diptych.systems.eve.config import EveConfig
from diptych.systems.eve.convert import from_published, head_names, to_published
from diptych.systems.eve.keys import POSITION_IDS
from diptych.systems.eve.model import EveModel
from diptych.systems.protocol import SystemConfig, VisionLanguageModel


class EveSystem:
    """Builds EVE and converts its weights."""

    name = "eve"
    config_class: type[SystemConfig] = EveConfig
    supports = frozenset(
        {
            "classification",
            "eve_pretrain",
            "multiple_choice",
            "nlvr",
            "retrieval",
            "retrieval_levels",
            "retrieval_matching",
            "vqa",
        }
    )

    def build(self, config: SystemConfig) -> VisionLanguageModel:
        """Build the model with fresh weights (drawn from torch's global generator)."""
        if not isinstance(config, EveConfig):
            raise UsageError(f"system eve: expected an EveConfig, got {type(config).__name__}")
        return EveModel(config)

    def toy_config(self) -> EveConfig:
        """Return a model of 4 image tokens, two layers and three experts."""
        return EveConfig(
            image_size=16,
            stem="conv",
            conv=ConvStemConfig(channels=(8, 16, 16), strides=(2, 2, 2), blocks=(0, 0, 0)),
            class_mean=True,
            width=32,
            layers=2,
            heads=4,
            hidden=48,
            vocab_size=120,
            max_text_tokens=16,
            drop_path=0.0,
            text_dropout=0.0,
            init="fan_in",
            moe_layers=(1,),
            experts=3,
            router=RouterConfig(),
        )

    def state_to_published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turn a task's weights (`model.*` and heads) into the published keys."""
        return to_published(state)

    def state_from_published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turn a published checkpoint's weights into ours; heads by the rule `best`."""
        return from_published(state).state

    def published_names(self, names: Iterable[str]) -> dict[str, str]:
        """Return parameter name -> published name, where there is one (of experts the first one's)."""
        asked = list(names)
        heads = head_names(asked)
        found = {name: heads[name] for name in asked if name in heads}
        stand_in = torch.empty(1, 1, device="meta")
        for name in asked:
            if name.startswith("model."):
                try:
                    theirs = to_published({name: stand_in})
                except CheckpointError:
                    continue  # a part that nobody published, as a convolutional stem
                found[name] = next(n for n in theirs if not n.endswith(POSITION_IDS))
        return found


SYSTEM = EveSystem()
