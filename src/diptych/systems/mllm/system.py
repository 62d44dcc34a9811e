"""Multimodal language models as the table of systems knows them."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from diptych.data.tiling_config import TilingConfig
from diptych.errors import UsageError
from diptych.systems.mllm.config import LanguageConfig, LoraConfig, MllmConfig, PartialLoraConfig
from diptych.systems.mllm.connector import TilesConfig
from diptych.systems.mllm.model import MllmModel
from diptych.systems.mllm.vision import VisionConfig
from diptych.systems.protocol import SystemConfig, VisionLanguageModel

TOY_EVE = {
    "name": "eve",
    "image_size": 16,
    "stem": "conv",
    "conv": {"channels": [8, 16, 16], "strides": [2, 2, 2], "blocks": [0, 0, 0]},
    "class_mean": True,
    "width": 32,
    "layers": 1,
    "heads": 4,
    "hidden": 48,
    "vocab_size": 40,
    "max_text_tokens": 16,
    "drop_path": 0.0,
    "text_dropout": 0.0,
    "init": "fan_in",
    "moe_layers": [],
}
TOY_LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}


class MllmSystem:
    """Builds multimodal language models; 4KHD and VideoChat2 have converters of their own."""

    name = "mllm"
    config_class: type[SystemConfig] = MllmConfig
    supports = frozenset({"instruct", "mllm_eval", "mllm_words"})

    def build(self, config: SystemConfig) -> VisionLanguageModel:
        """Build the model: parts that have a path are loaded from there, others drawn (torch's generator)."""
        if not isinstance(config, MllmConfig):
            raise UsageError(f"system mllm: expected an MllmConfig, got {type(config).__name__}")
        return MllmModel(config)

    def toy_config(self) -> MllmConfig:
        """Return a language model of two layers of width 32 that reads pictures of 4 tokens."""
        return MllmConfig(
            vision=VisionConfig(kind="diptych", settings=TOY_EVE),
            tiling=TilingConfig(tile=16),
            connector=TilesConfig(merge=1),
            language=LanguageConfig(
                path="",
                settings=TOY_LLAMA,
                template="chatml",
                lora=LoraConfig(rank=2),
                plora=PartialLoraConfig(rank=2),
            ),
        )

    def state_to_published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Refuse: there is no one published layout."""
        raise UsageError(
            "system mllm: `diptych convert mllm RUN OUT --to-hf` writes a folder of Hugging Face"
        )

    def state_from_published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Refuse: published models have converters of their own."""
        raise UsageError("system mllm: published models have converters of their own, see docs/mllm.md")

    def published_names(self, names: Iterable[str]) -> dict[str, str]:
        """Refuse: there is no one published layout."""
        raise UsageError("system mllm: there is no one published layout")


SYSTEM = MllmSystem()
