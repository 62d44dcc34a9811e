"""What two ranks agree on: stops, failures, budgets; and going on with another number of them."""

import io
import json
import os
import signal

import pytest
import torch
import train_toy
from PIL import Image
from tests.ranks import run_ranks
from train_toy import SIZE, PairsTask, exported, settings

from diptych.blocks.collective import ALONE, World
from diptych.data.sample import Sample
from diptych.data.shards import ShardWriter
from diptych.errors import ConfigError, RunError
from diptych.train.build import check_config
from diptych.train.config import TrainConfig, resolve_run
from diptych.train.engine import train
from diptych.train.parallel import chosen
from diptych.train.ranks import ElsewhereError, exchange, joined, main_first, on_main

pytestmark = pytest.mark.slow

QUIET = {
    "task__jitter": 0.0,
    "data__augment": {},
    "data__loader__batch_size": 6,
    "train__count_flops": False,
    "train__log_every": 1,
}


def start(recipe, folder):
    return train(resolve_run(recipe), folder, progress=False)


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_dropout(monkeypatch):
    original = train_toy.ToyModel.__init__

    def plain(self, config):
        original(self, config)
        self.dropout.p = 0.0

    monkeypatch.setattr(train_toy.ToyModel, "__init__", plain)


class Steps:
    """Does something to a rank's loss in a step."""

    def __init__(self, act):
        self.act, self.original = act, PairsTask.compute_loss

    def __enter__(self):
        act, original = self.act, self.original
        PairsTask.compute_loss = lambda task, batch, context: act(context, original(task, batch, context))

    def __exit__(self, *error):
        PairsTask.compute_loss = self.original


def trained(recipe, folder):
    """Return the step that a run ended at and what it raised, if anything."""
    try:
        return start(recipe, folder).step, "", ""
    except RunError as error:
        return 0, type(error).__name__, str(error)


def adventures(world, dataset, damaged, root):
    """Runs on two ranks whose ends are told."""
    train_toy.register()
    with pytest.MonkeyPatch.context() as patch:
        without_dropout(patch)
        return dict(_adventures(world, dataset, damaged, root))


def _adventures(world, dataset, damaged, root):
    def stop(context, loss):
        if context.step == 4 and world.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss

    def explode(context, loss):
        if context.step == 2 and world.rank == 1:
            return type(loss)(loss.total * float("nan"), loss.parts)
        return loss

    for mode in ("ddp", "fsdp"):
        recipe = settings(dataset, train__parallel=mode, train__ema=0.9, **QUIET)
        with Steps(stop):
            yield f"stop_{mode}", trained(recipe, root / f"stop_{mode}")
        with Steps(explode):
            yield f"explode_{mode}", trained(recipe, root / f"explode_{mode}")
    yield "resumed", trained(settings(dataset, train__ema=0.9, **QUIET), root / "one_to_two")
    half = settings(dataset, train__steps=3, task__head=True, **QUIET)
    with Steps(lambda context, loss: type(loss)(loss.parts["pull"]) if world.rank == 0 else loss):
        yield "half_used", trained(half, root / "half_used")
    budget = settings(dataset, train__cpu_seconds=0.4, **QUIET)
    yield "budget", trained(budget, root / "budget")
    skips = settings(damaged, train__steps=4, **{**QUIET, "data__loader__batch_size": 4})
    yield "skips", trained(skips, root / "skips")
    yield "again", trained(skips, root / "skips")
    yield "none", _raised(lambda: start(settings(dataset, train__parallel="none"), root / "none"))
    yield "taken", _raised(lambda: start(settings(dataset, seed=5, **QUIET), root / "one_to_two"))
    yield "main", _raised(lambda: on_main(world, lambda: 1 / 0))
    yield "order", main_first(world, lambda: world.rank)
    yield "told", exchange(world, [world.rank, 0.1])


def _raised(action):
    try:
        return action()
    except Exception as error:
        return type(error).__name__, str(error)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """Eight samples, one of which cannot be read."""
    folder = tmp_path_factory.mktemp("damaged")
    writer = ShardWriter(folder, "toy", shard_size=10)
    buffer = io.BytesIO()
    Image.new("RGB", (SIZE, SIZE), "red").save(buffer, "PNG")
    for i in range(8):
        content = buffer.getvalue() if i != 3 else buffer.getvalue()[:45]
        writer.write(Sample(f"s{i}", {"png": content}, ("red thing",)))
    writer.close()
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def ends(dataset, damaged, root):
    systems, tasks = dict(train_toy.SYSTEMS), dict(train_toy.TASKS)
    train_toy.register()
    with pytest.MonkeyPatch.context() as patch:
        without_dropout(patch)
        start(settings(dataset, train__ema=0.9, **QUIET), root / "whole")
        # Stopped after four steps, for two ranks to go on.
        recipe = settings(dataset, train__ema=0.9, **QUIET)

        def stop(context, loss):
            if context.step == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return loss

        with Steps(stop):
            trained(recipe, root / "one_to_two")
        found = run_ranks(adventures, dataset, damaged, root)
        for mode in ("ddp", "fsdp"):
            start(recipe, root / f"stop_{mode}")
    for table, before in ((train_toy.SYSTEMS, systems), (train_toy.TASKS, tasks)):
        table.clear()
        table.update(before)
    return found


