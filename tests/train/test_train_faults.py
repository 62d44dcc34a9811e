"""Runs that are killed, stopped or out of room, in processes of their own."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import train_toy
import yaml
from train_toy import exported, settings

from diptych.errors import RunError
from diptych.train.config import resolve_run
from diptych.train.engine import train

STEPS = 24
TIMEOUT = 120


STARTED = []


@pytest.fixture(autouse=True)
def no_process_is_left():
    yield
    while STARTED:
        process = STARTED.pop()
        process.kill()
        process.wait()
        process.stderr.close()


class Run:
    """A training run that is started again and again in one directory."""

    def __init__(self, recipe, folder):
        folder.mkdir(exist_ok=True)
        self.recipe = folder / "recipe.yaml"
        self.recipe.write_text(yaml.safe_dump(recipe))
        self.folder = folder / "run"

    def start(self, *arguments, **options):
        command = [
            sys.executable,
            train_toy.__file__,
            "train",
            self.recipe,
            *arguments,
            "--run-dir",
            self.folder,
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [str(part) for part in command], stderr=subprocess.PIPE, text=True, env=environment, **options
        )
        STARTED.append(process)
        return process

    def finish(self, *arguments, **options):
        process = self.start(*arguments, **options)
        _, errors = process.communicate(timeout=TIMEOUT)
        return process.returncode, errors

    def steps(self):
        try:
            lines = (self.folder / "metrics.jsonl").read_text().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        return [json.loads(line)["step"] for line in lines if line.endswith("\n")]

    def reached(self, step):
        return max(self.steps(), default=0) >= step

    def checkpoints(self):
        return sorted(p.name for p in (self.folder / "checkpoints").glob("step_*"))


def wait_for(process, condition, pause=0.002):
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "the run did not get there"
        time.sleep(pause)


def slow_settings(dataset, **changes):
    # Wide enough for a checkpoint to take a while, slow enough to be killed at a chosen step.
    return settings(
        dataset,
        **{
            "system__width": 1024,
            "task__pause": 0.04,
            "train__steps": STEPS,
            "train__checkpoint_every": 4,
            "train__log_every": 1,
            "train__ema": 0.9,
            **changes,
        },
    )


@pytest.fixture(scope="module")
def uninterrupted(dataset, tmp_path_factory):
    run = Run(slow_settings(dataset, task__pause=0.0), tmp_path_factory.mktemp("whole"))
    assert run.finish()[0] == 0
    return exported(run.folder)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "kills"), [([0], 5), ([2, 0], 2)])
def test_killed_at_random_steps_it_ends_bit_identical(dataset, tmp_path, uninterrupted, workers, kills):
    run = Run(slow_settings(dataset), tmp_path)
    stops = sorted(random.Random(kills).sample(range(1, STEPS - 6), kills))
    for i, step in enumerate(stops):
        process = run.start(f"data.loader.workers={workers[i % len(workers)]}")
        wait_for(process, lambda step=step: run.reached(step))
        process.kill()
        process.wait()
        assert not (run.folder / "export").exists()
    status, errors = run.finish("data.loader.workers=1")
    assert status == 0, errors
    assert_same(exported(run.folder), uninterrupted)
    assert run.steps() == list(range(1, STEPS + 1))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["false", "true"])
def test_killed_during_a_checkpoint_write_it_ends_bit_identical(dataset, tmp_path, uninterrupted, how):
    run = Run(slow_settings(dataset), tmp_path)
    checkpoints = run.folder / "checkpoints"

    def writing():
        return [path.name for path in checkpoints.glob(".step_*.tmp")]

    for earlier in (0, 1):  # the first checkpoint, then one with another before it
        process = run.start(f"train.checkpoint_async={how}")
        while True:
            wait_for(process, lambda n=earlier: len(run.checkpoints()) >= n and writing(), pause=0)
            process.send_signal(signal.SIGSTOP)  # so that nothing moves between looking and killing
            if writing():
                break
            process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
        assert len(run.checkpoints()) >= earlier
        aside = writing()
        assert aside
    status, errors = run.finish()
    assert status == 0, errors
    assert f"removed {aside[0]}" in (run.folder / "log.txt").read_text()
    assert writing() == []
    assert_same(exported(run.folder), uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_after_the_step_with_a_checkpoint(
    dataset, tmp_path, uninterrupted, number, status
):
    run = Run(slow_settings(dataset, train__checkpoint_every=0, data__loader__workers=1), tmp_path)
    process = run.start(start_new_session=True)
    wait_for(process, lambda: run.reached(3))
    os.killpg(process.pid, number)  # as a terminal does: the loader's worker gets it too
    _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == status, errors
    step = run.steps()[-1]
    assert run.checkpoints() == [f"step_{step:08d}"]
    assert errors.splitlines()[-1].startswith(
        f"{run.folder}: stopped on request after step {step}; give the same"
    )
    assert "Traceback" not in errors
    status, errors = run.finish()
    assert status == 0, errors
    assert_same(exported(run.folder), uninterrupted)


def limit_file_size(size):
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.slow
def test_no_room_for_a_checkpoint_loses_nothing(dataset, tmp_path, uninterrupted):
    run = Run(slow_settings(dataset, task__pause=0.0), tmp_path)
    process = run.start("task.pause=0.04")
    wait_for(process, lambda: run.checkpoints() == ["step_00000004"])
    process.kill()
    process.wait()
    before = {
        p: p.read_bytes() for p in (run.folder / "checkpoints" / "step_00000004").rglob("*") if p.is_file()
    }
    status, errors = run.finish("task.pause=0.04", preexec_fn=limit_file_size(1 << 20))
    assert status == 1
    message = errors.splitlines()[-1]
    assert message.startswith("error: ")
    for part in (
        "step_00000008",
        "file size limit",
        "needs about",
        "MiB",
        "step_00000004 is intact",
        "same command",
    ):
        assert part in message
    assert "Traceback" not in errors
    assert {path: path.read_bytes() for path in before} == before
    assert sorted(p.name for p in (run.folder / "checkpoints").iterdir()) == ["latest", "step_00000004"]
    status, errors = run.finish("task.pause=0.04")
    assert status == 0, errors
    assert_same(exported(run.folder), uninterrupted)


@pytest.mark.slow
def test_no_room_for_the_first_line_of_the_log_is_one_clear_line(dataset, tmp_path):
    run = Run(settings(dataset), tmp_path)
    status, errors = run.finish(preexec_fn=limit_file_size(64))
    assert status == 1
    assert "Traceback" not in errors
    assert "the disk is full or a file size limit is reached" in errors.splitlines()[-1]
    assert Path(run.folder).exists()


HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_process_in_the_same_directory_is_refused(dataset, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    command = [sys.executable, "-c", HOLDER, str(run / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunError, match="another process is training in this directory"):
            train(resolve_run(settings(dataset)), run, progress=False)
        assert not (run / "config.yaml").exists()
        holder.stdin.close()
    assert train(resolve_run(settings(dataset, train__steps=1)), run, progress=False).trained
