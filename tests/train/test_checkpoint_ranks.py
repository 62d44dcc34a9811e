"""Checkpoints of several ranks, on two processes."""

import errno
import json
import time

import pytest
import torch
from tests.ranks import run_ranks
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from diptych.errors import CheckpointError
from diptych.train.checkpoint import Checkpoints, Snapshot
from diptych.train.together import RankError, Together

pytestmark = pytest.mark.slow

ROWS = 7  # 4 on rank 0 and 3 on rank 1


def whole(step=0.0):
    return {
        "task/table": torch.arange(ROWS * 3.0).reshape(ROWS, 3) + step,
        "task/bias": torch.arange(3.0) - step,
        "task/count": torch.tensor(int(step)),
        "task/half": torch.full((2, 2), 1 / 3 + step, dtype=torch.bfloat16),
        "optim/exp_avg/table": torch.arange(ROWS * 3.0).reshape(ROWS, 3) * 10 + step,
    }


def spread(tensors):
    mesh = init_device_mesh("cpu", (2,))
    return {
        name: distribute_tensor(tensor.clone(), mesh, [Shard(0) if "table" in name else Replicate()])
        if "table" in name or "bias" in name
        else tensor.clone()
        for name, tensor in tensors.items()
    }


def joined(tensors):
    return {
        name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        for name, tensor in tensors.items()
    }


def snapshot(tensors, step):
    return Snapshot(step, tensors, {"cpu_seconds": 1.5}, {"next_batch": step})


