import json
import logging
import os
import resource
import signal
import time
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loader_samples import SIZE, TEXTS, plain_samples, png, sidecar, write_tar
from PIL import Image

from diptych.data import look as look_module
from diptych.data import reader as reader_module
from diptych.data.batch import Batch
from diptych.data.config import DataConfig
from diptych.data.index import Selection, ShardDataset
from diptych.data.loader import Loader, evaluation_batches
from diptych.data.order import Order, uniforms
from diptych.data.plan import Drawn
from diptych.data.reader import match_number
from diptych.data.sample import Sample
from diptych.data.text import Tokenizer
from diptych.errors import CheckpointError, DataError


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([*TEXTS, "number 0 1 2 3 4 5 6 7 8 9"] * 3, 100)


@pytest.fixture(scope="module")
def selection(tmp_path_factory: pytest.TempPathFactory) -> Selection:
    return ShardDataset.open(
        write_tar(tmp_path_factory.mktemp("good") / "good.tar", plain_samples())
    ).select()


@pytest.fixture
def spoilt(tmp_path: Path) -> Callable[..., Selection]:
    """A selection in which the pictures or texts of some samples cannot be used."""

    def make(
        pictures: dict[int, bytes] | None = None, captions: dict[int, list[str]] | None = None
    ) -> Selection:
        samples = plain_samples()
        for i, content in (pictures or {}).items():
            samples[i][1]["png"] = content
        for i, texts in (captions or {}).items():
            samples[i][1]["json"] = json.dumps({**sidecar(i), "captions": texts}).encode()
        return ShardDataset.open(write_tar(tmp_path / "spoilt.tar", samples)).select()

    return make


def settings(**groups: Any) -> DataConfig:
    base: dict[str, Any] = {
        "image": {"size": 8},  # the width of the pictures: columns stay as they are
        "text": {"max_tokens": 8},
        "loader": {"batch_size": 5, "on_error": "raise"},
    }
    for name, changes in groups.items():
        base[name] = {**base.get(name, {}), **changes} if isinstance(changes, dict) else changes
    return DataConfig.model_validate(base)


def take(loader: Loader, count: int) -> list[Batch]:
    batches = list(islice(loader, count))
    loader.close()
    return batches


def same(a: Batch, b: Batch) -> bool:
    tensors = ("positions", "match_ids", "images", "text_ids", "text_mask")
    return (
        a.keys == b.keys
        and a.texts == b.texts
        and a.skipped == b.skipped
        and all(torch.equal(getattr(a, n), getattr(b, n)) for n in tensors)
    )


def all_same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(map(same, first, second))


def test_a_batch_by_hand(selection: Selection, tokenizer: Tokenizer) -> None:
    (batch,) = take(Loader(selection, settings(), tokenizer, seed=3, start_batch=2), 1)
    rows = Order(SIZE, 3).at(np.arange(10, 15))
    assert batch.keys == [f"s{i:02d}" for i in rows]
    assert batch.positions.tolist() == [10, 11, 12, 13, 14]
    assert batch.texts == [TEXTS[i % 9] for i in rows]
    ids, mask = tokenizer.encode(batch.texts, 8)
    assert batch.text_ids is not None
    assert batch.text_mask is not None
    assert torch.equal(batch.text_ids, ids)
    assert torch.equal(batch.text_mask, mask)
    assert batch.images is not None
    assert batch.images.dtype == torch.uint8
    # Left: the colour; right: transparent, so white.
    assert [image[:, 0, 0].tolist() for image in batch.images] == [[i * 10, 255 - i * 10, 100] for i in rows]
    assert (batch.images[:, :, :, 4:] == 255).all()
    assert batch.captions is None
    assert batch.skipped == {}


def test_an_epoch_shows_every_sample_once(selection: Selection) -> None:
    loader = Loader(selection, settings(), None, seed=1)
    assert loader.batches_per_epoch == SIZE / 5
    keys = [key for batch in take(loader, 10) for key in batch.keys]
    assert sorted(keys[:SIZE]) == sorted(keys[SIZE : 2 * SIZE]) == [f"s{i:02d}" for i in range(SIZE)]
    assert keys[:SIZE] != keys[SIZE : 2 * SIZE]


