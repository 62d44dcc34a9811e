"""Batches of pictures that are cut into tiles: what they hold, in training and in evaluation."""

import io
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from diptych.data.batch import Batch
from diptych.data.budget import sample_costs
from diptych.data.config import DataConfig
from diptych.data.index import Selection, ShardDataset
from diptych.data.loader import Loader, evaluation_batches
from diptych.data.sample import Sample
from diptych.data.shards import ShardWriter
from diptych.data.tiling import TilingConfig, plan_tiles, tile_picture
from diptych.errors import ConfigError
from diptych.tasks.instruct_data import pictures_of
from diptych.train.config import RunConfig, resolve_run

SIZES = ((8, 8), (16, 8), (8, 24), (20, 20), (9, 33))
"""Width and height of the pictures; the last sample has two."""
TILING = {"kind": "hd", "tile": 8, "hd_num": 4}


def picture(number: int) -> np.ndarray:
    width, height = SIZES[number]
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(number: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture(number)).save(out, "PNG")
    return out.getvalue()


def sample(number: int) -> Sample:
    media = {"png": png(number)}
    if number == 4:
        media = {"0.png": png(4), "1.png": png(1)}
    return Sample(f"k{number}", media, (f"caption {number}",))


def pictures_shown(number: int) -> list[np.ndarray]:
    return [picture(4), picture(1)] if number == 4 else [picture(number)]


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Selection:
    folder = tmp_path_factory.mktemp("tiles")
    with ShardWriter(folder, "toy", 3) as writer:
        for number in range(len(SIZES)):
            writer.write(sample(number))
        writer.write(Sample("k5", {}, ("texts alone",), meta={"conversations": [[]]}))
    return Selection(ShardDataset.open(folder), None)


def config(tiling: dict[str, Any] | None = None, **loader: Any) -> DataConfig:
    image = {"size": 8, "resize": "tiles", "tiling": tiling or TILING, "pictures": 2}
    return DataConfig.model_validate(
        {"image": image, "loader": {"batch_size": 6, "on_error": "raise", **loader}}
    )


def check(batch: Batch, tiling: TilingConfig, training: bool) -> None:
    """Compare every sample with what `tile_picture` gives."""
    assert batch.images is not None
    counts = []
    for i, key in enumerate(batch.keys):
        number = int(key[1:])
        expected = [] if number == 5 else pictures_shown(number)
        tiled = [tile_picture(shown, tiling, training=training) for shown in expected]
        assert batch.extra["grids"][i] == [(t.rows, t.columns, len(t.tiles)) for t in tiled]
        views = sum(len(t.tiles) for t in tiled)
        counts.append(views)
        if tiled:
            assert torch.equal(batch.images[i, :views], torch.cat([t.tiles for t in tiled]))
        assert not batch.images[i, views:].any()
    assert batch.images.shape == (len(batch), max(counts), 3, 8, 8)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cache_mb", [0, 1])
def test_batches_of_training(samples: Selection, workers: int, cache_mb: int) -> None:
    given = config(workers=workers, cache_mb=cache_mb)
    loader = Loader(samples, given, None, seed=1)
    for batch in islice(iter(loader), 2):
        assert sorted(batch.keys) == [f"k{i}" for i in range(6)]
        check(batch, given.image.tiling, training=True)


def test_batches_of_evaluation_have_a_limit_of_their_own(samples: Selection) -> None:
    given = config({**TILING, "eval_hd_num": 9}, batch_size=4)
    batches = list(evaluation_batches(samples, given, 4))
    assert [key for batch in batches for key in batch.keys] == [f"k{i}" for i in range(6)]
    for batch in batches:
        check(batch, given.image.tiling, training=False)
    assert batches[0].extra["grids"][0] == [(3, 3, 10)]


def test_random_sizes_are_the_same_every_time(samples: Selection) -> None:
    given = config({**TILING, "hd_num": 9, "random_size": True})
    first, again = (
        [
            batch.extra["grids"][batch.keys.index("k0")]
            for batch in islice(iter(Loader(samples, given, None, seed=2)), 12)
        ]
        for _ in range(2)
    )
    assert first == again
    # 8 x 8 pixels on tiles of 8: one to three along a side.
    assert {grid[0][:2] for grid in first} == {(1, 1), (2, 2), (3, 3)}


