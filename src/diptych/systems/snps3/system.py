"""SNP-S3 as the table of systems knows it."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from diptych.blocks.video_swin import VideoSwinConfig
from diptych.errors import UsageError
from diptych.systems.protocol import SystemConfig, VisionLanguageModel
from diptych.systems.snps3.config import SnpS3Config
from diptych.systems.snps3.convert import from_published, published_names, to_published
from diptych.systems.snps3.model import SnpS3Model


class SnpS3System:
    """Builds SNP-S3 and converts its weights."""

    name = "snps3"
    config_class: type[SystemConfig] = SnpS3Config
    supports = frozenset(
        {
            "classification",
            "multiple_choice",
            "nlvr",
            "retrieval",
            "retrieval_levels",
            "retrieval_matching",
            "snps3_pretrain",
            "vqa",
        }
    )

    def build(self, config: SystemConfig) -> VisionLanguageModel:
        """Build the model with fresh weights (drawn from torch's global generator)."""
        if not isinstance(config, SnpS3Config):
            raise UsageError(f"system snps3: expected an SnpS3Config, got {type(config).__name__}")
        return SnpS3Model(config)

    def toy_config(self) -> SnpS3Config:
        """Return a model of a narrow Video Swin and two text layers."""
        return SnpS3Config(
            image_size=32,
            frames=2,
            swin=VideoSwinConfig(
                width=4, depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), window=(2, 3, 3), drop_path=0
            ),
            width=32,
            layers=2,
            heads=4,
            hidden=48,
            vocab_size=120,
            max_text_tokens=16,
            separator=3,
            dropout=0.0,
            attention_dropout=0.0,
        )

    def state_to_published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turn a task's weights (`model.*` and heads) into the published keys."""
        swin = any(name.startswith("model.visual.encoder.patch_embed.") for name in state)
        return to_published(state, "swin" if swin else "pvt")

    def state_from_published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turn a published checkpoint's weights into ours."""
        return from_published(state).state

    def published_names(self, names: Iterable[str]) -> dict[str, str]:
        """Return parameter name -> published name, where there is one."""
        return published_names(names)


SYSTEM = SnpS3System()
