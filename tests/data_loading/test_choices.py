"""Rows of five-way choices: what they hold, batches of them, and entries that are none."""

import io
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from diptych.data.config import DataConfig
from diptych.data.examples import expand, option_texts
from diptych.data.index import ShardDataset
from diptych.data.loader import Loader, evaluation_batches
from diptych.data.prepare import load_card, prepare
from diptych.data.sample import Sample
from diptych.data.shards import ShardWriter
from diptych.data.text import Tokenizer
from diptych.data.verify_texts import TextTally
from diptych.errors import ConfigError, DataError

COUNTS = (2, 0, 1, 3, 2)
"""Choices of the samples."""


def png(shade: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), shade, dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


def choice(sample: int, number: int, **changes: Any) -> dict[str, Any]:
    """Choice `number` of a sample: odd ones have a question; options get longer."""
    options = [f"{'word ' * place}{'abcde'[place]}" for place in range(5)]
    asked = f"Which {sample}?" if number % 2 else ""
    base = {
        "question": asked,
        "options": options,
        "answer": (sample + number) % 5,
        "question_id": 10 * sample,
    }
    return {**base, **changes}


def sample(number: int) -> Sample:
    listed = [choice(number, n) for n in range(COUNTS[number])]
    return Sample(f"k{number}", {"png": png(10 * number)}, ("a caption",), meta={"choices": listed})


Write = Callable[..., ShardDataset]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def made(samples: list[Sample], name: str = "made") -> ShardDataset:
        with ShardWriter(tmp_path / name, "toy", 3) as writer:
            for one in samples:
                writer.write(one)
        return ShardDataset.open(tmp_path / name)

    return made


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    folder = tmp_path_factory.mktemp("choices")
    with ShardWriter(folder, "toy", 3) as writer:
        for i in range(len(COUNTS)):
            writer.write(sample(i))
    return ShardDataset.open(folder)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["which 0 1 2 3 4 word a b c d e"] * 3, 40)


def config(**groups: Any) -> DataConfig:
    base: dict[str, Any] = {
        "examples": "choices",
        "image": {"size": 8},
        "text": {"max_tokens": 16, "padding": "longest"},
        "loader": {"batch_size": 4, "on_error": "raise"},
    }
    for name, changes in groups.items():
        base[name] = {**base.get(name, {}), **changes} if isinstance(changes, dict) else changes
    return DataConfig.model_validate(base)


def every_choice() -> list[tuple[int, dict[str, Any]]]:
    return [(i, choice(i, n)) for i, count in enumerate(COUNTS) for n in range(count)]


def told(entry: dict[str, Any]) -> list[str]:
    """The texts of a choice as a batch has them, the slow way."""
    return [f"{entry['question']} {option}" if entry["question"] else option for option in entry["options"]]


def test_a_row_is_a_choice(dataset: ShardDataset) -> None:
    assert dataset.select().column("choices").tolist() == list(COUNTS)  # type: ignore[union-attr]
    rows = expand(dataset.select(), "choices")
    read = [rows.read(i) for i in range(len(rows))]
    wanted = every_choice()
    assert [(s.key, list(s.captions), s.meta["choices"]) for s in read] == [
        (f"k{i}", told(entry), [entry]) for i, entry in wanted
    ]
    letters = [sum(map(len, told(entry))) for _, entry in wanted]
    assert list(rows.column("text_chars")) == letters


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cache", [0, 1])
def test_batches_hold_five_texts_a_row(
    dataset: ShardDataset, tokenizer: Tokenizer, workers: int, cache: int
) -> None:
    rows = expand(dataset.select(), "choices")
    given = config(loader={"workers": workers, "cache_mb": cache})
    loader = Loader(rows, given, tokenizer, seed=1)
    seen: list[tuple[str, str]] = []
    for batch in islice(loader, 4):
        assert batch.text_ids is not None
        assert batch.text_mask is not None
        assert batch.images is not None
        entries = batch.extra["choices"]
        assert batch.texts == [entry["question"] for entry in entries]
        texts = [text for entry in entries for text in told(entry)]
        sequences = [tokenizer.sequence(_clean(text), 16) for text in texts]
        ids, mask = tokenizer.pad(sequences, max(map(len, sequences)))
        assert torch.equal(batch.text_ids, ids.reshape(4, 5, -1))
        assert torch.equal(batch.text_mask, mask.reshape(4, 5, -1))
        assert batch.images[:, 0, 0, 0].tolist() == [entry["question_id"] for entry in entries]
        taken = batch.take(torch.tensor([2, 0]))
        assert taken.text_ids is not None
        assert torch.equal(taken.text_ids, batch.text_ids[[2, 0]])
        assert taken.extra["choices"] == [entries[2], entries[0]]
        seen += [(key, entry["question"]) for key, entry in zip(batch.keys, entries, strict=True)]
    loader.close()
    # Eight choices: two epochs in four batches.
    wanted = sorted((f"k{i}", entry["question"]) for i, entry in every_choice())
    assert sorted(seen[:8]) == sorted(seen[8:]) == wanted


def _clean(text: str) -> str:
    from diptych.data.text import clean

    return clean(text, config().text.clean, config().text.max_words)


