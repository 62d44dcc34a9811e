"""Rows of questions and statements: what they hold, and that batches of them behave like others."""

import io
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from diptych.data.batch import Batch
from diptych.data.config import DataConfig
from diptych.data.examples import Examples, expand
from diptych.data.index import ShardDataset
from diptych.data.loader import Loader, evaluation_batches
from diptych.data.sample import Sample
from diptych.data.selection import Selection
from diptych.data.shards import ShardWriter
from diptych.data.sources import make_plan, open_sources
from diptych.data.text import Tokenizer
from diptych.errors import ConfigError, DataError

COUNTS = (2, 0, 3, 1, 0, 4, 2, 1)
"""Questions of the samples."""


def png(shade: int, *, marked: bool = False) -> bytes:
    """A grey picture of 8 x 8, white in its left half if marked."""
    pixels = np.full((8, 8, 3), shade, dtype=np.uint8)
    if marked:
        pixels[:, :4] = 255
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def question(sample: int, number: int) -> dict[str, Any]:
    return {
        "question": f"What is {sample} {number}?",
        "answer": str(number),
        "question_id": 10 * sample + number,
    }


def asked(number: int, **meta: Any) -> Sample:
    listed = [question(number, n) for n in range(COUNTS[number])]
    return Sample(
        f"k{number}",
        {"png": png(10 * number)},
        (f"a caption {number}",),
        f"m{number // 2}",
        "train" if number % 4 else "test",
        {"number": number, "questions": listed, **meta},
    )


def paired(number: int) -> Sample:
    """Left pictures (even numbers) have two statements about themselves and the next picture."""
    said = [{"statement": f"One {number}.", "label": True}, {"statement": f"Two {number}.", "label": False}]
    return Sample(
        f"k{number}",
        {"png": png(10 * number)},
        (f"a caption {number}",),
        meta={"pair_other": f"k{number ^ 1}", "statements": [] if number % 2 else said},
    )


Write = Callable[..., ShardDataset]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def made(samples: list[Sample], name: str = "made") -> ShardDataset:
        with ShardWriter(tmp_path / name, "toy", 3) as writer:
            for sample in samples:
                writer.write(sample)
        return ShardDataset.open(tmp_path / name)

    return made


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    folder = tmp_path_factory.mktemp("questions")
    with ShardWriter(folder, "toy", 3) as writer:
        for i in range(len(COUNTS)):
            writer.write(asked(i))
    return ShardDataset.open(folder)


@pytest.fixture(scope="module")
def statements(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    folder = tmp_path_factory.mktemp("statements")
    with ShardWriter(folder, "toy", 3) as writer:
        for i in range(12):
            writer.write(paired(i))
    return ShardDataset.open(folder)


def config(**groups: Any) -> DataConfig:
    base: dict[str, Any] = {"image": {"size": 8}, "loader": {"batch_size": 4, "on_error": "raise"}}
    for name, changes in groups.items():
        base[name] = {**base.get(name, {}), **changes} if isinstance(changes, dict) else changes
    return DataConfig.model_validate(base)


def batches(selection: Selection, count: int, given: DataConfig | None = None, **more: Any) -> list[Batch]:
    loader = Loader(selection, given or config(), None, seed=3, **more)
    found = list(islice(loader, count))
    loader.close()
    return found


def every_row(selection: Selection) -> list[tuple[str, str, int]]:
    """The rows that a selection of samples has: key, text and number of the question; the slow way."""
    return [
        (sample.key, entry["question"], entry["question_id"])
        for sample in map(selection.read, range(len(selection)))
        for entry in sample.meta["questions"]
    ]


# --- rows


def test_samples_stay_as_they_are(questions: ShardDataset) -> None:
    selection = questions.select()
    assert expand(selection, "samples") is selection


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chosen=st.sets(st.integers(0, len(COUNTS) - 1)))
def test_rows_are_the_questions_of_the_selected_samples(questions: ShardDataset, chosen: set[int]) -> None:
    selection = Selection(questions, np.array(sorted(chosen), dtype=np.int64))
    rows = Examples(selection, "questions")
    wanted = every_row(selection)
    read = [rows.read(i) for i in range(len(rows))]
    assert [(s.key, s.captions[0], s.meta["questions"][0]["question_id"]) for s in read] == wanted
    assert all(len(s.captions) == len(s.meta["questions"]) == 1 for s in read)
    numbers = [int(key[1:]) for key, *_ in wanted]
    assert [s.media["png"] for s in read] == [png(10 * n) for n in numbers]
    assert rows.rows_of(slice(None)).tolist() == numbers
    assert [int(rows.samples.rows[rows.sample_of(i)]) for i in range(len(rows))] == numbers
    assert [rows.place(i).key for i in range(len(rows))] == [key for key, *_ in wanted]
    assert [entry["question"] for entry in rows.entries()] == [text for _, text, _ in wanted]
    with pytest.raises(IndexError):
        rows.read(len(rows))


