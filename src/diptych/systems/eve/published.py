"""Published EVE checkpoints as `diptych.train.published` reads and writes them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from diptych.blocks.router import RouterConfig
from diptych.systems.eve.checkpoint import import_checkpoint
from diptych.systems.eve.config import EveConfig
from diptych.systems.eve.convert import TASK_HEADS, publishable, to_published
from diptych.systems.importing import ImportOptions, Parts

PAIR_TOKENS = 40
"""Length of texts that are read together with pictures, in every published setting."""

_KINDS = ("vqa", "nlvr_biattn", "nlvr_plain", "retrieval")
"""Sets of heads in the order in which they decide what a checkpoint was trained for."""
_CLEANING = {
    "retrieval": {"clean": "caption", "max_words": 30},
    "vqa": {"clean": "question", "max_words": 50},
    "nlvr": {"clean": "caption", "max_words": 40},
}
_EXAMPLES = {"vqa": "questions", "nlvr": "statements"}


class EveConverter:
    """Turns published checkpoints into settings and weights, and weights into published ones."""

    def read(self, checkpoint: Path, options: ImportOptions) -> Parts:
        """Return settings, weights and the published keys that were left out; see `import_checkpoint`.

        Beside a complete set of heads those of other tasks are left out.
        """
        config, state, ignored = import_checkpoint(
            checkpoint, options.heads, options.image_size, options.attention_heads
        )
        if options.routing == "dropless":
            config = config.with_(router=RouterConfig(modality=config.router.modality))
        kind = kind_of(state)
        if kind is not None:
            own = set(TASK_HEADS[kind].values())
            others = {n for n in state if not n.startswith("model.") and n not in own}
            ignored = sorted([*ignored, *to_published({n: state[n] for n in others})])
            state = {n: t for n, t in state.items() if n not in others}
        return settings_of(config, state), state, ignored

    def publish(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return published weights, and our names that have no place among them."""
        known = publishable(state)
        return to_published(known), sorted(state.keys() - known.keys())


CONVERTER = EveConverter()


def kind_of(state: Mapping[str, Tensor]) -> str | None:
    """Return the set of heads (of TASK_HEADS) that our weights hold completely; None without any."""
    complete = (kind for kind in _KINDS if all(name in state for name in TASK_HEADS[kind].values()))
    return next(complete, None)


def settings_of(config: EveConfig, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the sections `system`, `data` and, where a set of heads is complete, `task` of a run.

    Pictures are squeezed to the square and texts cleaned as in the published evaluations.
    """
    kind = kind_of(state)
    task = {} if kind is None else _task(kind, config, state)
    name = task.get("name", "retrieval")
    text = {"max_tokens": min(PAIR_TOKENS, config.max_text_tokens), **_CLEANING[name]}
    data: dict[str, Any] = {"image": {"size": config.image_size, "resize": "squash"}, "text": text}
    if name in _EXAMPLES:
        data["examples"] = _EXAMPLES[name]
    return {"system": config.model_dump(mode="json"), "data": data, **({"task": task} if task else {})}


def _task(kind: str, config: EveConfig, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the `task` section of a checkpoint, with the published evaluation."""
    if kind == "vqa":
        return {"name": "vqa", "answer_count": state["vqa.classifier.weight"].shape[0]}
    if kind != "retrieval":
        return {"name": "nlvr", "interaction": kind.removeprefix("nlvr_")}
    dim = state["itc.visual.weight"].shape[0]
    return {
        "name": "retrieval",
        "itc_dim": 0 if dim == config.width else dim,
        "eval_final_norm": False,
        "eval_texts": "each",
        "rerank_batching": "queries",
        "k_test": 128,
    }
