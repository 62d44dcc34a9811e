"""Published SOHO checkpoints as `diptych.train.published` reads and writes them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from diptych.systems.importing import ImportOptions, Parts
from diptych.systems.soho.checkpoint import LAYERS, import_checkpoint, import_parts
from diptych.systems.soho.config import SohoConfig
from diptych.systems.soho.convert import HEADS, publishable, to_published

TOKENS = 16
"""Length of texts in both released configurations."""
TEXTS = 4
"""Texts of a picture in pre-training."""
MASKED = 0.015
"""Rows with a hidden visual word, released."""
ANSWERS = "vqa.classifier.weight"
MATCHING = "itm.weight"
PICTURES = {"resize": "fit", "long": 1000, "short": 600, "multiple": 32, "interpolation": "opencv"}
"""`data.image` of both released configurations (training of VQA draws the shorter side)."""


class SohoConverter:
    """Turns published checkpoints into settings and weights, and weights into published ones."""

    def read(self, checkpoint: Path, options: ImportOptions) -> Parts:
        """Return settings, weights and the published keys that were left out; see `import_checkpoint`.

        Raises:
            UsageError: an option that SOHO has no use for.
        """
        options.refuse(
            image_size="SOHO takes pictures of any size and has no table to resize",
            routing="SOHO has no experts",
        )
        config, state, ignored = import_checkpoint(checkpoint, options.attention_heads)
        if options.heads == "none":
            dropped = {theirs for theirs, ours in HEADS.items() if state.pop(ours, None) is not None}
            ignored = sorted([*ignored, *dropped])
        return settings_of(config, state), state, ignored

    def publish(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return published weights, and our names that have no place among them."""
        known = publishable(state)
        return to_published(known), sorted(state.keys() - known.keys())

    def assemble(self, *, backbone: Path | None, bert: Path | None, layers: int | None) -> Parts:
        """Return settings, weights to start pre-training from, and the keys that were left out."""
        fields, state, ignored = import_parts(backbone, bert, layers or LAYERS)
        return {"system": SohoConfig(**fields).model_dump(mode="json")}, state, ignored


CONVERTER = SohoConverter()


def settings_of(config: SohoConfig, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the sections `system`, `data` and, where its heads are there, `task` of a run.

    Pictures and texts are read as released; a checkpoint with the heads of both tasks is one of VQA.
    """
    data: dict[str, Any] = {
        "image": dict(PICTURES),
        "text": {"max_tokens": min(TOKENS, config.max_text_tokens)},
    }
    task: dict[str, Any] = {}
    if ANSWERS in state:
        data["examples"] = "questions"
        count = state[ANSWERS].shape[0]
        task = {"name": "vqa", "head": "dropout", "answer_count": count, "unanswerable": "count"}
    elif MATCHING in state and config.neck != "plain":
        data["text"] |= {"per_picture": TEXTS, "pick": "random"}
        task = {"name": "soho_pretrain", "visual_mask": "published", "visual_mask_ratio": MASKED}
    return {"system": config.model_dump(mode="json"), "data": data, **({"task": task} if task else {})}
