"""Batches of several sources, of equal cost and of packed texts, as the loader hands them out."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from diptych.data.batch import Batch
from diptych.data.config import DataConfig
from diptych.data.loader import Loader
from diptych.data.sample import Sample
from diptych.data.shards import ShardWriter
from diptych.data.sources import open_sources
from diptych.data.text import Tokenizer
from diptych.errors import CheckpointError

WORDS = ("red cat", "blue dog sits", "a green bird in a tree", "snow", "two boats far out on the sea")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([*WORDS] * 3, 100)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("sources")
    for name, count in (("books", 40), ("films", 15)):
        with ShardWriter(root / name, name) as writer:
            for i in range(count):
                # The third film has no caption.
                captions = () if (name, i) == ("films", 2) else (WORDS[(i * 7) % 5],)
                writer.write(Sample(f"{name}{i}", {"bin": b"x"}, captions))
    return root / "books", root / "films"


VARIANTS: dict[str, dict[str, Any]] = {
    "samples": {},
    "parts": {"mixture": {"parts": 2}},
    "budget": {"loader": {"budget": 120, "budget_window": 16}},
    "packed": {"loader": {"pack": True, "budget_window": 16}},
}


def settings(folders: tuple[Path, Path], variant: str, **loader: Any) -> DataConfig:
    given = VARIANTS[variant]
    values: dict[str, Any] = {
        "sources": {"books": {"path": str(folders[0]), "task": "read"}, "films": {"path": str(folders[1])}},
        "text": {"max_tokens": 20},
        "mixture": given.get("mixture", {}),
        "loader": {"batch_size": 6, "on_error": "count", **given.get("loader", {}), **loader},
    }
    return DataConfig.model_validate(values)


def make(config: DataConfig, tokenizer: Tokenizer, **more: Any) -> Loader:
    return Loader(open_sources(config), config, tokenizer, seed=5, **more)


def take(loader: Loader, count: int) -> list[Batch]:
    batches = list(islice(loader, count))
    loader.close()
    return batches


def same(a: Batch, b: Batch) -> bool:
    assert a.sources is not None
    assert b.sources is not None
    return a.keys == b.keys and a.positions.equal(b.positions) and a.sources.equal(b.sources)


@pytest.mark.parametrize("variant", VARIANTS)
def test_sources_and_labels(variant: str, folders: tuple[Path, Path], tokenizer: Tokenizer) -> None:
    loader = make(settings(folders, variant), tokenizer)
    for batch in take(loader, 12):
        assert batch.sources is not None
        names = ["books" if key.startswith("books") else "films" for key in batch.keys]
        assert [("books", "films")[s] for s in batch.sources.tolist()] == names
        assert batch.labels == [{"books": "read", "films": "films"}[name] for name in names]
        if variant == "parts" and not batch.skipped:
            assert len(set(names[:3])) == len(set(names[3:])) == 1
    assert loader.skipped["no caption"] >= 1


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_loader_goes_on_with_other_ranks(
    variant: str, folders: tuple[Path, Path], tokenizer: Tokenizer
) -> None:
    config = settings(folders, variant)
    whole = take(make(config, tokenizer), 30)
    first = make(config, tokenizer, rank=1, world=2)
    take(first, 17)
    state = json.loads(json.dumps(first.state_dict()))
    ranks = [make(config, tokenizer, rank=rank, world=2) for rank in (0, 1)]
    for loader in ranks:
        loader.load_state_dict(state)
    halves = [take(loader, 13) for loader in ranks]
    for expected, *parts in zip(whole[17:], *halves, strict=True):
        assert sorted(expected.keys) == sorted(key for part in parts for key in part.keys)
        positions = [p for part in parts for p in part.positions.tolist()]
        assert sorted(expected.positions.tolist()) == sorted(positions)
    alone = make(config, tokenizer)
    alone.load_state_dict(state)
    assert all(same(a, b) for a, b in zip(take(alone, 13), whole[17:], strict=True))


@pytest.mark.parametrize("variant", ["budget", "packed"])
def test_workers_change_nothing(variant: str, folders: tuple[Path, Path], tokenizer: Tokenizer) -> None:
    plain = take(make(settings(folders, variant), tokenizer), 8)
    worked = take(make(settings(folders, variant, workers=2), tokenizer), 8)
    assert all(same(a, b) for a, b in zip(plain, worked, strict=True))


def test_packed_batches(folders: tuple[Path, Path], tokenizer: Tokenizer) -> None:
    for batch in take(make(settings(folders, "packed"), tokenizer), 10):
        packed = batch.packed
        assert packed is not None
        assert batch.text_ids is not None
        assert batch.text_mask is not None
        assert packed.ids.shape[1] == 20
        assert len(packed.ids) < len(batch)
        for ids, mask, (row, segment) in zip(
            batch.text_ids, batch.text_mask, packed.places.tolist(), strict=True
        ):
            assert packed.ids[row][packed.segments[row] == segment].equal(ids[mask])
        moved = batch.to(torch.device("cpu")).packed
        assert moved is not None
        assert moved.ids.equal(packed.ids)


def test_one_named_source_has_labels_too(folders: tuple[Path, Path], tokenizer: Tokenizer) -> None:
    config = DataConfig.model_validate(
        {"sources": {"books": {"path": str(folders[0]), "task": "read"}}, "loader": {"batch_size": 4}}
    )
    batch = take(make(config, tokenizer), 1)[0]
    assert batch.labels == ["read"] * 4
    assert batch.sources is None


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"mixture": {"cycle": 500}}, "quotas"),
        ({"mixture": {"parts": 3}}, "parts"),
        ({"loader": {"batch_size": 12}}, "batch_size"),
    ],
)
def test_another_mixture_is_refused(
    changes: dict[str, Any], name: str, folders: tuple[Path, Path], tokenizer: Tokenizer
) -> None:
    config = settings(folders, "parts")
    state = make(config, tokenizer).state_dict()
    values = config.model_dump()
    for section, given in changes.items():
        values[section] |= given
    with pytest.raises(CheckpointError, match=f"loader state: {name} is"):
        make(DataConfig.model_validate(values), tokenizer).load_state_dict(state)
