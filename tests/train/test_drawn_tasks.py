"""Tasks that have batches of their own: in one process, and with another task on each rank."""

import io
import json
import math
from collections import Counter

import pytest
import torch
import train_toy
from PIL import Image
from tests.ranks import run_ranks
from train_toy import SIZE, exported, settings

from diptych.data.draw_loader import DrawLoader
from diptych.data.index import ShardDataset
from diptych.data.sample import Sample
from diptych.data.shards import ShardWriter
from diptych.data.sources import open_sources, source_data, thinned
from diptych.errors import CheckpointError, ConfigError
from diptych.train.build import check_config, evaluated_data
from diptych.train.config import resolve_run
from diptych.train.engine import train
from diptych.train.export import exported_settings

CLOSE = {"rel": 1e-5}
"""Losses of two ranks and of one process that alternates: sums in another order."""
ABOUT = ("loss", "grad_norm", "metric/even", "metric/odd")


def recipe(dataset, **changes):
    """Two tasks that pull with another strength, on halves of a dataset, in batches of 5 and 3."""
    mixture = {"draw": "rank_batches", "rule": "fixed", "draws": 2}
    sources = {
        "even": {"where": "number % 2 = 0", "task": "even", "batch_size": 5},
        "odd": {
            "where": "number % 2 = 1",
            "task": "odd",
            "batch_size": 3,
            "settings": {"augment.noise": 0.0},
        },
    }
    tasks = {"even": {"name": "toy_pairs"}, "odd": {"name": "toy_pairs", "jitter": 0.0}}
    return settings(
        dataset,
        data__sources=sources,
        data__mixture=mixture,
        task={"name": "multi", "tasks": tasks, "weights": {"odd": 0.5}},
        train__steps=6,
        train__log_every=1,
        train__checkpoint_every=3,
        train__task_gradients=2,
        train__count_flops=False,
        schedule={"name": "constant", "warmup": 0},
        **changes,
    )


def start(values, folder):
    return train(resolve_run(values), folder, progress=False)


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def on_two(world, dataset, root):
    train_toy.register()
    start(recipe(dataset), root / "two")
    weighted = recipe(dataset)
    weighted["data"]["mixture"] = {"draw": "rank_batches", "draws": 2}
    start(weighted, root / "two_weighted")
    shared = recipe(dataset)
    shared["data"]["mixture"] = {"draw": "batches", "rule": "fixed"}
    start(shared, root / "two_shared")
    half = recipe(dataset)
    half["train"]["steps"] = 3
    start(half, root / "half")
    return [json.dumps(r) for r in rows(root / "two")] if world.is_main else []


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory):
    """The same runs with two ranks and with one process."""
    root = tmp_path_factory.mktemp("drawn")
    systems, tasks = dict(train_toy.SYSTEMS), dict(train_toy.TASKS)
    train_toy.register()
    try:
        run_ranks(on_two, dataset, root)
        start(recipe(dataset), root / "one")
        weighted = recipe(dataset)
        weighted["data"]["mixture"] = {"draw": "rank_batches", "draws": 2}
        start(weighted, root / "one_weighted")
        shared = recipe(dataset, system__dropout=0.0)
        shared["data"]["mixture"] = {"draw": "batches", "rule": "fixed"}
        start(shared, root / "one_shared")
    finally:
        for table, before in ((train_toy.SYSTEMS, systems), (train_toy.TASKS, tasks)):
            table.clear()
            table.update(before)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["", "_weighted"])
def test_two_ranks_with_tasks_of_their_own_train_like_one_process_that_alternates(runs, kind) -> None:
    one, two = rows(runs / f"one{kind}"), rows(runs / f"two{kind}")
    assert len(one) == len(two) == 6
    for ours, theirs in zip(one, two, strict=True):
        names = {n for n in ours if n.startswith(("loss", "grad_norm", "metric/even", "metric/odd"))}
        assert names == {
            n for n in theirs if n.startswith(("loss", "grad_norm", "metric/even", "metric/odd"))
        }
        for name in names - {"metric/even/progress", "metric/odd/progress"}:
            assert ours[name] == pytest.approx(theirs[name], **CLOSE), name
    for name, tensor in exported(runs / f"one{kind}").items():
        assert torch.allclose(tensor, exported(runs / f"two{kind}")[name], rtol=1e-5, atol=1e-6), name


