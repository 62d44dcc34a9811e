"""Named tensors on disk, each rank its share, in the format of torch.distributed.checkpoint.

What several ranks hold alike is written by one of them; of a `DTensor` every rank writes its own part.
Reading fills tensors that are spread over any number of ranks, whatever number wrote them.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, WriteItem
from torch.distributed.checkpoint.storage import WriteResult

from diptych.train.together import Together


class _Copies(DefaultSavePlanner):
    """A plan that copies what this rank will write to host memory, so that training may go on meanwhile."""

    def finish_plan(self, new_plan: SavePlan) -> SavePlan:
        plan = super().finish_plan(new_plan)
        self._copies: dict[MetadataIndex, Tensor] = {}
        for item in plan.items:
            live = super().resolve_data(item)
            if isinstance(live, Tensor):
                self._copies[item.index] = live.detach().to("cpu", copy=True)
        return plan

    def resolve_data(self, write_item: WriteItem) -> Any:
        return self._copies[write_item.index]


def write_tensors(
    tensors: Mapping[str, Tensor],
    folder: Path,
    together: Together,
    copied: Callable[[], None] | None = None,
) -> dict[str, int]:
    """Write tensors into a folder; called by all ranks, with equal names.

    Args:
        tensors: name -> tensor, a `DTensor` where ranks hold parts of it.
        folder: the same one on every rank; it holds nothing yet.
        together: the ranks.
        copied: called as soon as everything is in host memory, from where it is written then; None: written
            from where it is.

    Returns:
        On rank 0, names and sizes in bytes of all files of tensors; on others nothing of use.

    Raises:
        RankError: a rank could not write its share.
    """
    writer = FileSystemWriter(folder)
    planner = DefaultSavePlanner() if copied is None else _Copies()
    made: list[Metadata] = []

    def plan_share() -> SavePlan:
        writer.set_up_storage_writer(together.world.is_main)
        planner.set_up_planner(dict(tensors), writer.storage_meta(), together.world.is_main)
        return writer.prepare_local_plan(planner.create_local_plan())

    def plan_all(plans: list[SavePlan]) -> list[SavePlan]:
        shares, metadata = planner.create_global_plan(plans)
        made.append(metadata)
        return writer.prepare_global_plan(shares)

    share = together.deal(plan_share, plan_all)

    def write_share() -> tuple[list[WriteResult], dict[str, int]]:
        plan = planner.finish_plan(share)
        if copied is not None:
            copied()
        results = writer.write_data(plan, planner).value()
        names = {result.storage_data.relative_path for result in results}
        return results, {name: (folder / name).stat().st_size for name in sorted(names)}

    def finish(written: list[tuple[list[WriteResult], dict[str, int]]]) -> dict[str, int]:
        writer.finish(made[0], [results for results, _ in written])
        return {name: size for _, sizes in written for name, size in sizes.items()}

    return together.all(write_share, finish)


def stored_sizes(folder: Path) -> dict[str, torch.Size]:
    """Return the names and sizes of the tensors in a folder."""
    stored = FileSystemReader(folder).read_metadata().state_dict_metadata
    return {name: facts.size for name, facts in stored.items() if isinstance(facts, TensorStorageMetadata)}


def read_whole(folder: Path) -> dict[str, Tensor]:
    """Read all tensors of a folder, whole, into the memory of this process."""
    stored = FileSystemReader(folder).read_metadata().state_dict_metadata
    tensors = {
        name: torch.empty(facts.size, dtype=facts.properties.dtype)
        for name, facts in stored.items()
        if isinstance(facts, TensorStorageMetadata)
    }
    fill_tensors(tensors, folder)
    return tensors


def fill_tensors(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Overwrite tensors with what a folder holds under their names; a rank reads what it needs, by itself.

    Args:
        tensors: name -> tensor on any device and of any layout in memory; a `DTensor` is filled in the parts
            that this rank holds.
        folder: what `write_tensors` wrote, on any number of ranks.
    """
    reader, planner = FileSystemReader(folder), DefaultLoadPlanner()
    metadata = reader.read_metadata()
    state: dict[str, Any] = {name: tensor.detach() for name, tensor in tensors.items()}
    planner.set_up_planner(state, metadata, True)
    reader.set_up_storage_reader(metadata, True)
    plan = reader.prepare_local_plan(planner.create_local_plan())
    reader.read_data(planner.finish_plan(plan), planner).wait()