def test_an_evaluation_has_every_choice_once(dataset: ShardDataset, tokenizer: Tokenizer) -> None:
    rows = expand(dataset.select(), "choices")
    found = list(evaluation_batches(rows, config(text={"padding": "max_length"}), 3, tokenizer))
    assert [entry for batch in found for entry in batch.extra["choices"]] == [e for _, e in every_choice()]
    assert [len(batch) for batch in found] == [3, 3, 2]
    for batch in found:
        assert batch.text_ids is not None
        assert batch.text_ids.shape == (len(batch), 5, 16)
        assert batch.captions == [tuple(map(_clean, told(entry))) for entry in batch.extra["choices"]]


GOOD = choice(0, 1)


@pytest.mark.parametrize(
    "entry",
    [
        "a text",
        {"question": "x"},
        {**GOOD, "options": ["a", "b", "c", "d"]},
        {**GOOD, "options": ["a", "b", "c", "d", 5]},
        {**GOOD, "options": "abcde"},
        {**GOOD, "answer": 5},
        {**GOOD, "answer": -1},
        {**GOOD, "answer": "1"},
        {**GOOD, "question": None},
    ],
)
def test_an_entry_that_is_no_choice_is_a_bad_sample(write: Write, entry: Any) -> None:
    assert option_texts(entry) == ()
    made = write([Sample("bad", {"png": png(1)}, meta={"choices": [GOOD, entry]})])
    rows = expand(made.select(), "choices")
    with pytest.raises(
        DataError, match=r"sample 'bad': entry 1 of `choices` has no 5 texts in `options`, or"
    ):
        rows.read(1)
    (batch,) = evaluation_batches(rows, config(loader={"on_error": "count"}), 8)
    assert batch.extra["choices"] == [GOOD]
    assert batch.skipped == {"unreadable sample": 1}


def test_answers_may_be_kept_back() -> None:
    assert option_texts({"options": list("abcde")}) == tuple("abcde")
    assert option_texts({"options": list("abcde"), "answer": None, "question": " Q? "}) == tuple(
        f"Q? {o}" for o in "abcde"
    )


def test_an_option_without_words_leaves_the_choice_out(write: Write, tokenizer: Tokenizer) -> None:
    """Four texts would move the place of the right one."""
    bad = choice(0, 0, options=["a", "b", " ", "d", "e"])
    rows = expand(write([Sample("k", {"png": png(1)}, meta={"choices": [GOOD, bad]})]).select(), "choices")
    (batch,) = evaluation_batches(rows, config(loader={"on_error": "count"}), 8, tokenizer)
    assert batch.extra["choices"] == [GOOD]
    assert batch.skipped == {"no caption": 1}


def test_verification_looks_at_options() -> None:
    tally = TextTally()
    entries = [
        GOOD,
        choice(0, 0, options=["a", "b", " ", "d", "e"]),
        choice(0, 0, options=["a", "b", "b", "d", "e"]),
        choice(0, 0, answer=None),
    ]
    tally.add("k", "train", Sample("k", {}, ("x",), meta={"choices": entries}))
    found = tally.conclude()
    assert dict(found.counts) == {"empty option": 1, "repeated option": 1, "question without answer": 1}
    assert found.examples["empty option"] == ["k: entry 1 of `choices`"]


def test_choices_do_not_mix() -> None:
    sources = {"a": {"path": "x"}, "b": {"path": "y", "examples": "samples"}}
    with pytest.raises(ValidationError, match="rows of choices have five texts and do not mix with others"):
        config(sources=sources)
    with pytest.raises(ValidationError, match=r"text\.per_picture = 2 do not go with them; set false and 1"):
        config(text={"per_picture": 2})
    with pytest.raises(ValidationError, match=r"loader\.pack = True"):
        config(loader={"pack": True})


def test_a_reader_refuses_a_mixture(dataset: ShardDataset, tokenizer: Tokenizer) -> None:
    from diptych.data.reader import SampleReader

    samples = dataset.select()
    with pytest.raises(ConfigError, match="rows with one text and rows of choices do not mix"):
        SampleReader([samples, expand(samples, "choices")], DataConfig(), tokenizer, seed=0)


def test_choices_of_emoji_clips(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Clips become batches of frames with five texts each."""
    options = {"size": "6", "resolution": "32", "kinds": "12", "style": "noto"}
    prepare(load_card("emoji-clips"), None, tmp_path, options=options)
    clips = ShardDataset.open(tmp_path).select()
    given = config(image={"size": 32}, video={"frames": 4})
    batches = list(evaluation_batches(expand(clips, "choices"), given, 4, tokenizer))
    right: dict[int, list[int]] = {}
    for batch in batches:
        assert batch.images is not None
        assert batch.text_ids is not None
        assert batch.images.shape == (len(batch), 4, 3, 32, 32)
        assert batch.text_ids.shape[:2] == (len(batch), 5)
        for entry in batch.extra["choices"]:
            if entry["ordered"]:
                right.setdefault(entry["question_id"] // 200, []).append(entry["answer"])
    # Of both clips of a pair, in the same order; what is right differs.
    assert len(right) == 3
    for answers in right.values():
        half = len(answers) // 2
        assert all(a != b for a, b in zip(answers[:half], answers[half:], strict=True))
