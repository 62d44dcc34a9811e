"""Published SNP-S3 checkpoints as `diptych.train.published` reads and writes them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from diptych.systems.importing import ImportOptions, Parts
from diptych.systems.snps3.checkpoint import import_checkpoint, import_parts
from diptych.systems.snps3.config import SnpS3Config
from diptych.systems.snps3.layout import publishable, to_layout

TOKENS = 30
"""Length of texts in all published configurations."""
_HEADS = ("match.", "mlm.", "text_mlm.", "itm.", "vqa.", "moco.")
_LOSSES = {"match.": "level2", "mlm.": "mlm", "text_mlm.": "text_mlm", "itm.": "itm"}


class SnpS3Converter:
    """Turns published checkpoints into settings and weights, and weights into published ones."""

    def read(self, checkpoint: Path, options: ImportOptions) -> Parts:
        """Return settings, weights and the published keys that were left out; see `import_checkpoint`.

        Raises:
            UsageError: an option that SNP-S3 has no use for.
        """
        options.refuse(
            image_size="SNP-S3 has no table of positions to resize", routing="SNP-S3 has no experts"
        )
        config, state, ignored = import_checkpoint(checkpoint, options.attention_heads)
        if options.heads == "none":
            dropped = [name for name in state if name.startswith(_HEADS)]
            state = {name: tensor for name, tensor in state.items() if name not in dropped}
            ignored = sorted([*ignored, *dropped])
        return settings_of(config, state), state, ignored

    def publish(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return published weights, wrapped and with all names, and our names without a place among them."""
        return to_layout(state), sorted(state.keys() - publishable(state).keys())

    def assemble(self, *, backbone: Path | None, bert: Path | None, layers: int | None) -> Parts:
        """Return settings, weights to start pre-training from, and the keys that were left out."""
        fields, state, ignored = import_parts(backbone, bert, layers)
        return {"system": SnpS3Config(**fields).model_dump(mode="json")}, state, ignored


CONVERTER = SnpS3Converter()


def settings_of(config: SnpS3Config, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the sections `system`, `data` and, where its heads are there, `task` of a run."""
    image: dict[str, Any] = {"size": config.image_size, "resize": "crop"}
    if config.sizes == "any":
        image = {"resize": "fit", "long": 448, "short": 448, "multiple": 32}
    data: dict[str, Any] = {
        "image": image,
        "text": {"max_tokens": min(TOKENS, config.max_text_tokens)},
    }
    task = _task(state)
    if task.get("name") == "vqa":
        data["examples"] = "questions"
    found = {"system": config.model_dump(mode="json"), "data": data}
    return found | ({"task": task} if task else {})


def _task(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the task whose heads a checkpoint has."""
    answers = state.get("vqa.classifier.weight")
    if answers is not None:
        return {"name": "vqa", "head": "linear", "loss": "softmax", "answer_count": len(answers)}
    queue = state.get("moco.text_queue.features")
    level1 = {"level1": "batch"} if queue is None else {"level1": "queue", "queue": len(queue)}
    level1 |= {} if queue is None else {"queue_wrap": "published"}
    there = {head for head in _LOSSES if any(name.startswith(head) for name in state)}
    if there - {"match."}:
        off = {f"{loss}_weight": 0.0 for head, loss in _LOSSES.items() if head not in there}
        return {"name": "snps3_pretrain", "text_mlm": "published", **level1, **off}
    return {"name": "retrieval_levels", **level1} if there else {}