def zeros(tensors):
    return {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def files(folder):
    return {p.relative_to(folder).as_posix(): p.stat().st_size for p in folder.rglob("*") if p.is_file()}


def save_spread(world, folder, background):
    checkpoints = Checkpoints(folder, world)
    for step in (1, 2, 3):
        live = spread(whole(float(step)))
        checkpoints.save(snapshot(live, step), keep=2, background=background)
        for tensor in live.values():
            tensor.mul_(0)  # as training goes on: what is written must be what was given
    checkpoints.wait()
    assert not checkpoints.failed
    return checkpoints.newest_agreed()


@pytest.mark.parametrize("background", [False, True])
def test_two_ranks_write_and_any_number_reads(tmp_path, background):
    paths = run_ranks(save_spread, tmp_path, background)
    path = tmp_path / "step_00000003"
    assert paths == [path, path]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step_00000002", path.name]
    assert json.loads((path / "trainer.json").read_text())["ranks"] == 2
    # Every file of every rank is listed with its size.
    listed = json.loads((path / "COMPLETE").read_text())["files"]
    assert listed == {name: size for name, size in files(path).items() if name != "COMPLETE"}
    assert {"state/__0_0.distcp", "state/__1_0.distcp"} <= listed.keys()

    checkpoints = Checkpoints(tmp_path)
    expected = whole(3.0)
    assert_equal(checkpoints.load(path).tensors, expected)
    tensors = zeros(expected)
    found = checkpoints.load_into(path, tensors)
    assert (found.step, found.trainer["cpu_seconds"], found.loader) == (3, 1.5, {"next_batch": 3})
    assert_equal(tensors, expected)
    run_ranks(load_spread, path)


def load_spread(world, path):
    tensors = spread(zeros(whole()))
    found = Checkpoints(path.parent, world).load_into(path, tensors)
    assert found.step == 3
    assert_equal(joined(found.tensors), whole(3.0))


def test_one_process_writes_and_two_ranks_read(tmp_path):
    path = Checkpoints(tmp_path).save(snapshot(whole(3.0), 3), keep=1)
    run_ranks(load_spread, path)


def test_filling_keeps_the_layout_and_the_storage(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    picture = torch.arange(24.0).reshape(1, 2, 3, 4)
    path = checkpoints.save(snapshot({"task/x": picture}, 1), keep=1)
    live = torch.nn.Parameter(torch.zeros(1, 2, 3, 4).to(memory_format=torch.channels_last))
    before = live.data_ptr()
    checkpoints.load_into(path, {"task/x": live})
    assert torch.equal(live, picture)
    assert live.data_ptr() == before
    assert live.is_contiguous(memory_format=torch.channels_last)


def test_tensors_of_another_model_are_named(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    path = checkpoints.save(snapshot(whole(1.0), 1), keep=1)
    for change, message in (
        ({"task/new": torch.zeros(1)}, "it lacks: task/new"),
        ({"task/bias": torch.zeros(4)}, r"other sizes: task/bias \(\[3\] there, \[4\] here\)"),
    ):
        with pytest.raises(CheckpointError, match=message) as caught:
            checkpoints.load_into(path, {**whole(), **change})
        assert "delete this folder" not in str(caught.value)
    fewer = whole()
    del fewer["task/bias"]
    with pytest.raises(CheckpointError, match="it has beyond them: task/bias"):
        checkpoints.load_into(path, fewer)
    # A parameter that had never been updated had no moments; it keeps its zeros.
    more = zeros(whole()) | {"optim/exp_avg/bias": torch.zeros(3)}
    checkpoints.load_into(path, more)
    assert_equal(more, whole(1.0) | {"optim/exp_avg/bias": torch.zeros(3)})


def fail_on_rank_1(world, folder, background):
    checkpoints = Checkpoints(folder, world)
    live = spread(whole(1.0))
    checkpoints.save(snapshot(live, 1), keep=1)
    if world.rank == 1:
        FileSystemWriter.write_data = full
    told = None
    try:
        checkpoints.save(snapshot(live, 2), keep=1, background=background)
        checkpoints.wait()
    except CheckpointError as error:
        told = str(error)
    assert not checkpoints.failed  # it is told once
    return told


def full(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("background", [False, True])
def test_a_rank_without_room_fails_all_and_nothing_half_counts(tmp_path, background):
    told = run_ranks(fail_on_rank_1, tmp_path, background)
    for message in told:
        assert "step_00000002: the checkpoint could not be written: rank 1 on " in message
        assert ": the disk is full" in message
        assert "step_00000001 is intact" in message
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step_00000001"]
    assert_equal(Checkpoints(tmp_path).load(tmp_path / "step_00000001").tensors, whole(1.0))


def read_damaged(world, path):
    tensors = spread(zeros(whole()))
    try:
        Checkpoints(path.parent, world).load_into(path, tensors)
    except CheckpointError as error:
        return str(error)
    return ""


def test_damage_is_told_to_all_ranks(tmp_path):
    path = Checkpoints(tmp_path).save(snapshot(whole(3.0), 3), keep=1)
    (path / "state" / "__0_0.distcp").write_bytes(b"short")
    told = run_ranks(read_damaged, path)
    assert told[0] == told[1]
    assert "damaged checkpoint (state/__0_0.distcp has 5 bytes instead of" in told[0]
    assert "from the start" in told[0]


def tidy_all(world, folder):
    if world.rank == 0:
        time.sleep(0.1)  # the others must wait all the same
    notes = Checkpoints(folder, world).tidy()
    return notes, (folder / ".step_00000003.tmp").exists()


def test_rank_0_tidies_before_the_others_go_on(tmp_path):
    (tmp_path / ".step_00000003.tmp" / "state").mkdir(parents=True)
    (main, there), (other, there_too) = run_ranks(tidy_all, tmp_path)
    assert not there
    assert not there_too
    assert "removed .step_00000003.tmp" in main[0]
    assert other == []


def test_saving_in_the_background_reports_later_with_the_same_words(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(snapshot(whole(1.0), 1), keep=1)
    monkeypatch.setattr(FileSystemWriter, "write_data", full)
    with pytest.raises(CheckpointError) as at_once:
        checkpoints.save(snapshot(whole(2.0), 2), keep=1)
    checkpoints.save(snapshot(whole(2.0), 2), keep=1, background=True)
    with pytest.raises(CheckpointError) as later:
        checkpoints.save(snapshot(whole(3.0), 3), keep=1, background=True)
    assert (
        str(later.value).partition(" MiB are free")[0][:-4]
        == (str(at_once.value).partition(" MiB are free")[0][:-4])
    )
    checkpoints.save(snapshot(whole(3.0), 3), keep=1, background=True)
    checkpoints.close()  # the run has another reason to end: nothing is raised
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step_00000001"]


class OddError(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def act(world, folder):
    together = Together(world)
    results = [
        together.all(lambda: world.rank * 10, sum),
        together.deal(lambda: world.rank + 1, lambda all_: [value * 100 for value in all_]),
        together.main(lambda: (folder / "made").write_text(f"by {world.rank}")),
    ]

    def odd():
        if world.rank == 1:
            raise OddError("this", "that")

    for call in (
        lambda: together.all(odd, len),
        lambda: together.deal(lambda: 1, lambda _: 1 / 0),
        lambda: together.main(lambda: {}["key"]),
    ):
        try:
            call()
        except (RankError, KeyError) as error:
            results.append((type(error).__name__, str(error)))
    return results


def test_actions_together(tmp_path):
    first, second = run_ranks(act, tmp_path)
    assert first[:3] == [10, 100, 4]
    assert second[:3] == [10, 200, 4]
    assert (tmp_path / "made").read_text() == "by 0"
    assert first[3:] == second[3:]
    (kind, odd), (_, divided), key = first[3:]
    assert kind == "RankError"
    assert odd.startswith("rank 1 on ")
    assert odd.endswith(": OddError: this and that")
    assert divided.startswith("rank 0 on ")
    assert key == ("KeyError", "'key'")


def test_one_process_acts_as_one():
    together = Together(apart=True)
    assert together.all(lambda: 3, lambda all_: all_) == [3]
    assert together.deal(lambda: 3, lambda all_: all_) == 3
    with pytest.raises(RankError, match=r"rank 0 on .*: gone"):
        together.all(raise_gone, len)


def raise_gone():
    raise RuntimeError("gone\nat a place")
