"""Kind `load_head`: which heads of a published checkpoint retrieval starts from.

The case is JSON only: constants that fill the heads of a checkpoint, what the original found missing, and the
first value of each head after loading.
"""

import re
from typing import Any, Literal

import torch
from tests.parity.runner import Case, Comparison, exact, loss
from torch import Tensor

from diptych.systems.eve.config import EveConfig
from diptych.systems.eve.convert import LoadRules, from_published, to_published
from diptych.systems.eve.keys import backbone_to_published
from diptych.systems.eve.model import EveModel
from diptych.tasks.retrieval import RetrievalTask
from diptych.tasks.retrieval_config import RetrievalConfig

WIDTH = 16
BUFFERS = ("position_ids_vision", "position_ids_text")
"""Counters of the original that are no weights: Diptych has none."""


def shape_of(name: str) -> tuple[int, ...]:
    """Return the shape of a head's tensor by its published name."""
    if name.endswith("temp"):
        return ()
    rows = 2 if "itm" in name else WIDTH
    return (rows,) if name.endswith("bias") else (rows, WIDTH)


def key_of(constant: str) -> str:
    """Return the published key that a constant of the case fills: `mitc_vision` -> its projection."""
    if constant.endswith("temp"):
        return constant
    if re.search(r"_(weight|bias)$", constant):
        head, part = constant.rsplit("_", 1)
        return f"{head}_head.{part}"
    return f"{constant}_proj_head.weight"


def checkpoint(constants: dict[str, float], model: EveModel) -> dict[str, Tensor]:
    """Return a published checkpoint: the backbone of `model`, and heads filled with constants."""
    state = {f"backbone.{n}": t for n, t in backbone_to_published(model.state_dict()).items()}
    own = ("itc_temp", "itc_vision", "itc_text", "itm_weight", "itm_bias")
    wanted = {key_of(name): 0.0 for name in own}
    if any(name.startswith("mitm") for name in constants):
        wanted["mitm_head.bias"] = 0.0
    wanted |= {key_of(name): float(value) for name, value in constants.items()}
    return state | {name: torch.full(shape_of(name), value) for name, value in wanted.items()}


def check(case: Case) -> list[Comparison]:
    """Compare what is missing and what the heads hold, with the heads loaded and with fresh ones."""
    done: list[Comparison] = []
    rules: dict[str, Literal["best", "none"]] = {"no_load_head": "none", "load_head": "best"}
    for name, heads in rules.items():
        if name in case.meta:
            done += compare(name, case.meta[name], heads, case.meta["source_constants"])
    return done


def compare(
    name: str, expected: dict[str, Any], heads: Literal["best", "none"], constants: dict[str, float]
) -> list[Comparison]:
    """Load the checkpoint by one rule into a retrieval task and compare."""
    system = EveConfig(
        image_size=16, patch_size=8, width=WIDTH, layers=1, heads=2, hidden=16, vocab_size=20, moe_layers=()
    )
    task = RetrievalTask(EveModel(system), RetrievalConfig(), None)
    state = from_published(checkpoint(constants, task.model), LoadRules(heads)).state
    missing = to_published(task.state_dict()).keys() - to_published(state).keys()
    theirs = {key for key in expected["missing"] if not key.endswith(BUFFERS)}
    task.load_state_dict(state, strict=False)
    done = [exact(f"{name}: missing", sorted(missing), sorted(theirs))]
    filled = to_published(task.state_dict())
    for what, value in expected.items():
        found = re.fullmatch(r"(\w+?)(\[0,0\])?", what)
        if what == "missing" or found is None:
            continue
        key = what if what == "itc_temp" else f"{found.group(1)}.weight"
        fresh = any(entry == key for entry in missing) and what != "itc_temp"
        if not fresh:  # fresh projections are random
            done.append(loss(f"{name}: {what}", filled[key].flatten()[0], value))
    return done