def test_columns_are_those_of_the_samples_but_for_the_text(questions: ShardDataset) -> None:
    rows = expand(questions.select(), "questions")
    owners = np.repeat(np.arange(len(COUNTS)), COUNTS)
    assert rows.column("number").tolist() == owners.tolist()  # type: ignore[union-attr]
    assert rows.column("key") == [f"k{n}" for n in owners]
    letters = rows.column("text_chars")
    assert list(letters) == [len(text) for _, text, _ in every_row(questions.select())]


def test_the_first_thing_asked_may_be_a_column(write: Write) -> None:
    rows = expand(write([asked(0)]).select(), "questions")
    assert list(rows.column("text_chars")) == [12, 12]


def test_counts_are_a_column_of_the_index(questions: ShardDataset) -> None:
    assert questions.select().column("questions").tolist() == list(COUNTS)  # type: ignore[union-attr]
    assert len(questions.select(where="questions >= 3")) == 2


def test_an_index_without_counts_is_completed_once(write: Write, tmp_path: Path) -> None:
    wanted = every_row(write([asked(i) for i in range(8)]).select())
    index = next(tmp_path.rglob("index.parquet"))
    pq.write_table(pq.read_table(index).drop_columns(["questions"]), index)
    dataset = ShardDataset.open(tmp_path / "made")
    assert "questions" not in dataset.columns
    rows = expand(dataset.select(), "questions")
    assert [(s.key, s.captions[0]) for s in map(rows.read, range(len(rows)))] == [row[:2] for row in wanted]
    (made,) = tmp_path.rglob("questions-*.npy")
    assert np.load(made).tolist() == list(COUNTS)
    before = made.stat().st_mtime_ns
    assert len(expand(dataset.select(where="key = 'k2'"), "questions")) == 3
    assert made.stat().st_mtime_ns == before


def test_fingerprints_tell_kinds_and_selections_apart(questions: ShardDataset) -> None:
    everything, some = questions.select(), questions.select(where="number > 2")
    prints = {everything.fingerprint, some.fingerprint}
    prints |= {expand(everything, "questions").fingerprint, expand(some, "questions").fingerprint}
    assert len(prints) == 4
    assert expand(questions.select(), "questions").fingerprint in prints


def test_rows_pickle_small(questions: ShardDataset) -> None:
    rows = expand(questions.select(), "questions")
    packed = pickle.dumps(rows)
    again = pickle.loads(packed)
    assert len(packed) < 20_000
    assert [again.read(i) for i in range(len(again))] == [rows.read(i) for i in range(len(rows))]
    assert again.fingerprint == rows.fingerprint


def test_samples_without_questions_are_refused(statements: ShardDataset) -> None:
    with pytest.raises(DataError, match=r"data\.examples = questions, but none of the 12 samples lists any"):
        expand(statements.select(), "questions")


@pytest.mark.parametrize("entry", ["a text", {"q": "x"}, {"question": 3}])
def test_an_entry_that_is_no_question_is_a_bad_sample(write: Write, entry: Any) -> None:
    sample = Sample("bad", {"png": png(1)}, meta={"questions": [question(0, 0), entry]})
    rows = expand(write([sample]).select(), "questions")
    with pytest.raises(DataError, match=r"sample 'bad': entry 1 of `questions` has no text 'question'"):
        rows.read(1)
    (batch,) = evaluation_batches(rows, config(loader={"on_error": "count"}), 8)
    assert batch.texts == ["What is 0 0?"]
    assert batch.skipped == {"unreadable sample": 1}