def test_tasks_find_the_pictures_of_each_sample(samples: Selection) -> None:
    batch = next(iter(Loader(samples, config(), None, seed=1)))
    found = dict(zip(batch.keys, pictures_of(batch), strict=True))
    assert found["k5"] is None
    two = found["k4"]
    assert two is not None
    assert two.grids == [(3, 1), (1, 2)]
    assert len(two.views) == 4 + 3


def test_more_pictures_than_allowed_and_none(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "toy", 3) as writer:
        writer.write(sample(4))
        writer.write(sample(0))
        writer.write(Sample("k9", {}, ("a caption without its picture",)))
    given = config(on_error="count", batch_size=3)
    given = given.with_(image=given.image.with_(pictures=1))
    batch = next(iter(Loader(Selection(ShardDataset.open(tmp_path), None), given, None, seed=1)))
    assert batch.keys == ["k0"]
    assert batch.skipped == {"too many pictures": 1, "no picture": 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": {"size": 8, "resize": "tiles", "tiling": TILING, "flip": 0.5}}, "tiles are not mirrored"),
        (
            {"image": {"size": 8, "resize": "tiles", "tiling": TILING}, "video": {"frames": 2}},
            "not cut into tiles",
        ),
    ],
)
def test_settings_that_do_not_go_together(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DataConfig.model_validate(changes)


def test_tiles_have_the_size_of_pictures(samples: Selection) -> None:
    given = config()
    with pytest.raises(ConfigError, match="side of 8 pixels"):
        Loader(samples, given.with_(image=given.image.with_(size=9)), None, seed=1)


def test_most_views() -> None:
    tiling = TilingConfig(kind="hd", hd_num=4, eval_hd_num=9)
    assert (tiling.most_views(True), tiling.most_views(False)) == (5, 10)
    assert tiling.with_(global_view=False).most_views(True) == 4
    assert TilingConfig(kind="nanovlm", tile=512).most_views(True) == 17
    assert TilingConfig().most_views(True) == 1


def test_the_loader_cuts_as_the_system_takes_it() -> None:
    recipe = {
        "data": {"image": {"size": 16, "resize": "tiles"}},
        "system": {"name": "mllm", "tiling": {"kind": "hd", "tile": 16, "hd_num": 3}},
        "task": {"name": "instruct"},
    }
    found = resolve_run(recipe, ["system.tiling.eval_hd_num=7"]).config
    assert found.data.image.tiling == TilingConfig(kind="hd", tile=16, hd_num=3, eval_hd_num=7)
    assert found.data.image.tiling == found.system.tiling
    # Again from what a run writes down: an evaluation may have another limit, and nothing else.
    values = found.model_dump(mode="json")
    again = resolve_run(values, ["data.image.tiling.eval_hd_num=2", "data.image.tiling.kind=none"]).config
    assert again.data.image.tiling == found.system.tiling.with_(eval_hd_num=2)
    assert RunConfig.model_validate(again.model_dump(mode="json")) == again
    # Without tiles nothing is taken over.
    recipe["data"] = {"image": {"size": 16}}
    assert resolve_run(recipe).config.data.image.tiling == TilingConfig()


def test_a_budget_counts_tiles(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "toy", 8) as writer:
        for number in range(12):
            writer.write(Sample(f"k{number % 4}-{number}", {"png": png(number % 4)}, ("a caption",)))
        writer.write(Sample("k5", {}, ("texts alone",), meta={"conversations": [[]]}))
    samples = Selection(ShardDataset.open(tmp_path), None)
    tiling = TilingConfig.model_validate({**TILING, "hd_num": 6})
    expected = {}
    for number in range(4):
        plan = plan_tiles(*SIZES[number], tiling, training=True)
        expected[f"k{number}"] = 1 + plan.rows * plan.columns
    given = config(tiling.model_dump(), budget=16, budget_by="tiles", batch_size=13)
    costs = sample_costs(samples, given, "tiles").tolist()
    assert costs == [*(expected[f"k{number % 4}"] for number in range(12)), 1]
    seen = []
    for batch in Loader(samples, given, None, seed=1):
        counts = [sum(views for *_, views in own) or 1 for own in batch.extra["grids"]]
        assert max(counts) * len(counts) <= 16
        assert counts == [expected.get(key.partition("-")[0], 1) for key in batch.keys]
        seen += batch.keys
        if len(seen) >= 13:
            break
    assert len(set(seen)) == 13
