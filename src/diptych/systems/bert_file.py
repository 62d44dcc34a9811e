"""Reading BERT checkpoint files, which the text networks of several systems start from."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from diptych.blocks.bert import bert_name
from diptych.errors import CheckpointError
from diptych.systems.files import as_single, read_state_dict

_PREFIXES = ("bert.", "")
_POOLER = "pooler.dense."
_OLD_NORMS = {"gamma": "weight", "beta": "bias"}
"""Names of a norm's weights in the first BERT files."""


def bert_tensors(path: Path, under: Sequence[str] = ()) -> Iterator[tuple[str, str, Tensor]]:
    """Yield each tensor of a BERT file: its name there, its name in today's BERT without prefix, its value.

    Args:
        path: the file, see `read_state_dict`.
        under: keys under which a file may hold its weights.

    Raises:
        CheckpointError: not readable, or no BERT.
    """
    given = read_state_dict(path, under)
    prefix = next((p for p in _PREFIXES if f"{p}embeddings.word_embeddings.weight" in given), None)
    if prefix is None:
        raise CheckpointError(
            f"{path}: expected a BERT checkpoint (embeddings.word_embeddings.weight, with or without 'bert.' "
            f"before it), got {', '.join(sorted(given)[:3])}"
        )
    for name, tensor in given.items():
        stem, _, kind = name.rpartition(".")
        yield name, f"{stem}.{_OLD_NORMS.get(kind, kind)}".removeprefix(prefix), as_single(tensor)


def read_bert(
    path: Path, under: Sequence[str] = (), layers: int | None = None, poolers: Sequence[str] = ()
) -> tuple[dict[str, Tensor], list[str]]:
    """Return a BERT's weights as those of a model with `blocks.bert`, and the keys that were left out.

    Args:
        path: the file, see `read_state_dict`.
        under: keys under which a file may hold its weights.
        layers: layers to take; None: all.
        poolers: modules of the model that get the pooler, each a copy; none: it is left out.

    Raises:
        CheckpointError: not readable, no BERT, or too few layers.
    """
    state: dict[str, Tensor] = {}
    ignored = []
    for name, theirs, tensor in bert_tensors(path, under):
        ours = bert_name(theirs)
        if poolers and theirs.startswith(_POOLER):
            state |= {f"model.{p}.{theirs.removeprefix(_POOLER)}": tensor.clone() for p in poolers}
        elif ours is None or _is_beyond(ours, layers):
            ignored.append(name)
        else:
            state[f"model.{ours}"] = tensor
    if layers is not None and f"model.layers.{layers - 1}.fc1.weight" not in state:
        raise CheckpointError(f"{path}: has no {layers} layers (encoder.layer.{layers - 1} is missing)")
    return state, sorted(name for name in ignored if not name.endswith("position_ids"))


def _is_beyond(name: str, layers: int | None) -> bool:
    return layers is not None and name.startswith("layers.") and int(name.split(".")[1]) >= layers