RANDOM = settings(
    image={"resize": "random_crop", "flip": 0.5},
    text={"pick": "random"},
    loader={"group_size": 2, "cache_mb": 1},
)


@pytest.mark.parametrize("config", [settings(loader={"cache_mb": 1}), RANDOM], ids=["plain", "random"])
@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(
    selection: Selection, tokenizer: Tokenizer, config: DataConfig, workers: int
) -> None:
    alone = take(Loader(selection, config, tokenizer, seed=4), 11)
    config = config.with_(loader=config.loader.with_(workers=workers))
    assert all_same(alone, take(Loader(selection, config, tokenizer, seed=4), 11))


@pytest.mark.slow
@pytest.mark.parametrize("start", [1, 4, 9])
@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_is_continuing(selection: Selection, tokenizer: Tokenizer, start: int, workers: int) -> None:
    whole = take(Loader(selection, RANDOM, tokenizer, seed=7), 12)
    first = Loader(selection, RANDOM, tokenizer, seed=7)
    iterator = iter(first)
    assert all_same([next(iterator) for _ in range(start)], whole[:start])
    state = json.loads(json.dumps(first.state_dict()))
    first.close()
    second = Loader(selection, RANDOM.with_(loader=RANDOM.loader.with_(workers=workers)), tokenizer, seed=7)
    second.load_state_dict(state)
    assert second.next_batch == start
    assert all_same(take(second, 12 - start), whole[start:])


def test_a_closed_loader_goes_on_where_it_was(selection: Selection) -> None:
    loader = Loader(selection, settings(loader={"workers": 1}), None, seed=2)
    old = iter(loader)
    keys = [next(old).keys for _ in range(3)]
    loader.close()
    assert list(old) == []
    keys += [batch.keys for batch in islice(loader, 3)]
    loader.close()
    assert keys == [batch.keys for batch in take(Loader(selection, settings(), None, seed=2), 6)]


def test_a_new_iterator_ends_the_old_one(selection: Selection) -> None:
    loader = Loader(selection, settings(), None, seed=2)
    old = iter(loader)
    next(old)
    new = iter(loader)
    assert list(old) == []
    assert len(next(new)) == 5
    assert loader.next_batch == 2


@pytest.mark.parametrize(
    ("changes", "seed", "name"),
    [({"batch_size": 6}, 1, "batch_size"), ({"shuffle": False}, 1, "shuffle"), ({}, 2, "seed")],
)
def test_a_state_of_another_order_is_refused(
    selection: Selection, changes: dict[str, Any], seed: int, name: str
) -> None:
    state = Loader(selection, settings(), None, seed=1).state_dict()
    other = Loader(selection, settings(loader=changes), None, seed=seed)
    with pytest.raises(CheckpointError, match=f"loader state: {name} is .* in the checkpoint and .* now"):
        other.load_state_dict(state)
    fewer = ShardDataset.open(selection.dataset.root).select(where="key < 's20'")
    with pytest.raises(CheckpointError, match="fingerprint"):
        Loader(fewer, settings(), None, seed=1).load_state_dict(state)


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_ranks_share_the_batch(selection: Selection, tokenizer: Tokenizer, world: int) -> None:
    whole = take(Loader(selection, RANDOM, tokenizer, seed=1), 6)
    parts = [take(Loader(selection, RANDOM, tokenizer, seed=1, rank=r, world=world), 6) for r in range(world)]
    for number, batch in enumerate(whole):
        images = [part[number].images for part in parts]
        assert [key for part in parts for key in part[number].keys] == batch.keys
        assert all(abs(len(image) - 5 / world) < 1 for image in images if image is not None)
        assert batch.images is not None
        assert torch.equal(torch.cat([image for image in images if image is not None]), batch.images)


def test_more_ranks_than_samples_are_refused(selection: Selection) -> None:
    with pytest.raises(
        DataError, match=r"data.loader.batch_size: expected at least one sample a rank \(6\), got 5"
    ):
        Loader(selection, settings(), None, seed=1, world=6)


