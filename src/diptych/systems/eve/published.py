"""Published EVE checkpoints as `diptych.train.published` reads and writes them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from diptych.blocks.router import RouterConfig
from diptych.systems.eve.checkpoint import import_checkpoint
from diptych.systems.eve.config import EveConfig
from diptych.systems.eve.convert import (
    BIATTN_HEADS,
    PLAIN_HEADS,
    TASK_HEADS,
    VQA_HEADS,
    publishable,
    to_published,
)

PAIR_TOKENS = 40
"""Length of texts that are read together with pictures, in every published setting."""

_CLEANING = {
    "retrieval": {"clean": "caption", "max_words": 30},
    "vqa": {"clean": "question", "max_words": 50},
    "nlvr": {"clean": "caption", "max_words": 40},
}
_EXAMPLES = {"vqa": "questions", "nlvr": "statements"}


class EveConverter:
    """Turns published checkpoints into settings and weights, and weights into published ones."""

    def read(
        self,
        checkpoint: Path,
        *,
        heads: Literal["best", "own", "none"],
        image_size: int | None,
        attention_heads: int | None,
        routing: Literal["published", "dropless"],
    ) -> tuple[dict[str, Any], dict[str, Tensor], list[str]]:
        """Return settings, weights and the published keys that were left out; see `import_checkpoint`."""
        config, state, ignored = import_checkpoint(checkpoint, heads, image_size, attention_heads)
        if routing == "dropless":
            config = config.with_(router=RouterConfig(modality=config.router.modality))
        return settings_of(config, state), state, ignored

    def publish(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return published weights, and our names that have no place among them."""
        known = publishable(state)
        return to_published(known), sorted(state.keys() - known.keys())


CONVERTER = EveConverter()


def settings_of(config: EveConfig, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the sections `system`, `data` and, where a set of heads is complete, `task` of a run.

    Pictures are squeezed to the square and texts cleaned as in the published evaluations.
    """
    task = _task(config, state)
    name = task.get("name", "retrieval")
    text = {"max_tokens": min(PAIR_TOKENS, config.max_text_tokens), **_CLEANING[name]}
    data: dict[str, Any] = {"image": {"size": config.image_size, "resize": "squash"}, "text": text}
    if name in _EXAMPLES:
        data["examples"] = _EXAMPLES[name]
    return {"system": config.model_dump(mode="json"), "data": data, **({"task": task} if task else {})}


def _task(config: EveConfig, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the `task` section with the published evaluation; empty where no set of heads is complete."""

    def complete(heads: Mapping[str, str]) -> bool:
        return all(name in state for name in heads.values())

    if complete(TASK_HEADS["retrieval"]):
        dim = state["itc.visual.weight"].shape[0]
        return {
            "name": "retrieval",
            "itc_dim": 0 if dim == config.width else dim,
            "eval_final_norm": False,
            "eval_texts": "each",
            "rerank_batching": "queries",
            "k_test": 128,
        }
    if complete(VQA_HEADS):
        return {"name": "vqa", "answer_count": state["vqa.classifier.weight"].shape[0]}
    for heads, interaction in ((BIATTN_HEADS, "biattn"), (PLAIN_HEADS, "plain")):
        if complete(heads):
            return {"name": "nlvr", "interaction": interaction}
    return {}
