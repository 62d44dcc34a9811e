"""The Q-Former system as the table of systems knows it."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from diptych.blocks.qformer import QFormerConfig
from diptych.blocks.video_vit import VideoVitConfig
from diptych.errors import UsageError
from diptych.systems.protocol import SystemConfig, VisionLanguageModel
from diptych.systems.qformer.config import QFormerSystemConfig
from diptych.systems.qformer.convert import from_published, published_names, to_published
from diptych.systems.qformer.model import QFormerModel


class QFormerSystem:
    """Builds the model of VideoChat2's first stage and converts its weights."""

    name = "qformer"
    config_class: type[SystemConfig] = QFormerSystemConfig
    supports = frozenset(
        {"multiple_choice", "nlvr", "qformer_align", "retrieval_levels", "retrieval_matching", "vqa"}
    )

    def build(self, config: SystemConfig) -> VisionLanguageModel:
        """Build the model with fresh weights (drawn from torch's global generator)."""
        if not isinstance(config, QFormerSystemConfig):
            raise UsageError(f"system qformer: expected a QFormerSystemConfig, got {type(config).__name__}")
        return QFormerModel(config)

    def toy_config(self) -> QFormerSystemConfig:
        """Return one visual layer and two of the Q-Former."""
        return QFormerSystemConfig(
            image_size=16,
            frames=2,
            video=VideoVitConfig(width=16, layers=1, heads=2, hidden=24, patch_size=8),
            qformer=QFormerConfig(
                queries=3,
                extra_queries=0,
                width=32,
                layers=2,
                heads=4,
                hidden=48,
                vocab_size=121,
                max_text_tokens=16,
                dropout=0.0,
                drop_path=0.0,
            ),
            embed_dim=24,
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


SYSTEM = QFormerSystem()