@pytest.mark.slow
def test_each_task_has_its_loss_and_the_norm_of_its_gradient(runs) -> None:
    found = rows(runs / "one")
    assert {"metric/even/loss", "metric/odd/loss", "loss/even/pull", "loss/odd/pull"} <= found[0].keys()
    # A loss is the mean over draws, and the second task counts half.
    wanted = (found[0]["metric/even/loss"] + 0.5 * found[0]["metric/odd/loss"]) / 2
    assert found[0]["loss"] == pytest.approx(wanted)
    measured = [math.isfinite(row.get("grad_norm/task/odd", math.nan)) for row in found]
    assert measured == [True, False, True, False, True, False]
    # Both pull on the same weights: their mean is no longer than both together, halved.
    assert found[0]["grad_norm"] <= (found[0]["grad_norm/task/even"] + found[0]["grad_norm/task/odd"]) / 2 * (
        1 + 1e-6
    )


@pytest.mark.slow
def test_all_tasks_a_step_take_a_batch_of_each_source(runs) -> None:
    for kind in ("one", "two"):
        found = rows(runs / f"{kind}_shared")
        assert all({"metric/even/loss", "metric/odd/loss"} <= row.keys() for row in found)


@pytest.mark.slow
def test_a_run_of_two_ranks_goes_on_in_one_process(runs, dataset) -> None:
    values = recipe(dataset)
    half = runs / "half"
    # The same run directory, whose recipe said three steps: continue it as the whole run.
    (half / "export").rename(half / "earlier")
    config = (half / "config.yaml").read_text()
    (half / "config.yaml").write_text(config.replace("steps: 3", "steps: 6"))
    start(values, half)
    for name, tensor in exported(runs / "one").items():
        assert torch.allclose(tensor, exported(half)[name], rtol=1e-4, atol=1e-5), name


def loader_of(dataset, rank=0, world=1, **mixture):
    values = recipe(dataset)
    values["data"]["mixture"] |= mixture
    config = resolve_run(values).config.data
    return DrawLoader(open_sources(config), config, None, seed=0, rank=rank, world=world)


def taken(loader, count):
    batches = iter(loader)
    return [next(batches) for _ in range(count)]


def test_batches_have_their_sources_size_and_settings(dataset) -> None:
    loader = loader_of(dataset)
    found = taken(loader, 4)
    assert [len(batch) for batch in found] == [5, 3, 5, 3]
    assert [batch.labels[0] for batch in found] == ["even", "odd", "even", "odd"]
    assert [batch.draw for batch in found] == [0, 1, 2, 3]
    assert [loader.config_of(batch).augment.noise for batch in found] == [0.05, 0.0, 0.05, 0.0]
    assert all(int(key[1:]) % 2 == (batch.labels[0] == "odd") for batch in found for key in batch.keys)
    positions = torch.cat([batch.positions for batch in found])
    assert len(positions.unique()) == len(positions)
    # 24 samples; a draw has 4 of them on average.
    assert loader.batches_per_epoch == pytest.approx(6)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["weights", "turn", "fixed", "shifted"])
