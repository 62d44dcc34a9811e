"""Where rows go: files, TensorBoard, and Weights & Biases with a module that only remembers."""

import json
import sys
import types

import pytest
from train_toy import settings

from diptych.errors import ConfigError, RunError
from diptych.train.config import resolve_run
from diptych.train.log import RunLog
from diptych.train.trackers import Wandb, open_trackers, scalars

ROW = {"step": 4, "time": 1.5, "loss": 0.25, "skipped": {"x": 2}, "experts": {"1": [0.5, 0.5]}, "epoch": 1}


class FakeRun:
    def __init__(self, options, step):
        self.options, self.step, self.rows, self.exit_code = options, step, [], None

    def log(self, values, step):
        self.rows.append((step, values))
        self.step = step + 1

    def finish(self, exit_code):
        self.exit_code = exit_code


@pytest.fixture
def wandb(monkeypatch):
    """A module of that name whose `init` keeps what it is given."""
    module = types.ModuleType("wandb")
    module.runs = []

    def init(**options):
        step = max((r.step for r in module.runs if r.options["id"] == options["id"]), default=0)
        module.runs.append(FakeRun(options, step))
        return module.runs[-1]

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def config(**changes):
    return resolve_run(settings("data", **changes)).config


def test_scalars_are_what_a_curve_can_show():
    assert scalars({**ROW, "flag": True}) == {"loss": 0.25, "epoch": 1}


def test_rows_go_to_lines_and_to_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with RunLog(tmp_path, show=False, trackers=open_trackers(tmp_path, config())) as log:
        log.row(ROW, "step 4")
        log.row({**ROW, "step": 6, "loss": 0.125}, "step 6")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [ROW, {**ROW, "step": 6, "loss": 0.125}]
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [(e.step, e.value) for e in board.Scalars("loss")] == [(4, 0.25), (6, 0.125)]
    assert "step 6" in (tmp_path / "log.txt").read_text()


def test_wandb_gets_the_rows_and_a_resumed_run_goes_on_in_the_same_one(tmp_path, wandb):
    setup = config(train__wandb="pairs", name="toy")
    with RunLog(tmp_path, show=False, trackers=open_trackers(tmp_path, setup)) as log:
        log.row(ROW, "")
        log.row({**ROW, "step": 6}, "")
    (first,) = wandb.runs
    assert first.rows == [(4, {"loss": 0.25, "epoch": 1}), (6, {"loss": 0.25, "epoch": 1})]
    assert first.exit_code == 0
    assert first.options["project"] == "pairs"
    assert first.options["name"] == "toy"
    assert first.options["config"]["optim"]["lr"] == 0.01
    assert first.options["dir"] == str(tmp_path)

    # Steps 5 and 6 are done again, from the checkpoint of step 4; the project has them.
    def go_on():
        with RunLog(tmp_path, show=False, trackers=open_trackers(tmp_path, setup)) as log:
            for step in (5, 6, 8):
                log.row({**ROW, "step": step}, "")
            raise RunError("stopped")

    with pytest.raises(RunError):
        go_on()
    second = wandb.runs[1]
    assert second.options["id"] == first.options["id"] == (tmp_path / "wandb_id.txt").read_text().strip()
    assert [step for step, _ in second.rows] == [8]
    assert second.exit_code == 1


def test_nothing_is_started_before_there_is_a_row(tmp_path, wandb):
    with RunLog(tmp_path, show=False, trackers=open_trackers(tmp_path, config(train__wandb="pairs"))):
        pass
    assert not wandb.runs
    assert not list(tmp_path.glob("wandb*"))


def test_wandb_that_is_not_installed_is_said_before_training(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(
        ConfigError, match=r"train\.wandb = pairs, but wandb cannot be imported.*diptych\[wandb\]"
    ):
        open_trackers(tmp_path, config(train__wandb="pairs"))


def test_a_refusal_of_wandb_says_what_to_do(tmp_path, wandb):
    def refuse(**options):
        raise ValueError("api_key not configured")

    wandb.init = refuse
    tracker = Wandb(tmp_path, config(train__wandb="pairs"))
    with pytest.raises(RunError, match=r"api_key not configured.*WANDB_MODE=offline"):
        tracker.row(ROW)
