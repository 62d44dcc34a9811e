"""Runs whose checkpoints are written while they go on."""

import errno
import json

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from train_toy import exported, settings

from diptych.errors import CheckpointError
from diptych.train.checkpoint import Checkpoints
from diptych.train.config import resolve_run
from diptych.train.engine import train


def start(data, folder, **changes):
    recipe = settings(data, train__ema=0.9, train__log_every=1, **changes)
    return train(resolve_run(recipe), folder, progress=False)


@pytest.mark.slow
def test_the_way_of_writing_changes_nothing(dataset, tmp_path):
    start(dataset, tmp_path / "at_once", train__keep=9)
    start(dataset, tmp_path / "meanwhile", train__keep=9, train__checkpoint_async=True)
    one, other = (Checkpoints(tmp_path / name / "checkpoints") for name in ("at_once", "meanwhile"))
    assert [p.name for p in one.complete()] == [p.name for p in other.complete()]
    for path, twin in zip(one.complete(), other.complete(), strict=True):
        tensors = other.load(twin).tensors
        for name, tensor in one.load(path).tensors.items():
            # Copied before the next step changed them, written after.
            assert torch.equal(tensors[name], tensor), (path.name, name)
    expected = exported(tmp_path / "at_once")
    found = exported(tmp_path / "meanwhile")
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def test_what_fails_meanwhile_stops_the_run_at_the_next_step(dataset, tmp_path):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    save = Checkpoints.save

    def save_and_let_it_end(self, *arguments, **options):
        path = save(self, *arguments, **options)
        self._thread.join()
        return path

    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(FileSystemWriter, "write_data", full)
        broken.setattr(Checkpoints, "save", save_and_let_it_end)
        with pytest.raises(
            CheckpointError, match=r"step_00000003: .*disk is full.*no earlier one.*make room"
        ):
            start(dataset, tmp_path / "run", train__checkpoint_async=True)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 3
    assert start(dataset, tmp_path / "run", train__checkpoint_async=True).step == 12