def test_ranks_take_the_draws_of_one_process(dataset, rule) -> None:
    whole = taken(loader_of(dataset, rule=rule, draws=4), 8)
    ranks = [taken(loader_of(dataset, rank, 2, rule=rule, draws=4), 4) for rank in range(2)]
    for draw, batch in enumerate(whole):
        step, number = divmod(draw, 4)
        theirs = ranks[number // 2][2 * step + number % 2]
        assert theirs.keys == batch.keys
        assert torch.equal(theirs.positions, batch.positions)
        assert theirs.draw == batch.draw == draw


def test_a_loader_goes_on_where_it_was(dataset) -> None:
    whole = taken(loader_of(dataset, rule="weights", draws=2), 12)
    first = loader_of(dataset, rule="weights", draws=2)
    taken(first, 6)
    state = json.loads(json.dumps(first.state_at(6)))
    again = loader_of(dataset, rule="weights", draws=2)
    again.load_state_dict(state)
    assert [b.keys for b in taken(again, 6)] == [b.keys for b in whole[6:]]
    with pytest.raises(CheckpointError, match=r"draws is 2 in .* and 4 now.*data.mixture.draws=2"):
        loader_of(dataset, rule="weights", draws=4).load_state_dict(state)


def test_shared_batches_are_cut_over_the_ranks(dataset) -> None:
    whole = taken(loader_of(dataset, draw="batches", draws=0), 4)
    parts = [taken(loader_of(dataset, rank, 2, draw="batches", draws=0), 4) for rank in range(2)]
    for batch, first, second in zip(whole, *parts, strict=True):
        assert batch.keys == first.keys + second.keys
        assert batch.draw is None


def test_settings_of_a_source_are_checked(dataset) -> None:
    values = recipe(dataset)
    values["data"]["sources"]["odd"]["settings"] = {"text": {"max_token": 3}}
    config = resolve_run(values).config
    with pytest.raises(ConfigError, match=r"odd.settings.text.max_token: .*did you mean 'max_tokens'"):
        check_config(config)
    values["data"]["sources"]["odd"]["settings"] = {"text": {"max_tokens": 300}}
    with pytest.raises(ConfigError, match=r"data.text.max_tokens = 300 is more than the system reads"):
        check_config(resolve_run(values).config)
    values["data"]["sources"]["odd"] |= {"settings": {}, "task": "uneven"}
    with pytest.raises(ConfigError, match="no task is called that"):
        check_config(resolve_run(values).config)
    with pytest.raises(ConfigError, match=r"train.parallel = fsdp needs all ranks to work on the same batch"):
        check_config(resolve_run(recipe(dataset, train__parallel="fsdp")).config)
    own = source_data(resolve_run(recipe(dataset)).config.data, "odd")
    assert (own.augment.noise, own.loader.batch_size, own.image.size) == (0.0, 3, SIZE)


def test_a_share_of_the_samples_is_the_same_every_time(dataset) -> None:
    everything = ShardDataset.open(str(dataset)).select(None, None)
    some, more = (thinned(everything, share) for share in (0.25, 0.5))
    assert (len(some), len(more)) == (6, 12)
    assert set(some.rows) < set(more.rows)
    assert thinned(everything, 0.25).rows.tolist() == some.rows.tolist()
    assert thinned(everything, 0.25, seed=1).rows.tolist() != some.rows.tolist()
    assert len(thinned(everything, 0.001)) == 1


def test_a_share_of_each_class(tmp_path) -> None:
    writer = ShardWriter(tmp_path, "classes", shard_size=40)
    buffer = io.BytesIO()
    Image.new("RGB", (SIZE, SIZE), "red").save(buffer, "PNG")
    kinds = ["a"] * 20 + ["b"] * 9 + ["c"] * 1 + [""] * 3
    for i, kind in enumerate(kinds):
        writer.write(Sample(f"s{i:02d}", {"png": buffer.getvalue()}, ("thing",), meta={"kind": kind}))
    writer.close()
    everything = ShardDataset.open(str(tmp_path)).select(None, None)
    found = thinned(everything, 0.1, by="kind").column("kind")
    # int(2.0) + 1, int(0.9) + 1, int(0.1) + 1; samples without a class are left out.
    assert Counter(found) == {"a": 3, "b": 1, "c": 1}
    config = resolve_run(settings(tmp_path, data__share=0.1, data__share_by="kind")).config.data
    assert [len(selection) for selection in open_sources(config).values()] == [5]


def test_an_evaluation_has_the_settings_of_its_tasks_source(dataset) -> None:
    values = recipe(dataset)
    values["data"]["sources"]["odd"]["settings"] = {"text": {"max_tokens": 4}}
    config = resolve_run(values).config
    # `odd` has no `task` of its own: its name is its label.
    of = {label: config.with_(task=config.task.with_(evaluate=label)) for label in ("even", "odd")}
    assert {label: one.task.evaluated for label, one in of.items()} == {"even": "even", "odd": "odd"}
    found = {label: evaluated_data(one) for label, one in of.items()}
    assert {label: data.text.max_tokens for label, data in found.items()} == {"even": 6, "odd": 4}
    assert found["odd"].where == "number % 2 = 1"
    # They stay with the export, so that it can be evaluated like the run.
    kept = exported_settings(config)["data"]
    assert kept["mixture"]["draw"] == "rank_batches"
    assert kept["sources"]["odd"]["settings"] == {"text": {"max_tokens": 4}}
    mixed = resolve_run(settings(dataset)).config
    assert "sources" not in exported_settings(mixed)["data"]
    assert evaluated_data(mixed) == mixed.data