def test_captions_are_rows_too(write: Write) -> None:
    samples = [Sample(f"k{i}", {"png": png(i)}, tuple("abc"[:i]), meta={"questions": []}) for i in range(4)]
    rows = expand(write(samples).select(), "captions")
    read = [rows.read(i) for i in range(len(rows))]
    assert [(s.key, s.captions) for s in read] == [
        (f"k{i}", (caption,)) for i in range(4) for caption in "abc"[:i]
    ]
    assert read[3] == replace(samples[3], captions=("a",), split="train")
    assert list(rows.column("text_chars")) == [1] * 6
    (batch,) = batches(rows, 1, config(loader={"batch_size": 6}))
    assert batch.extra == {}
    assert sorted(zip(batch.keys, batch.texts or [], strict=True)) == [(s.key, s.captions[0]) for s in read]
    assert len(set(batch.match_ids.tolist())) == 3


# --- two pictures


def test_statements_show_the_sample_and_its_partner(statements: ShardDataset) -> None:
    # The partners are not selected; their pictures are read all the same.
    rows = expand(statements.select(where="statements > 0"), "statements")
    assert len(rows) == 12
    for i, sample in enumerate(map(rows.read, range(12))):
        left = 2 * (i // 2)
        assert sample.key == f"k{left}"
        assert sample.media == {"0.png": png(10 * left), "1.png": png(10 * left + 10)}
        assert sample.captions == ((f"One {left}.", f"Two {left}.")[i % 2],)
        assert sample.meta["statements"][0]["label"] is (i % 2 == 0)


def test_a_right_picture_comes_second(write: Write) -> None:
    meta = {"pair_other": "b", "pair_side": "right", "statements": [{"statement": "x", "label": True}]}
    dataset = write([Sample("a", {"png": png(1)}, meta=meta), Sample("b", {"png": png(2)})])
    assert expand(dataset.select(), "statements").read(0).media == {"0.png": png(2), "1.png": png(1)}


def test_two_pictures_of_one_sample(write: Write) -> None:
    said = {"statements": [{"statement": "x", "label": True}]}
    dataset = write([Sample("a", {"1.png": png(2), "0.png": png(1), "wav": b"-"}, meta=said)])
    rows = expand(dataset.select(), "statements")
    assert rows.read(0).media == {"0.png": png(1), "1.png": png(2)}
    assert dataset.select().column("width").tolist() == [8]  # type: ignore[union-attr]
    (batch,) = evaluation_batches(rows, config(), 4)
    assert batch.images is not None
    assert batch.images[0, :, 0, 0, 0].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("other", "media", "found"),
    [
        ("gone", {"png": png(1)}, 1),
        ("", {"png": png(1)}, 1),
        ("k", {f"{i}.png": png(i) for i in range(3)}, 3),
    ],
)
def test_statements_without_two_pictures_are_bad_samples(
    write: Write, other: str, media: dict[str, bytes], found: int
) -> None:
    meta = {"pair_other": other, "statements": [{"statement": "x", "label": True}]}
    rows = expand(write([Sample("k", media, meta=meta)]).select(), "statements")
    with pytest.raises(DataError, match=rf"sample 'k': its statements need two pictures, {found} found"):
        rows.read(0)


def test_a_dataset_without_pairs_is_refused_when_it_is_opened(write: Write) -> None:
    said = {"statements": [{"statement": "x", "label": True}]}
    dataset = write([Sample("a", {"png": png(1)}, meta=said)])
    with pytest.raises(DataError, match="statements needs two pictures a statement"):
        expand(dataset.select(), "statements")