def test_flips_and_captions_are_drawn_by_position(selection: Selection, tokenizer: Tokenizer) -> None:
    config = settings(image={"flip": 0.5}, text={"pick": "random"}, loader={"batch_size": SIZE})
    batches = take(Loader(selection, config, tokenizer, seed=5), 2)
    for batch in batches:
        draws = uniforms(5, batch.positions.numpy(), 2)
        assert batch.images is not None
        assert batch.texts is not None
        # The transparent (white) half is on the left where the picture is flipped.
        flipped = (batch.images[:, :, :, 0] == 255).all(1).all(1)
        assert flipped.tolist() == (draws[:, 0] < 0.5).tolist()
        assert [text.startswith("Number") for text in batch.texts] == (draws[:, 1] >= 0.5).tolist()
        assert 4 < int(flipped.sum()) < SIZE - 4
    assert (batches[0].positions + SIZE == batches[1].positions).all()


@pytest.mark.parametrize("config", [settings(), RANDOM], ids=["plain", "random"])
@pytest.mark.parametrize("cache_mb", [0, 1])
def test_the_cache_changes_nothing_but_decoding(
    selection: Selection,
    tokenizer: Tokenizer,
    config: DataConfig,
    cache_mb: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = config.with_(loader=config.loader.with_(cache_mb=0))
    wanted = take(Loader(selection, plain, tokenizer, seed=3), 14)
    decoded: Counter[bytes] = Counter()
    original = look_module.open_image

    def counting(data: bytes, reduce_to: int | None = None) -> Image.Image:
        decoded[data] += 1
        return original(data, reduce_to)

    monkeypatch.setattr(look_module, "open_image", counting)
    cached = config.with_(loader=config.loader.with_(cache_mb=cache_mb))
    assert all_same(take(Loader(selection, cached, tokenizer, seed=3), 14), wanted)
    assert len(decoded) == SIZE
    assert (max(decoded.values()) == 1) == (cache_mb == 1)


def test_a_cache_that_is_too_small_keeps_what_fits(selection: Selection) -> None:
    wanted = take(Loader(selection, settings(image={"size": 200}), None, seed=3), 10)
    # 8 of the 23 pictures of 120 kB fit into 1 MiB.
    small = take(Loader(selection, settings(image={"size": 200}, loader={"cache_mb": 1}), None, seed=3), 10)
    for a, b in zip(wanted, small, strict=True):
        assert a.images is not None
        assert b.images is not None
        assert torch.equal(a.images, b.images)


def test_handed_out_pictures_are_copies(selection: Selection) -> None:
    config = settings(loader={"cache_mb": 1, "batch_size": SIZE})
    iterator = iter(Loader(selection, config, None, seed=3))
    first = next(iterator)
    assert first.images is not None
    before = dict(zip(first.keys, first.images.clone(), strict=True))
    first.images.zero_()
    second = next(iterator)
    assert second.images is not None
    for key, image in zip(second.keys, second.images, strict=True):
        assert torch.equal(image, before[key])


def test_opacity_is_kept_for_the_augmentation(selection: Selection) -> None:
    config = settings(augment={"random_background": 0.5})
    (batch,) = take(Loader(selection, config, None, seed=1), 1)
    assert batch.images is not None
    assert batch.images.shape == (5, 4, 8, 8)
    assert (batch.images[:, 3, :, 0] == 255).all()
    assert (batch.images[:, 3, :, 4:] == 0).all()
    evaluated = next(evaluation_batches(selection, config, 5))
    assert evaluated.images is not None
    assert evaluated.images.shape == (5, 3, 8, 8)


def test_groups_are_side_by_side(selection: Selection) -> None:
    config = settings(loader={"batch_size": 6, "group_size": 3})
    for batch in take(Loader(selection, config, None, seed=1), 3):
        groups = batch.match_ids.view(2, 3)
        assert (groups == groups[:, :1]).all()


def test_groups_of_any_column(selection: Selection) -> None:
    # `parity` is missing in the last three samples: each of them is a group of its own.
    config = settings(loader={"batch_size": 4, "group_size": 4, "group_by": "parity"})
    batches = take(Loader(selection, config, None, seed=1), 5)
    pure = [batch for batch in batches if len({int(key[1:]) % 2 for key in batch.keys}) == 1]
    assert len(pure) >= 4
    with pytest.raises(DataError, match="parity"):
        Loader(selection, settings(loader={"group_size": 2, "group_by": "paritie"}), None, seed=1)


def test_match_numbers() -> None:
    def number(key: str, match_id: str = "") -> int:
        return match_number(Sample(key, {}, match_id=match_id))

    assert number("a", "x") == number("b", "x")
    assert number("a") != number("b")
    assert number("a", "x") != number("x")
    assert number("a", "x") == 6620597263528611
    assert -(2**63) <= number("a") < 2**63


def test_bad_samples_are_left_out_and_counted(
    spoilt: Callable[..., Selection], tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    bad = spoilt({2: png(2)[:60], 5: b"no picture"}, {7: []})
    wanted = {"truncated picture": 2, "unreadable picture": 2, "no caption": 2}
    for mode, workers in (("skip", 0), ("count", 2)):
        caplog.clear()
        config = settings(loader={"on_error": mode, "batch_size": SIZE, "workers": workers})
        loader = Loader(bad, config, tokenizer, seed=1)
        with caplog.at_level(logging.WARNING):
            batches = take(loader, 2)
        assert [len(batch) for batch in batches] == [SIZE - 3] * 2
        assert dict(loader.skipped) == wanted
        assert not {"s02", "s05", "s07"} & {key for batch in batches for key in batch.keys}
        assert len(caplog.records) == (6 if mode == "skip" else 0)
        if mode == "skip":
            assert "spoilt.tar: sample 's05': unreadable picture" in caplog.text
    state = loader.state_dict()
    resumed = Loader(bad, config, tokenizer, seed=1)
    resumed.load_state_dict(state)
    assert dict(resumed.skipped) == wanted


@pytest.mark.parametrize("workers", [0, 1])
def test_raise_names_shard_and_sample(
    spoilt: Callable[..., Selection], tokenizer: Tokenizer, workers: int
) -> None:
    bad = spoilt({2: png(2)[:60]})
    config = settings(loader={"batch_size": SIZE, "workers": workers})
    with pytest.raises(DataError, match=r"spoilt.tar: sample 's02': truncated picture") as caught:
        take(Loader(bad, config, tokenizer, seed=1), 1)
    assert "data.loader.on_error" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_shard_is_counted(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "spoilt.tar", plain_samples())
    damaged = ShardDataset.open(path).select()
    stamp = path.stat()
    content = bytearray(path.read_bytes())
    content[content.index(png(4)) + 50] ^= 255
    path.write_bytes(content)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    loader = Loader(damaged, settings(loader={"on_error": "count", "batch_size": SIZE}), None, seed=1)
    take(loader, 1)
    assert dict(loader.skipped) == {"unreadable sample": 1}
    with pytest.raises(DataError, match="'s04'"):
        take(Loader(damaged, settings(loader={"batch_size": SIZE}), None, seed=1), 1)


def test_a_batch_is_never_empty(spoilt: Callable[..., Selection]) -> None:
    bad = spoilt({i: b"" for i in range(SIZE) if i not in (3, 11)})
    config = settings(loader={"on_error": "count", "batch_size": 2})
    first = take(Loader(bad, config, None, seed=1), 12)
    assert all(set(batch.keys) <= {"s03", "s11"} and len(batch) for batch in first)
    assert all_same_keys(first[5:], take(Loader(bad, config, None, seed=1, start_batch=5), 7))
    none = spoilt(dict.fromkeys(range(SIZE), b""))
    with pytest.raises(
        DataError, match=f"none of the {SIZE} samples can be used; the first: .*the file is empty"
    ):
        take(Loader(none, config, None, seed=1), 1)


def all_same_keys(first: list[Batch], second: list[Batch]) -> bool:
    return [batch.keys for batch in first] == [batch.keys for batch in second]


def test_an_empty_selection_is_refused(selection: Selection) -> None:
    empty = selection.dataset.select(where="key = 'none'")
    with pytest.raises(DataError, match="no samples selected"):
        Loader(empty, settings(path="here"), None, seed=1)
    with pytest.raises(DataError, match="check the split"):
        list(evaluation_batches(empty, settings(), 4))


def test_evaluation_shows_everything_once_in_order(selection: Selection, tokenizer: Tokenizer) -> None:
    batches = list(evaluation_batches(selection, RANDOM, 6, tokenizer))
    assert [len(batch) for batch in batches] == [6, 6, 6, 5]
    assert [key for batch in batches for key in batch.keys] == [f"s{i:02d}" for i in range(SIZE)]
    assert batches[0].captions == [(TEXTS[i], f"Number {i}") for i in range(6)]
    assert batches[0].texts == TEXTS[:6]
    assert batches[0].images is not None
    assert [image[:, 0, 0].tolist() for image in batches[0].images] == [
        [i * 10, 255 - i * 10, 100] for i in range(6)
    ]


def test_evaluation_counts_what_it_leaves_out(spoilt: Callable[..., Selection]) -> None:
    bad = spoilt({1: b"", 21: b"", 22: b""})
    config = settings(loader={"on_error": "count"})
    batches = list(evaluation_batches(bad, config, 7))
    assert [len(batch) for batch in batches] == [6, 7, 7]
    assert [batch.skipped for batch in batches] == [{"unreadable picture": 1}, {}, {"unreadable picture": 2}]
    with pytest.raises(DataError, match="sample 's01'"):
        list(evaluation_batches(bad, settings(), 7))


def test_a_part_without_a_usable_sample_is_counted(spoilt: Callable[..., Selection]) -> None:
    bad, config = spoilt(dict.fromkeys(range(SIZE), b"")), settings(loader={"on_error": "count"})
    (batch,) = evaluation_batches(bad, config, 7, part=True)
    assert (len(batch), batch.skipped) == (0, {"unreadable picture": SIZE})
    with pytest.raises(DataError, match="none of the"):
        list(evaluation_batches(bad, config, 7))


def test_cleaning_and_word_limit(spoilt: Callable[..., Selection], tokenizer: Tokenizer) -> None:
    odd = spoilt(captions={0: ["...", "A red-cat, please."]})
    config = settings(text={"clean": "caption", "max_words": 3})
    batch = next(evaluation_batches(odd, config, 2, tokenizer))
    assert batch.captions == [("a red cat",), ("red dog", "number 1")]


def children() -> set[int]:
    return set(map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()))


def test_close_ends_the_workers_and_their_time_is_counted(selection: Selection) -> None:
    loader = Loader(selection, settings(loader={"workers": 2}), None, seed=1)
    others = children()  # of other tests, such as servers that processes are forked from
    next(iterator := iter(loader))
    pids = children() - others
    assert len(pids) == 2
    list(islice(iterator, 10))
    assert 0 < loader.worker_cpu_seconds < 60
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    loader.close()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert loader.worker_cpu_seconds == 0
    assert after.ru_utime + after.ru_stime > before.ru_utime + before.ru_stime
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.slow
def test_a_killed_worker_is_reported(selection: Selection, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = os.getpid()
    original = reader_module.SampleReader.read

    def deadly(self: Any, drawn: Drawn, out: Any) -> Any:
        if os.getpid() != parent and drawn.positions[0] >= 8 * 5:
            time.sleep(0.8)  # until the loop below waits for this batch
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, drawn, out)

    monkeypatch.setattr(reader_module.SampleReader, "read", deadly)
    loader = Loader(selection, settings(loader={"workers": 1}), None, seed=1)
    with pytest.raises(DataError, match=r"a loader process died .*data.loader.workers=0"):
        list(islice(loader, 20))
    assert loader.next_batch == 8
    loader.close()


def test_padding_to_the_longest_of_the_batch_only_leaves_padding_out(
    selection: Selection, tokenizer: Tokenizer
) -> None:
    def first(**text: Any) -> tuple[torch.Tensor, torch.Tensor]:
        batch = next(iter(Loader(selection, settings(text={"max_tokens": 20, **text}), tokenizer, seed=3)))
        assert batch.text_ids is not None and batch.text_mask is not None  # noqa: PT018
        return batch.text_ids, batch.text_mask

    (ids, mask), (tight_ids, tight_mask) = first(), first(padding="longest")
    assert ids.shape[1] == 20 > (longest := int(mask.sum(1).max()))
    assert torch.equal(tight_ids, ids[:, :longest])
    assert torch.equal(tight_mask, mask[:, :longest])
