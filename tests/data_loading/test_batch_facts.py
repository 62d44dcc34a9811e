"""Facts of samples that tasks ask for, and batches of texts alone."""

from pathlib import Path
from typing import ClassVar

import pytest

from diptych.data.config import DataConfig
from diptych.data.index import Selection, ShardDataset
from diptych.data.loader import Loader, evaluation_batches
from diptych.data.sample import Sample
from diptych.data.shards import ShardWriter
from diptych.data.text import Tokenizer
from diptych.systems.task import Task
from diptych.tasks import TASKS
from diptych.tasks.multi import MultiTaskConfig
from diptych.train.build import facts_of

SAMPLES = 12


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    """Pairs of sentences without any picture; every third has no label."""
    folder = tmp_path_factory.mktemp("facts") / "pairs"
    with ShardWriter(folder, "pairs") as writer:
        for i in range(SAMPLES):
            label = {} if i % 3 == 2 else {"label": i % 2}
            writer.write(Sample(f"p{i:02d}", {}, (f"one {i}", f"other {i}"), meta={"index": i, **label}))
    return ShardDataset.open(folder)


def settings(workers: int = 0, **loader: int) -> DataConfig:
    return DataConfig.model_validate({"loader": {"batch_size": 4, "workers": workers, **loader}})


def label(index: int) -> int | None:
    return None if index % 3 == 2 else index % 2


@pytest.mark.parametrize("workers", [0, 2])
def test_training_batches_bring_what_is_asked_for(pairs: ShardDataset, workers: int) -> None:
    facts = ("captions", "index", "label", "absent")
    loader = Loader(Selection(pairs, None), settings(workers, cache_mb=1), None, seed=3, facts=facts)
    seen = []
    # Two epochs: the second one comes out of the memory of the first.
    for _, batch in zip(range(2 * SAMPLES // 4), loader, strict=False):
        assert batch.images is None
        indices = batch.extra["index"]
        assert batch.keys == [f"p{i:02d}" for i in indices]
        assert batch.captions == [(f"one {i}", f"other {i}") for i in indices]
        assert batch.extra["label"] == [label(i) for i in indices]
        assert batch.extra["absent"] == [None] * 4
        seen += indices
    loader.close()
    assert sorted(seen) == sorted([*range(SAMPLES)] * 2)


def test_evaluation_brings_them_too(pairs: ShardDataset) -> None:
    tokenizer = Tokenizer.train(["one other 1 2 3"] * 2, 40)
    (batch,) = evaluation_batches(Selection(pairs, None), settings(), SAMPLES, tokenizer, facts=("label",))
    assert batch.extra == {"label": [label(i) for i in range(SAMPLES)]}
    assert batch.captions is not None
    assert batch.captions[3] == ("one 3", "other 3")


def test_nothing_is_brought_unasked(pairs: ShardDataset) -> None:
    batch = next(iter(Loader(Selection(pairs, None), settings(), None, seed=3)))
    assert batch.captions is None
    assert batch.extra == {}


def test_tasks_of_a_run_ask_together(monkeypatch: pytest.MonkeyPatch) -> None:
    class Asking(Task):  # type: ignore[misc]
        facts: ClassVar[tuple[str, ...]] = ("label", "captions")

    assert facts_of(MultiTaskConfig.model_validate({"tasks": {"a": {"name": "vqa"}}})) == ()
    monkeypatch.setattr("diptych.train.build.look_up", lambda table, name, what: Asking)
    config = MultiTaskConfig.model_validate({"tasks": {"a": {"name": "vqa"}, "b": {"name": "nlvr"}}})
    assert facts_of(config) == ("label", "captions")
    assert set(TASKS) >= {"vqa", "nlvr"}


def test_the_same_facts_for_any_number_of_ranks(pairs: ShardDataset, tmp_path: Path) -> None:
    both = [
        next(
            iter(Loader(Selection(pairs, None), settings(), None, seed=3, rank=r, world=2, facts=("index",)))
        )
        for r in range(2)
    ]
    whole = next(iter(Loader(Selection(pairs, None), settings(), None, seed=3, facts=("index",))))
    assert [i for part in both for i in part.extra["index"]] == whole.extra["index"]
