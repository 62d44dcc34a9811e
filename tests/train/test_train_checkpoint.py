import errno
import json

import pytest
import torch

from diptych.errors import CheckpointError
from diptych.train import checkpoint as module
from diptych.train.checkpoint import Checkpoints, Snapshot
from diptych.train.files import out_of_room


def snapshot(step):
    tensors = {
        "task/model.weight": torch.arange(6.0).reshape(2, 3) + step,
        "task/model.count": torch.tensor(step),
        "task/model.half": torch.ones(3, dtype=torch.bfloat16) / 3,
        "optim/step/model.weight": torch.tensor(float(step)),
        "ema/model.weight": torch.full((2, 3), 0.5),
    }
    return Snapshot(step, tensors, {"cpu_seconds": 1.5}, {"next_batch": step})


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_what_goes_in_comes_out(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    path = checkpoints.save(snapshot(7), keep=2)
    assert names(path) == ["COMPLETE", "loader.json", "state", "trainer.json"]
    found = checkpoints.load(path)
    assert (found.step, found.trainer["cpu_seconds"], found.loader) == (7, 1.5, {"next_batch": 7})
    assert found.tensors.keys() == snapshot(7).tensors.keys()
    for name, tensor in snapshot(7).tensors.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert torch.equal(found.tensors[name], tensor)
    assert found.part("ema").keys() == {"model.weight"}


def test_rotation_keeps_the_newest(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (2, 10, 100):
        checkpoints.save(snapshot(step), keep=2)
    assert names(tmp_path) == ["latest", "step_00000010", "step_00000100"]
    assert (tmp_path / "latest").read_text() == "step_00000100\n"
    assert checkpoints.newest() == tmp_path / "step_00000100"


def test_what_is_not_complete_is_ignored_and_reported(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(snapshot(step), keep=5)
    (tmp_path / "step_00000002" / "COMPLETE").unlink()
    (tmp_path / ".step_00000003.tmp").mkdir()
    assert checkpoints.newest() == tmp_path / "step_00000001"
    notes = checkpoints.tidy()
    assert len(notes) == 2
    assert "removed .step_00000003.tmp" in notes[0]
    assert "ignored" in notes[1]
    assert "step_00000002" in notes[1]
    assert names(tmp_path) == ["latest", "step_00000001", "step_00000002"]
    assert (tmp_path / "latest").read_text() == "step_00000001\n"
    # The run comes to step 2 again: the incomplete one gives way.
    checkpoints.save(snapshot(2), keep=5)
    assert checkpoints.load(checkpoints.newest()).step == 2


@pytest.mark.parametrize("name", ["state/__0_0.distcp", "state/.metadata", "trainer.json"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_checkpoint_is_named_with_the_way_out(tmp_path, name, damage):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(snapshot(1), keep=5)
    path = checkpoints.save(snapshot(2), keep=5)
    if damage == "cut":
        (path / name).write_bytes((path / name).read_bytes()[:-20])
    else:
        (path / name).unlink()
    with pytest.raises(
        CheckpointError, match=r"damaged checkpoint.*delete this folder.*step_00000001 before it"
    ):
        checkpoints.load(path)


def test_a_full_disk_leaves_nothing_behind_and_says_what_to_do(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(snapshot(1), keep=1)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    def full(path, content):
        if path.name == "trainer.json":
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "write_json", full)
    with pytest.raises(CheckpointError) as caught:
        checkpoints.save(snapshot(2), keep=1)
    for part in (
        "step_00000002",
        "disk is full",
        "needs about 0.0 MiB",
        "step_00000001 is intact",
        "make room",
    ):
        assert part in str(caught.value)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert names(tmp_path) == ["latest", "step_00000001"]


def test_another_failure_names_its_cause(tmp_path, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("the writer broke\nat a place")

    monkeypatch.setattr(module, "write_tensors", broken)
    with pytest.raises(CheckpointError, match=r"could not be written: the writer broke \(it needs") as caught:
        Checkpoints(tmp_path).save(snapshot(2), keep=1)
    assert "make room" not in str(caught.value)
    assert "no earlier one" in str(caught.value)


def test_out_of_room_is_found_behind_other_errors():
    def wrapped(number):
        try:
            try:
                raise OSError(number, "inner")
            except OSError as inner:
                raise RuntimeError("writer") from inner
        except RuntimeError as error:
            return error

    assert out_of_room(wrapped(errno.ENOSPC))
    assert out_of_room(wrapped(errno.EFBIG))
    assert not out_of_room(wrapped(errno.EACCES))


def test_complete_lists_the_files_with_their_sizes(tmp_path):
    path = Checkpoints(tmp_path).save(snapshot(1), keep=1)
    files = json.loads((path / "COMPLETE").read_text())["files"]
    assert files == {
        p.relative_to(path).as_posix(): p.stat().st_size
        for p in path.rglob("*")
        if p.is_file() and p.name != "COMPLETE"
    }
