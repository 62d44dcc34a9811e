"""Published Uni-Perceiver checkpoints as `diptych.train.published` reads and writes them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from diptych.systems.importing import ImportOptions, Parts
from diptych.systems.uniperceiver.checkpoint import import_checkpoint
from diptych.systems.uniperceiver.config import UniPerceiverConfig
from diptych.systems.uniperceiver.convert import published_name, to_published

TOKENS = 50
"""Length of texts in most published configurations."""
WORDS = 49411
"""Rows of the published word table."""
ZOOM = 256 / 224
"""Pictures of ImageNet are enlarged by so much before their centre is cut out."""


class UniPerceiverConverter:
    """Turns published checkpoints into settings and weights, and weights into published ones."""

    tokenizer = "uniperceiver"
    """The packaged tokenizer, where none is given."""
    visual_types = True

    def read(self, checkpoint: Path, options: ImportOptions) -> Parts:
        """Return settings, weights and the published keys that were left out; see `import_checkpoint`.

        Raises:
            UsageError: an option that Uni-Perceiver has no use for.
        """
        options.refuse(
            routing="experts of Uni-Perceiver are mixed and never drop tokens",
            heads="Uni-Perceiver has no heads",
        )
        config, state, ignored = import_checkpoint(
            checkpoint, options.attention_heads, options.image_size, options.visual_type
        )
        return settings_of(config), state, ignored

    def publish(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return published weights, and our names that have no place among them."""
        known = {name: tensor for name, tensor in state.items() if published_name(name) is not None}
        return to_published(known), sorted(state.keys() - known.keys())


CONVERTER = UniPerceiverConverter()


def settings_of(config: UniPerceiverConfig) -> dict[str, Any]:
    """Return the sections `system`, `data` and `task` of a run: classification by the names of ImageNet-1k.

    Any task that the system can do is evaluated by `task.name` and its settings; there are no heads.
    """
    text = {"max_tokens": min(TOKENS, config.max_text_tokens), "padding": "longest"}
    published = config.vocab_size == WORDS
    data: dict[str, Any] = {
        "image": {"size": config.image_size, "resize": "zoom_crop", "zoom_eval": ZOOM},
        "text": text | ({"tokenizer": "uniperceiver"} if published else {"specials": "uniperceiver"}),
    }
    task: dict[str, Any] = {"name": "classification", "target": "imagenet-1k"}
    if config.prompts.labels or config.prompts.classes:
        task = {}  # their number of classes is another one
    return {"system": config.model_dump(mode="json"), "data": data, **({"task": task} if task else {})}
