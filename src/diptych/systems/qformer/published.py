"""Published checkpoints of VideoChat2's stage 1 as `diptych.train.published` reads and writes them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from diptych.systems.importing import ImportOptions, Parts
from diptych.systems.qformer.checkpoint import import_checkpoint, import_parts
from diptych.systems.qformer.config import QFormerSystemConfig
from diptych.systems.qformer.convert import published_name, to_published

TOKENS = 32
"""Length of texts in stage 1."""
_HEADS = ("temperature", "itm.", "caption.")


class QFormerConverter:
    """Turns published checkpoints into settings and weights, and weights into published ones."""

    def read(self, checkpoint: Path, options: ImportOptions) -> Parts:
        """Return settings, weights and the published keys that were left out; see `import_checkpoint`.

        Raises:
            UsageError: an option that the Q-Former has no use for.
        """
        options.refuse(routing="the Q-Former has no experts")
        config, state, ignored = import_checkpoint(checkpoint, options.attention_heads, options.image_size)
        if options.heads == "none":
            dropped = [name for name in state if name.startswith(_HEADS)]
            state = {name: tensor for name, tensor in state.items() if name not in dropped}
            ignored = sorted([*ignored, *dropped])
        return settings_of(config, state), state, ignored

    def publish(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return published weights, and our names without a place among them."""
        known = {name: tensor for name, tensor in state.items() if published_name(name) is not None}
        return to_published(known), sorted(state.keys() - known.keys())

    def assemble(self, *, backbone: Path | None, bert: Path | None, layers: int | None) -> Parts:
        """Return settings, weights to start stage 1 from, and the keys that were left out."""
        fields, state, ignored = import_parts(backbone, bert, layers)
        config = QFormerSystemConfig.model_validate(fields)
        return {"system": config.model_dump(mode="json")}, state, ignored


CONVERTER = QFormerConverter()


def settings_of(config: QFormerSystemConfig, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the sections `system`, `data` and, where its heads are there, `task` of a run."""
    found = {
        "system": config.model_dump(mode="json"),
        "data": {
            "image": {"size": config.image_size, "resize": "crop"},
            "video": {"frames": config.frames, "short": "last"},
            "text": {"max_tokens": min(TOKENS, config.qformer.max_text_tokens)},
        },
    }
    head = state.get("itm.classifier.weight")
    if head is None or "caption.bias" not in state or "temperature" not in state:
        return found
    pair = "concat" if head.shape[1] == 2 * config.qformer.width else "queries"
    return found | {"task": {"name": "qformer_align", "pair": pair}}
