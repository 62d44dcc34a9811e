import json
from itertools import pairwise

import pytest
import torch
from train_toy import exported, settings

from diptych.errors import DataError, RunError
from diptych.train.build import load_task
from diptych.train.checkpoint import Checkpoints
from diptych.train.config import resolve_run
from diptych.train.engine import train


def start(recipe, run_dir, **options):
    return train(resolve_run(recipe), run_dir, progress=False, **options)


def rows(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_what_it_promises(dataset, tmp_path):
    run = tmp_path / "run"
    result = start(settings(dataset), run)
    assert result.step == 12
    assert result.trained
    assert [p.name for p in sorted((run / "checkpoints").iterdir())] == [
        "latest",
        "step_00000009",
        "step_00000012",
    ]
    assert (run / "checkpoints" / "latest").read_text() == "step_00000012\n"
    for name in ("config.yaml", "provenance.json", "environment.json", "log.txt", "tokenizer/tokenizer.json"):
        assert (run / name).stat().st_size > 0
    assert list((run / "tensorboard").glob("events*"))
    assert [row["step"] for row in rows(run)] == [1, 2, 4, 6, 8, 10, 12]
    last = rows(run)[-1]
    assert last["loss"] == pytest.approx(last["loss/pull"] + last["loss/size"], rel=1e-5)
    assert last["epoch"] == pytest.approx(12 * 5 / 24)
    assert last["progress"] == 1
    assert {
        "cpu_seconds",
        "lr",
        "grad_norm",
        "samples_per_second",
        "data_wait",
        "skipped",
        "time",
    } <= last.keys()
    # metric/progress is the mean over the steps since the last row: 10/12 and 11/12 of the way
    assert last["metric/progress"] == pytest.approx((10 / 12 + 11 / 12) / 2)


@pytest.mark.slow
def test_every_step_depends_on_seed_and_step_only(dataset, tmp_path):
    start(settings(dataset), tmp_path / "a")
    start(settings(dataset, data__loader__workers=2), tmp_path / "b")
    start(settings(dataset, seed=1), tmp_path / "c")
    a, b, c = (exported(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not any(torch.equal(a[name], c[name]) for name in a if "norm" not in name)


@pytest.mark.slow
def test_interrupted_between_any_two_steps_it_ends_the_same(dataset, tmp_path, monkeypatch):
    """A crash in the middle of step k, for every k, then the same command again."""
    whole = tmp_path / "whole"
    start(settings(dataset, train__ema=0.9), whole)
    run = tmp_path / "run"
    from diptych.train import engine

    real = engine.total_norm
    for crash in range(1, 12, 2):

        def crashing(*arguments, crash=crash, calls=[0]):  # noqa: B006 - counts the steps of this start
            calls[0] += 1
            if calls[0] == 3:
                raise KeyboardInterrupt
            return real(*arguments)

        monkeypatch.setattr(engine, "total_norm", crashing)
        with pytest.raises(KeyboardInterrupt):
            start(settings(dataset, train__ema=0.9, train__checkpoint_every=2), run)
        if crash == 9:
            break
    monkeypatch.setattr(engine, "total_norm", real)
    start(settings(dataset, train__ema=0.9, train__checkpoint_every=2), run)
    expected, found = exported(whole), exported(run)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    steps = [row["step"] for row in rows(run)]
    assert steps == sorted(set(steps))
    assert [row["loss"] for row in rows(run) if row["step"] % 2 == 0] == [
        row["loss"] for row in rows(whole) if row["step"] % 2 == 0
    ]


def test_a_finished_run_is_left_alone(dataset, tmp_path):
    run = tmp_path / "run"
    start(settings(dataset), run)
    before = (run / "metrics.jsonl").read_bytes(), (run / "export" / "model.safetensors").stat().st_mtime_ns
    result = start(settings(dataset), run)
    assert not result.trained
    assert result.step == 12
    assert "nothing to do" in (run / "log.txt").read_text()
    assert (
        (run / "metrics.jsonl").read_bytes(),
        (run / "export" / "model.safetensors").stat().st_mtime_ns,
    ) == before


def test_accumulation_equals_the_big_batch(dataset, tmp_path):
    """Two batches of 6 and one of 12 cover the same positions; augmentation and dropout draws are off."""
    quiet = {
        "task__jitter": 0.0,
        "data__augment": {},
        "train__steps": 4,
        "train__precision": "fp32",
    }
    from train_toy import ToyModel

    original = ToyModel.__init__

    def without_dropout(self, config):
        original(self, config)
        self.dropout.p = 0.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ToyModel, "__init__", without_dropout)
        start(settings(dataset, data__loader__batch_size=12, **quiet), tmp_path / "big")
        start(settings(dataset, data__loader__batch_size=6, train__accumulate=2, **quiet), tmp_path / "small")
        start(settings(dataset, data__loader__batch_size=6, **quiet), tmp_path / "other")
    big, small, other = (exported(tmp_path / name) for name in ("big", "small", "other"))
    for name in big:
        torch.testing.assert_close(small[name], big[name], rtol=1e-4, atol=2e-6)
    assert (other["model.pixels.weight"] - big["model.pixels.weight"]).abs().max() > 1e-3
    assert rows(tmp_path / "small")[-1]["loss"] == pytest.approx(rows(tmp_path / "big")[-1]["loss"], rel=1e-5)
    assert rows(tmp_path / "small")[-1]["epoch"] == rows(tmp_path / "big")[-1]["epoch"] == 2


def test_bf16_trains_and_differs_from_fp32(dataset, tmp_path):
    start(settings(dataset, train__precision="bf16", train__steps=3), tmp_path / "bf16")
    start(settings(dataset, train__steps=3), tmp_path / "fp32")
    low, full = exported(tmp_path / "bf16"), exported(tmp_path / "fp32")
    assert all(tensor.dtype == torch.float32 for tensor in low.values())
    assert not torch.equal(low["model.pixels.weight"], full["model.pixels.weight"])
    torch.testing.assert_close(low["model.pixels.weight"], full["model.pixels.weight"], rtol=0, atol=0.03)


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(dataset, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(
        RunError, match=r"step 8: loss nan \(pull nan, size [\d.]+\).*model.*samples: s\d+.*step_00000006"
    ):
        start(settings(dataset, task__explode_at=7), run)
    log = (run / "log.txt").read_text()
    assert "samples of step 8: s" in log
    assert "stopped: step 8" in log
    # The next start comes to the same step from the last checkpoint, and stops there again.
    with pytest.raises(RunError, match="step 8: loss nan"):
        start(settings(dataset, task__explode_at=7), run)


def test_the_average_is_what_is_exported(dataset, tmp_path):
    start(settings(dataset, train__ema=0.9), tmp_path / "ema")
    start(settings(dataset), tmp_path / "plain")
    ema, plain = exported(tmp_path / "ema"), exported(tmp_path / "plain")
    assert not torch.equal(ema["model.pixels.weight"], plain["model.pixels.weight"])
    config, task = load_task(tmp_path / "ema")
    assert config.train.steps == 1000  # not part of an export
    assert torch.equal(task.model.pixels.weight, ema["model.pixels.weight"])
    assert not task.training


def test_load_task_reads_the_newest_checkpoint_of_an_unfinished_run(dataset, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(RunError):
        start(settings(dataset, task__explode_at=7), run)
    config, task = load_task(run)
    assert config.task.explode_at == 7
    snapshot = Checkpoints(run / "checkpoints").load(run / "checkpoints" / "step_00000006")
    assert torch.equal(task.model.words.weight, snapshot.part("task")["model.words.weight"])


@pytest.mark.slow
def test_a_budget_of_cpu_seconds_ends_the_run_and_drives_the_schedule(dataset, tmp_path):
    run = tmp_path / "run"
    recipe = settings(dataset, train__cpu_seconds=0.5, train__log_every=1, schedule__name="linear")
    result = start(recipe, run)
    found = rows(run)
    assert result.step == found[-1]["step"] >= 3
    assert found[-1]["cpu_seconds"] >= 0.5
    assert found[-2]["cpu_seconds"] < 0.5
    assert found[-1]["progress"] == 1
    for before, row in pairwise(found):
        # The rate of a step follows from the progress before it (a little later than the row says).
        t = (before["progress"] - 0.1) / 0.9
        if t > 0:
            assert row["lr"] == pytest.approx(0.01 * (1 - t), abs=0.01 * 0.2)
    trainer = json.loads((run / "checkpoints" / f"step_{result.step:08d}" / "trainer.json").read_text())
    assert trainer["cpu_seconds"] >= 0.5


def test_an_empty_selection_is_refused(dataset, tmp_path):
    with pytest.raises(DataError, match=r"data\.where = number > 1000 select no samples"):
        start(settings(dataset, data__where="number > 1000"), tmp_path / "run")


def test_samples_left_out_are_counted_over_the_run(tmp_path):
    import io

    from PIL import Image
    from train_toy import SIZE

    from diptych.data.sample import Sample
    from diptych.data.shards import ShardWriter

    folder = tmp_path / "data"
    folder.mkdir()
    writer = ShardWriter(folder, "toy", shard_size=10)
    buffer = io.BytesIO()
    Image.new("RGB", (SIZE, SIZE), "red").save(buffer, "PNG")
    for i in range(8):
        content = buffer.getvalue() if i != 3 else buffer.getvalue()[:45]
        writer.write(Sample(f"s{i}", {"png": content}, ("red thing",)))
    writer.close()
    start(settings(folder, train__steps=4, data__loader__batch_size=4), tmp_path / "run")
    assert sum(rows(tmp_path / "run")[-1]["skipped"].values()) == 2  # two epochs
