"""Published checkpoints as exports, in memory or on disk, and exports as published checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from torch import Tensor

from diptych.config.layers import resolve
from diptych.data.text import Tokenizer
from diptych.errors import CheckpointError, UsageError
from diptych.resolve import look_up
from diptych.systems.importing import ImportOptions, Parts
from diptych.systems.task import Task
from diptych.train.build import build_task
from diptych.train.config import RunConfig
from diptych.train.export import FACTS, find_weights, read_facts, read_weights, separate, write_export
from diptych.train.undrawn import Undrawn

CONVERTERS: dict[str, str] = {
    "eve": "diptych.systems.eve.published:CONVERTER",
    "internlm2": "diptych.systems.mllm.internlm_files:CONVERTER",
    "ixc2-4khd": "diptych.systems.mllm.ixc:CONVERTER",
    "qformer": "diptych.systems.qformer.published:CONVERTER",
    "snps3": "diptych.systems.snps3.published:CONVERTER",
    "soho": "diptych.systems.soho.published:CONVERTER",
    "uniperceiver": "diptych.systems.uniperceiver.published:CONVERTER",
    "videochat2": "diptych.systems.mllm.videochat2:CONVERTER",
}
"""Systems with published checkpoints -> "module:object" of a `Converter`, imported on first use."""


class Converter(Protocol):
    """What a system's folder offers for its published checkpoints."""

    def read(self, checkpoint: Path, options: ImportOptions) -> Parts:
        """Return settings, our weights, and the published keys that were left out."""
        ...

    def publish(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return published weights, and our names that have no place among them."""
        ...


class Assembler(Protocol):
    """What a converter offers besides, where training starts from parts that others trained."""

    def assemble(self, *, backbone: Path | None, bert: Path | None, layers: int | None) -> Parts:
        """Return settings, our weights, and the keys of the files that were left out."""
        ...


def converter_of(system: str) -> Converter:
    """Return the converter of a system.

    Raises:
        UsageError: no system of that name has published checkpoints.
    """
    found: Converter = look_up(CONVERTERS, system, "system with published checkpoints")
    return found


@dataclass(frozen=True)
class ImportedModel:
    """A published checkpoint, ready to be exported or used."""

    settings: dict[str, Any]
    """Sections of `RunConfig`: `system`, `data`, and `task` where the heads of one are complete."""
    state: dict[str, Tensor]
    ignored: list[str]
    """Published keys that have no place, sorted."""


def read_published(system: str, checkpoint: Path, options: ImportOptions) -> ImportedModel:
    """Read a published checkpoint.

    Raises:
        UsageError: no system of that name with published checkpoints.
        CheckpointError: not readable, not that system's, or tensors that do not fit together.
    """
    converter = converter_of(system)
    if not getattr(converter, "visual_types", False):
        options.refuse(visual_type=f"{system} has no type row of patches")
    return ImportedModel(*converter.read(checkpoint, options))


def _packaged(system: str, tokenizer: Path | None) -> Path | None:
    """Return the tokenizer that is given, else the packaged one of a system that has one."""
    own = getattr(converter_of(system), "tokenizer", None)
    return Path(own) if tokenizer is None and own else tokenizer


def _read_tokenizer(system: str, path: Path) -> Tokenizer:
    """Read a tokenizer as the system's converter wants it: with the chat template of its checkpoints."""
    read = getattr(converter_of(system), "read_tokenizer", Tokenizer.from_file)
    found: Tokenizer = read(path)
    return found


def load_published(
    system: str,
    checkpoint: Path,
    tokenizer: Path | None,
    options: ImportOptions,
    assets: Mapping[str, Any] | None = None,
) -> tuple[RunConfig, Task]:
    """Load a published checkpoint as a task in eval mode, without writing an export.

    Args:
        system: whose checkpoint it is.
        checkpoint: the file.
        tokenizer: its tokenizer.json.
        options: how it is read.
        assets: what its task knows of its data (`Task.assets`): the answers of VQA.

    Raises:
        UsageError: no tokenizer is given.
        CheckpointError: as `read_published`; or the checkpoint has no complete set of heads.
    """
    tokenizer = _packaged(system, tokenizer)
    if tokenizer is None:
        raise UsageError(
            f"{checkpoint}: a published checkpoint holds no tokenizer; give tokenizer= a tokenizer.json"
        )
    found = read_published(system, checkpoint, options)
    if "task" not in found.settings:
        raise CheckpointError(
            f"{checkpoint}: it has no complete heads of a task, so it can only be trained from: "
            f"`diptych convert {system} {checkpoint} OUT`, then init_from.path=OUT"
        )
    config = resolve(RunConfig, found.settings).config
    with Undrawn():  # all are filled from the file, or this fails
        task = build_task(config, _read_tokenizer(system, tokenizer), assets)
    own = task.state_dict()
    if own.keys() != found.state.keys():
        raise CheckpointError(
            f"{checkpoint}: its weights do not fit task.name = {config.task.name} "
            f"(differing: {', '.join(sorted(own.keys() ^ found.state.keys())[:4])})"
        )
    task.load_state_dict(found.state)
    return config, task.eval()


def import_to(
    system: str,
    checkpoint: Path,
    out: Path,
    tokenizer: Path | None,
    options: ImportOptions,
    assets: Mapping[str, Any] | None = None,
) -> list[str]:
    """Write a published checkpoint as an export; return the published keys that were left out.

    Arguments as of `load_published`; the tokenizer may be missing.

    Raises:
        UsageError, CheckpointError: as `read_published`.
        DataError: the tokenizer cannot be read.
    """
    write = getattr(converter_of(system), "write_folder", None)
    if write is not None:  # a part that others are built on, no model of its own
        left: list[str] = write(checkpoint, out, tokenizer)
        return left
    found = read_published(system, checkpoint, options)
    tokenizer = _packaged(system, tokenizer)
    words = _read_tokenizer(system, tokenizer) if tokenizer is not None else None
    write_export(out, found.state, words, found.settings, assets=assets)
    return found.ignored


def assemble_to(
    system: str,
    out: Path,
    backbone: Path | None,
    bert: Path | None,
    layers: int | None,
    tokenizer: Path | None,
) -> list[str]:
    """Write an export to start pre-training from; return the keys of the files that were left out.

    Args:
        system: whose parts they are.
        out: the export.
        backbone: weights of a visual network trained on classes.
        bert: weights of a text model.
        layers: layers to take of it; None: as many as the system's published model has.
        tokenizer: its tokenizer.json or vocabulary, stored beside the weights; may be missing.

    Raises:
        UsageError: the system does not start from such parts.
        CheckpointError: a file that is not readable, or not what it should be.
        DataError: the tokenizer cannot be read.
    """
    converter = converter_of(system)
    if not hasattr(converter, "assemble"):
        raise UsageError(f"system {system} does not start from a backbone or a BERT; give its own checkpoint")
    assembler = cast(Assembler, converter)
    settings, state, ignored = assembler.assemble(backbone=backbone, bert=bert, layers=layers)
    words = Tokenizer.from_file(tokenizer) if tokenizer is not None else None
    write_export(out, state, words, settings)
    return ignored


def publish_to(system: str, export: Path, out: Path) -> list[str]:
    """Write an export as a safetensors file in the published layout; return our names without a place there.

    Raises:
        UsageError: no system of that name with published checkpoints.
        CheckpointError: no weights there, or a model that the published layout has no place for.
    """
    from safetensors.torch import save_file

    converter, folder = converter_of(system), find_weights(export)
    state = read_weights(folder).state
    # Of some models the settings say how tensors are to be put together.
    whole = getattr(converter, "publish_model", None)
    published: dict[str, Tensor]
    left: list[str]
    if whole is not None and (folder / FACTS).exists():
        published, left = whole(state, read_facts(folder)["system"])
    else:
        published, left = converter.publish(state)
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.tmp")
    try:
        save_file(separate(published), aside)
        aside.replace(out)
    finally:
        aside.unlink(missing_ok=True)
    return left
