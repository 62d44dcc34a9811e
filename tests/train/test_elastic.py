"""Runs of several ranks under torchrun that lose ranks, and go on with as many, fewer or more."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
import train_toy
import yaml
from tests.ranks import run_ranks
from train_toy import SAMPLES, exported, settings

from diptych.systems import SYSTEMS
from diptych.tasks import TASKS
from diptych.train import engine
from diptych.train.config import resolve_run
from diptych.train.engine import train

BATCH, STEPS, EVERY = 4, 20, 3  # an epoch is 6 steps: checkpoints fall inside of it
TIMEOUT = 120
LOSSES, WEIGHTS = 1e-5, 1e-5
"""Relative difference of a loss, largest difference of a weight: sums over ranks round differently."""


def recipe(data, **changes):
    """Return a recipe whose steps do not depend on how samples are spread over ranks."""
    return settings(
        data,
        **{
            "system__dropout": 0.0,
            "data__loader__batch_size": BATCH,
            "train__steps": STEPS,
            "train__checkpoint_every": EVERY,
            "train__log_every": 1,
            "train__count_flops": False,
            **changes,
        },
    )


def losses(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows}


def assert_like(run, undisturbed):
    assert losses(run) == pytest.approx(losses(undisturbed), rel=LOSSES)
    expected = exported(undisturbed)
    for name, weight in exported(run).items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=WEIGHTS)


@pytest.fixture(scope="module")
def undisturbed(dataset, tmp_path_factory):
    """One process, from start to end."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:  # other files of this process read the tables too
        patch.setitem(SYSTEMS, "toy", "train_toy:SYSTEM")
        patch.setitem(TASKS, "toy_pairs", "train_toy:PairsTask")
        train(resolve_run(recipe(dataset)), folder, progress=False)
    return folder


def part(world, values, folder, seen, die_at):
    """Train as one of the ranks; note the samples of each step; all are killed before step `die_at`."""
    train_toy.register()
    whole_step = engine._Trainer._backward

    def noted(trainer, group, *rest):
        if trainer.step == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        done = whole_step(trainer, group, *rest)
        row = {
            "step": trainer.step,
            "positions": [p for batch in group for p in batch.positions.tolist()],
            "keys": [key for batch in group for key in batch.keys],
        }
        with (seen / f"{world.size}_{world.rank}.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        return done

    engine._Trainer._backward = noted
    return train(resolve_run(values), folder, progress=False).step


def samples_of(folder):
    """Return step -> samples (position, key) of all ranks that a process noted in `folder`."""
    found = {}
    for path in folder.glob("*.jsonl"):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            found.setdefault(row["step"], []).extend(zip(row["positions"], row["keys"], strict=True))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "keys"),
    [
        ((2, 1), {}),
        ((1, 2), {}),
        ((2, 2), {}),
        ((2, 1), {"train__parallel": "fsdp", "train__checkpoint_async": True}),
    ],
    ids=["2_to_1", "1_to_2", "2_to_2", "2_to_1_fsdp_background"],
)
def test_killed_within_an_epoch_no_sample_is_lost_or_repeated(dataset, tmp_path, undisturbed, ranks, keys):
    values = recipe(dataset, **keys)
    run, (first, second) = tmp_path / "run", (tmp_path / "first", tmp_path / "second")
    first.mkdir()
    second.mkdir()
    with pytest.raises(AssertionError, match=r"ended with \[-9"):
        run_ranks(part, values, run, first, 8, ranks=ranks[0])
    assert run_ranks(part, values, run, second, -1, ranks=ranks[1]) == [STEPS] * ranks[1]

    earlier, later = samples_of(first), samples_of(second)
    start = min(later)
    assert start in (3, 6)  # 6 may still be in the making when all are killed, if it is written meanwhile
    assert keys or start == 6
    # What counts is what the weights have seen: the steps up to the checkpoint, and those after it.
    steps = {step: samples for step, samples in earlier.items() if step < start} | later
    assert sorted(steps) == list(range(STEPS))
    drawn = [sample for step in sorted(steps) for sample in steps[step]]
    assert sorted(position for position, _ in drawn) == list(range(STEPS * BATCH))
    for epoch in range(STEPS * BATCH // SAMPLES):
        keys = Counter(key for position, key in drawn if position // SAMPLES == epoch)
        assert len(keys) == SAMPLES
        assert set(keys.values()) == {1}
    assert_like(run, undisturbed)


class Launch:
    """A torchrun that is started, watched and ended."""

    def __init__(self, values, folder, *options):
        folder.mkdir(exist_ok=True)
        self.folder = folder / "run"
        recipe_file = folder / "recipe.yaml"
        recipe_file.write_text(yaml.safe_dump(values))
        self.errors = (folder / "errors.txt").open("w+")
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
            *(*options, train_toy.__file__, "train", recipe_file, "--run-dir", self.folder),
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        self.process = subprocess.Popen(
            [str(word) for word in command], stderr=self.errors, env=environment, start_new_session=True
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for pid in [*self.ranks().values(), self.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.errors.close()

    def ranks(self):
        """Return rank -> pid of the processes that torchrun has started and that still run."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                rank = re.search(rb"\0RANK=(\d+)\0", (folder / "environ").read_bytes())
            except (OSError, IndexError):
                continue
            if parent == self.process.pid and rank:
                found[int(rank[1])] = int(folder.name)
        return found

    def reached(self, step):
        try:
            rows = (self.folder / "metrics.jsonl").read_text().splitlines(keepends=True)
        except FileNotFoundError:
            return False
        return any(json.loads(row)["step"] >= step for row in rows if row.endswith("\n"))

    def wait_for(self, step):
        deadline = time.monotonic() + TIMEOUT
        while not self.reached(step):
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.01)

    def finish(self):
        try:
            return self.process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            raise AssertionError(self.said()) from None

    def said(self):
        return Path(self.errors.name).read_text()

    def complaints(self):
        return [line for line in self.said().splitlines() if line.startswith("error: ")]


@pytest.mark.slow
def test_a_killed_rank_is_named_and_torchrun_goes_on_by_itself(dataset, tmp_path, undisturbed):
    values = recipe(dataset, task__pause=0.1)
    with Launch(values, tmp_path, "--max-restarts=1") as launch:
        launch.wait_for(5)
        pid = launch.ranks()[1]
        os.kill(pid, signal.SIGKILL)
        assert launch.finish() == 0, launch.said()
        (line,) = launch.complaints()
        assert re.fullmatch(
            rf"error: rank 1 of 2 \(pid {pid} on \S+\) is gone: killed, out of memory\?.*", line
        )
        assert "Traceback" not in launch.said()
        assert "going on from step_0000000" in launch.said()
    assert_like(launch.folder, undisturbed)


@pytest.mark.slow
def test_the_rank_that_fails_says_why_and_the_other_ends_quietly(dataset, tmp_path):
    values = recipe(dataset, task__pause=0.05, task__die_at=4, train__steps=200)
    with Launch(values, tmp_path) as launch:
        assert launch.finish() == 1
        assert launch.complaints() == ["error: rank 1 of 2: the toy dies at step 4"], launch.said()