def test_remote_stores_hear_of_both_pictures(
    statements: ShardDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(statements.store, "will_need", told.extend)
    expand(statements.select(), "statements").will_need(np.array([3, 0]))
    # Rows 3 and 0 are about k2 with k3, and k0 with k1; three samples lie in a shard.
    assert told == statements.shards[:2]


# --- batches


def test_batches_hold_questions_in_place_of_captions(questions: ShardDataset) -> None:
    tokenizer = Tokenizer.train(["what is 0 1 2 3 4 5 6 7"] * 3, 40)
    rows = expand(questions.select(), "questions")
    loader = Loader(rows, config(text={"clean": "question", "max_tokens": 8}), tokenizer, seed=1)
    seen: list[int] = []
    for batch in islice(loader, 13):
        entries = batch.extra["questions"]
        assert batch.texts == [e["question"].lower().rstrip("?") for e in entries]
        assert batch.images is not None
        assert batch.text_ids is not None
        assert batch.images[:, 0, 0, 0].tolist() == [e["question_id"] // 10 * 10 for e in entries]
        assert batch.keys == [f"k{e['question_id'] // 10}" for e in entries]
        again = [tokenizer.sequence(text, 8) for text in batch.texts]
        assert torch.equal(batch.text_ids, tokenizer.pad(again, 8)[0])
        seen += [e["question_id"] for e in entries]
    # 13 questions: four epochs of them in 13 batches of 4, each question once in each.
    wanted = sorted(number for *_, number in every_row(questions.select()))
    assert [sorted(seen[start : start + 13]) for start in range(0, 52, 13)] == [wanted] * 4


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["questions", "statements"])
@pytest.mark.parametrize("cache", [0, 1])
@pytest.mark.parametrize("resize", ["squash", "random_crop"])
def test_workers_and_caches_change_nothing(
    questions: ShardDataset, statements: ShardDataset, kind: str, cache: int, resize: str
) -> None:
    rows = expand((questions if kind == "questions" else statements).select(), kind)
    given = config(image={"flip": 0.5, "resize": resize})
    plain = batches(rows, 7, given)
    other = batches(rows, 7, given.with_(loader=given.loader.with_(workers=2, cache_mb=cache)))
    cached = batches(rows, 7, given.with_(loader=given.loader.with_(cache_mb=cache)))
    for a, b, c in zip(plain, other, cached, strict=True):
        assert a.images is not None
        assert a.images.shape == ((4, 2, 3, 8, 8) if kind == "statements" else (4, 3, 8, 8))
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.images, c.images)
        assert a.extra == b.extra == c.extra
        assert a.texts == b.texts == c.texts


def test_ranks_share_a_batch_and_a_loader_resumes(statements: ShardDataset) -> None:
    rows = expand(statements.select(), "statements")
    whole = batches(rows, 4)
    halves = [batches(rows, 4, rank=rank, world=2) for rank in (0, 1)]
    for i, batch in enumerate(whole):
        assert batch.texts is not None
        assert batch.texts == [text for half in halves for text in half[i].texts or []]
    first = Loader(rows, config(), None, seed=3)
    list(islice(first, 2))
    second = Loader(rows, config(), None, seed=3)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert [b.extra for b in islice(second, 2)] == [b.extra for b in whole[2:]]
    other = Loader(statements.select(), config(), None, seed=3)
    with pytest.raises(Exception, match="fingerprint"):
        other.load_state_dict(first.state_dict())


def test_evaluation_yields_each_row_once(questions: ShardDataset) -> None:
    rows = expand(questions.select(), "questions")
    found = list(evaluation_batches(rows, config(), 5))
    assert [len(b) for b in found] == [5, 5, 3]
    ids = [e["question_id"] for b in found for e in b.extra["questions"]]
    assert ids == [number for *_, number in every_row(questions.select())]
    assert all(b.captions == [(text,) for text in b.texts or []] for b in found)


def test_rows_can_be_taken_out_of_a_batch(statements: ShardDataset) -> None:
    (batch,) = batches(expand(statements.select(), "statements"), 1)
    some = batch.take(torch.tensor([2, 0]))
    assert batch.images is not None
    assert torch.equal(some.images, batch.images[[2, 0]])
    assert some.extra == {"statements": [batch.extra["statements"][2], batch.extra["statements"][0]]}