def assert_ends_alike(run, whole):
    found, expected = exported(run), exported(whole)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-5)
    assert [row["step"] for row in rows(run)] == [row["step"] for row in rows(whole)]
    for row, other in zip(rows(run), rows(whole), strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert row["epoch"] == other["epoch"]


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_a_signal_to_one_rank_stops_all_after_the_same_step_and_one_process_goes_on(ends, root, mode):
    for step, kind, message in (end[f"stop_{mode}"] for end in ends):
        assert (step, kind) == (0, "StoppedError")
        assert "stopped on request after step 5; " in message
        assert "go on from step_00000005" in message
    assert "going on from step_00000005" in (root / f"stop_{mode}" / "log.txt").read_text()
    assert_ends_alike(root / f"stop_{mode}", root / "whole")


def test_two_ranks_go_on_with_what_one_process_began(ends, root):
    assert [end["resumed"] for end in ends] == [(12, "", "")] * 2
    assert "going on from step_00000004" in (root / "one_to_two" / "log.txt").read_text()
    assert_ends_alike(root / "one_to_two", root / "whole")


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_a_loss_that_is_not_finite_on_one_rank_stops_all_and_names_it(ends, root, mode):
    for step, kind, message in (end[f"explode_{mode}"] for end in ends):
        assert (step, kind) == (0, "AgreedError")
        assert message.startswith("rank 1 of 2: step 3: loss nan (pull ")
        assert "samples: s" in message
    log = (root / f"explode_{mode}" / "log.txt").read_text()
    assert log.count("samples of step 3: ") == 1


def test_a_head_that_one_rank_does_not_use_learns_from_the_other(ends, root):
    assert [end["half_used"] for end in ends] == [(3, "", "")] * 2
    trained_head = exported(root / "half_used")["head.weight"]
    assert trained_head.abs().max() > 0
    assert rows(root / "half_used")[-1]["grad_norm/head"] > 0


def test_cpu_seconds_of_all_ranks_add_up_and_end_the_run_for_all(ends, root):
    (first, *failed), (second, *_) = (end["budget"] for end in ends)
    assert failed == ["", ""]
    assert first == second == rows(root / "budget")[-1]["step"]
    assert rows(root / "budget")[-1]["cpu_seconds"] >= 0.4


def test_samples_left_out_are_counted_over_all_ranks(ends, root):
    assert sum(rows(root / "skips")[-1]["skipped"].values()) == 2  # two epochs
    state = json.loads((root / "skips" / "checkpoints" / "step_00000004" / "loader.json").read_text())
    assert sum(state["skipped"].values()) == 2


def test_a_finished_run_is_left_alone_by_all_ranks(ends):
    assert [end["again"] for end in ends] == [(4, "", "")] * 2


def test_rank_0_says_what_is_wrong_and_the_others_only_end(ends):
    assert [end["none"][0] for end in ends] == ["ConfigError"] * 2
    assert "train.parallel = none, but 2 ranks were started" in ends[0]["none"][1]
    assert [end["taken"][0] for end in ends] == ["RunError", "ElsewhereError"]
    assert [end["main"][0] for end in ends] == ["ZeroDivisionError", "ElsewhereError"]


def test_what_ranks_tell_each_other(ends):
    assert [end["order"] for end in ends] == [0, 1]
    assert [end["told"] for end in ends] == [[[0, 0.1], [1, 0.1]]] * 2


def test_alone_nothing_is_asked_for():
    with joined(TrainConfig(), torch.device("cpu")) as world:
        assert world is ALONE
    assert not torch.distributed.is_initialized()
    assert exchange(ALONE, [1.5]) == [[1.5]]
    assert on_main(ALONE, lambda: 3) == 3
    assert issubclass(ElsewhereError, RunError)


@pytest.mark.parametrize(
    ("parallel", "size", "expected"),
    [("auto", 1, "none"), ("auto", 2, "ddp"), ("ddp", 1, "none"), ("ddp", 2, "ddp"), ("fsdp", 2, "fsdp")],
)
def test_what_the_key_means(parallel, size, expected):
    assert chosen(TrainConfig(parallel=parallel), World(size=size)) == expected


def test_fsdp_on_one_process_trains_the_same(dataset, tmp_path, monkeypatch):
    """A group of one, as on a single GPU."""
    for mode in ("none", "fsdp"):
        start(settings(dataset, train__parallel=mode, train__steps=3), tmp_path / mode)
    found, expected = exported(tmp_path / "fsdp"), exported(tmp_path / "none")
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-6)
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("keys", [{"train__parallel": "fsdp"}, {"train__expert_parallel": 2}])
def test_tasks_that_differ_between_ranks_need_whole_models(dataset, keys):
    tasks = {"name": "multi", "tasks": {"a": {"name": "toy_pairs"}, "b": {"name": "toy_pairs"}}}
    config = resolve_run(settings(dataset, task=tasks, **keys)).config
    with pytest.raises(ConfigError, match=r"needs all ranks to train the same task at a time \(a, b are"):
        check_config(config)