def test_batches_of_equal_cost_count_the_questions_letters(questions: ShardDataset) -> None:
    rows = expand(questions.select(), "questions")
    given = config(loader={"batch_size": 8, "budget": 24}, text={"max_tokens": 40})
    plan = make_plan({"data": rows}, given, seed=1)
    letters = np.asarray(rows.column("text_chars"))
    for number in range(6):
        cost = int(np.ceil(letters[plan.batch(number).rows] / 4 + 2).max()) * len(plan.batch(number).rows)
        assert cost <= 24


# --- flips


def turned(batch: Batch) -> torch.Tensor:
    """Whether the white half of each picture is on the right."""
    assert batch.images is not None
    return batch.images[..., 0, 0, 0] != 255


def test_the_pictures_of_a_row_are_mirrored_each_by_itself(write: Write) -> None:
    said = {"statements": [{"statement": "x", "label": True}] * 200}
    media = {"0.png": png(0, marked=True), "1.png": png(0, marked=True)}
    rows = expand(write([Sample("a", media, meta=said)]).select(), "statements")
    given = config(image={"flip": 0.5}, loader={"batch_size": 200})
    (batch,) = batches(rows, 1, given)
    which = turned(batch).long()
    counts = torch.bincount(2 * which[:, 0] + which[:, 1], minlength=4)
    # 50 are expected of each of the four; 4.5 standard deviations either way.
    assert all(22 < count < 78 for count in counts.tolist())


@pytest.mark.parametrize("kind", ["samples", "questions"])
def test_words_that_forbid_mirroring(write: Write, kind: str) -> None:
    listed = [
        {"question": "What is LEFT of it?", "answer": "it"},
        {"question": "Where?", "answers": ["there", "on the right"]},
        {"question": "What is it?", "answers": ["it", "a cat"]},
    ]
    captions = ["it is left", "right here", "a cat"]
    samples = [
        Sample(f"k{i}", {"png": png(i, marked=True)}, (captions[i],), meta={"questions": [listed[i]]})
        for i in range(3)
    ]
    rows = expand(write(samples).select(), kind)
    given = config(image={"flip": 1.0, "flip_unless": ["left", "Right"]}, loader={"batch_size": 3})
    (batch,) = batches(rows, 1, given)
    assert dict(zip(batch.keys, turned(batch).tolist(), strict=True)) == {
        "k0": False,
        "k1": False,
        "k2": True,
    }
    free = given.with_(image=given.image.with_(flip_unless=()))
    assert turned(batches(rows, 1, free)[0]).all()


# --- settings


def test_open_sources_expands_each_source_as_it_says(questions: ShardDataset) -> None:
    path = str(questions.root)
    one = open_sources(config(path=path, examples="questions"))
    assert len(one["data"]) == sum(COUNTS)
    given = config(
        path=path,
        sources={"text": {}, "vqa": {"examples": "questions"}},
        loader={"batch_size": 16},
    )
    sources = open_sources(given)
    assert {name: len(source) for name, source in sources.items()} == {"text": 8, "vqa": sum(COUNTS)}
    loader = Loader(sources, given, None, seed=1)
    batch = next(iter(loader))
    loader.close()
    assert batch.sources is not None
    for source, text, entry in zip(
        batch.sources.tolist(), batch.texts, batch.extra["questions"], strict=True
    ):
        assert (entry is None) == (source == 0)
        assert text.startswith("a caption") == (source == 0)
    assert 0 < int(batch.sources.sum()) < 16


def test_rows_with_one_and_with_two_pictures_do_not_mix(
    questions: ShardDataset, statements: ShardDataset
) -> None:
    with pytest.raises(ValueError, match="rows of statements have two pictures and do not mix"):
        config(sources={"a": {"examples": "statements"}, "b": {}})
    config(examples="statements", sources={"a": {"examples": "statements"}, "b": {}})
    mixed = {
        "a": expand(questions.select(), "questions"),
        "b": expand(statements.select(), "statements"),
    }
    with pytest.raises(ConfigError, match="do not mix"):
        Loader(mixed, config(sources={"a": {}, "b": {}}), None, seed=1)
