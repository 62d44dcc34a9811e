"""What SNP-S3's pre-training hides and draws: by hand, and properties that hold for every draw."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from snps3_toys import CAT, CLS, DOG, MASK, PAD, RUNS, SEP, TOKENIZER, UNK, WORDS

from diptych.blocks.collective import ALONE, Joiner
from diptych.data.draws import Draws
from diptych.data.significant import Words, hidden_count
from diptych.errors import DataError
from diptych.systems.snps3.hiding import (
    Hider,
    choose_guided,
    draw_false,
    hide_attended,
    hide_random,
)
from diptych.systems.snps3.objectives import IGNORED
from diptych.systems.snps3.pretrain_config import SnpS3PretrainConfig
from diptych.systems.snps3.words import first_letters, read_asset, words_of

SIGNIFICANT = Words([0 if i in (CAT, DOG, RUNS) else 99 for i in range(len(WORDS))], [[]] * len(WORDS), 10)
A, B, C = (WORDS.index(letter) for letter in "abc")


def hider(**values: Any) -> Hider:
    return Hider(SnpS3PretrainConfig.model_validate(values), TOKENIZER, SIGNIFICANT)


def texts(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, rows)) + 2
    ids = [[CLS, *row, SEP] + [PAD] * (longest - len(row) - 2) for row in rows]
    return torch.tensor(ids), torch.tensor(ids) != PAD


ROWS = st.lists(st.lists(st.integers(5, len(WORDS) - 1), max_size=11), min_size=1, max_size=5)
SEEDS = st.integers(0, 2**30)


@settings(max_examples=60, deadline=None)
@given(ROWS, SEEDS, st.sampled_from(["random", "significant"]), st.integers(3, 9), st.integers(1, 4))
def test_hidden_texts_keep_what_they_were(
    rows: list[list[int]], seed: int, masking: str, window: int, count: int
) -> None:
    """Targets are the words that stood there, windows are whole pieces, chosen places are real words."""
    own = hider(masking=masking, window=window, lvwm_words=count, text_mask_ratio=0.4)
    ids, mask = texts(rows)
    found = own.hide(ids, mask, Draws(seed, torch.arange(len(rows))))
    for row, raw, real, shown, targets, places in zip(
        rows,
        *(part.tolist() for part in (found.raw, found.mask, found.shown, found.targets, found.words)),
        strict=True,
    ):
        size = sum(real)
        assert real == [True] * size + [False] * (len(real) - size)
        inside = raw[1 : size - 1]
        assert (raw[0], raw[size - 1], raw[size:]) == (CLS, SEP, [PAD] * (len(raw) - size))
        assert len(inside) == min(len(row), window - 2)
        starts = range(len(row) - len(inside) + 1)
        assert any(row[start : start + len(inside)] == inside for start in starts)
        assert [t if t != IGNORED else s for s, t in zip(shown, targets, strict=True)] == raw
        assert all(targets[i] == IGNORED for i in (0, *range(size - 1, len(raw))))
        if masking == "significant":
            assert sum(t != IGNORED for t in targets) == hidden_count(len(inside), 0.4)
        important = [i for i, word in enumerate(raw) if SIGNIFICANT.is_significant(word)]
        if important:
            assert set(places) <= set(important)
            assert len(set(places)) >= min(len(important), count, 1)
        elif inside:
            assert all(0 < place < size - 1 for place in places)


@settings(max_examples=30, deadline=None)
@given(ROWS, SEEDS)
def test_what_is_drawn_is_the_samples_own(rows: list[list[int]], seed: int) -> None:
    own = hider(masking="significant", window=6, lvwm_words=2)
    positions = torch.arange(len(rows)) * 7
    whole = own.hide(*texts(rows), Draws(seed, positions))
    for i, row in enumerate(rows):
        alone = own.hide(*texts([row]), Draws(seed, positions[i : i + 1]))
        length = alone.raw.shape[1]
        assert torch.equal(alone.shown[0], whole.shown[i, :length])
        assert torch.equal(alone.targets[0], whole.targets[i, :length])
        assert torch.equal(alone.words[0], whole.words[i])


def test_beginnings_count_outside_of_training() -> None:
    ids, mask = texts([[A, B, C, CAT, DOG]])
    found = hider(window=5).hide(ids, mask, Draws(0, torch.arange(1)), training=False)
    assert found.raw.tolist() == [[CLS, A, B, C, SEP]]


def test_windows_of_their_own_differ_sometimes() -> None:
    ids, mask = texts([[A, B, C, CAT, DOG, RUNS]] * 40)
    shared = hider(window=4, text_mask_ratio=0.0).hide(ids, mask, Draws(0, torch.arange(40)))
    assert torch.equal(shared.raw, shared.shown)
    apart = hider(window=4, text_mask_ratio=0.0, windows="published")
    found = apart.hide(ids, mask, Draws(0, torch.arange(40)))
    assert 5 < int((found.raw != found.shown).any(1).sum()) < 40


def test_random_words_are_hidden_as_often_as_asked() -> None:
    import random

    draws, ids = random.Random(0), [A] * 20_000
    found = hide_random(ids, len(WORDS), MASK, draws, 0.15)
    hidden = [shown for shown, target in zip(found.shown, found.targets, strict=True) if target != IGNORED]
    assert len(hidden) / 20_000 == pytest.approx(0.15, abs=0.01)
    assert sum(word == MASK for word in hidden) / len(hidden) == pytest.approx(0.8 + 0.1 / 34, abs=0.03)
    assert sum(word == A for word in hidden) / len(hidden) == pytest.approx(0.1 + 0.1 / 34, abs=0.03)


def test_the_most_attended_words_are_hidden_by_hand() -> None:
    raw = torch.tensor([[CLS, A, B, C, CAT, DOG, SEP], [CLS, A, SEP, PAD, PAD, PAD, PAD]])
    ordinary = (raw != PAD) & (raw != CLS) & (raw != SEP)
    importance = torch.tensor([[9.0, 1, 1, 1, 1, 1, 9], [9.0, 1, 9, 9, 9, 9, 9]])
    uniform = torch.tensor([[0.0, 0.5, 0.9, 0.2, 0.8, 0.1, 0.0], [0.0, 0.9, 0, 0, 0, 0, 0]])
    shown, targets = hide_attended(raw, ordinary, importance, MASK, 0.4, uniform)
    # Two of five words: those that wait least, 0.1 and 0.2. Of one word that one.
    assert shown.tolist() == [[CLS, A, B, MASK, CAT, MASK, SEP], [CLS, MASK, SEP, PAD, PAD, PAD, PAD]]
    ignored = IGNORED
    assert targets[0].tolist() == [ignored, ignored, ignored, C, ignored, DOG, ignored]
    assert targets[1].tolist() == [ignored, A] + [ignored] * 5
    # Attention decides: a word with ten times as much waits a tenth.
    importance[0, 2] = 1000.0
    shown, _ = hide_attended(raw, ordinary, importance, MASK, 0.4, uniform)
    assert shown[0].tolist() == [CLS, A, MASK, C, CAT, MASK, SEP]
    nothing = hide_attended(raw, torch.zeros_like(ordinary), importance, MASK, 0.4, uniform)
    assert torch.equal(nothing[0], raw)


def test_attention_is_the_chance_to_be_hidden() -> None:
    raw = torch.tensor([[A, B, C]]).expand(8000, -1)
    weights = torch.tensor([[1.0, 3.0, 4.0]]).expand(8000, -1)
    uniform = Draws(5, torch.arange(8000)).rand(3)
    shown, _ = hide_attended(raw, torch.ones_like(raw).bool(), weights, MASK, 0.15, uniform)
    shares = (shown == MASK).double().mean(0)
    torch.testing.assert_close(shares, torch.tensor([0.125, 0.375, 0.5]).double(), atol=0.02, rtol=0)


def test_wrong_texts_come_from_what_does_not_match() -> None:
    ids, mask = texts([[A], [B], [C, CAT]])
    match = torch.tensor([4, 4, 9])
    join = Joiner(ALONE, 3, torch.device("cpu"))
    for seed in range(5):
        false, masks, there = draw_false(ids, mask, match, Draws(seed, torch.arange(3)), join)
        assert false[:2].tolist() == [ids[2].tolist()] * 2
        assert false[2].tolist() in ids[:2].tolist()
        assert masks.tolist() == (false != PAD).tolist()
        assert there.tolist() == [True] * 3
    assert draw_false(ids, mask, match * 0, Draws(0, torch.arange(3)), join)[2].tolist() == [False] * 3


def test_the_branch_is_of_a_sample_or_of_a_step() -> None:
    each = SnpS3PretrainConfig(guided=0.5)
    chosen = choose_guided(each, Draws(0, torch.arange(4000)), 0)
    assert float(chosen.float().mean()) == pytest.approx(0.5, abs=0.03)
    whole = each.with_(guided_by="step")
    steps = [choose_guided(whole, Draws(0, torch.arange(3)), step) for step in range(200)]
    assert all(len(set(step.tolist())) == 1 for step in steps)
    assert sum(bool(step[0]) for step in steps) / 200 == pytest.approx(0.5, abs=0.15)
    other = choose_guided(whole, Draws(0, torch.arange(50, 53)), 7)
    assert torch.equal(other, steps[7])  # whatever rank the samples are on


def test_words_of_counts_follow_the_vocabulary(tmp_path: Any) -> None:
    import json

    counts = {"VERB": {"runs": 5}, "NOUN": {"cat": 9, "dog": 7, "ox": 3}, "ADJ": {}, "NUM": {"two": 4}}
    (tmp_path / "counts.json").write_text(json.dumps(counts))
    asset = read_asset(str(tmp_path / "counts.json"))
    assert list(words_of(asset, WORDS, 3000).chosen) == [CAT, DOG, RUNS]  # rare ones never count
    assert list(words_of(asset, WORDS, 1).chosen) == [CAT, DOG]
    letters = first_letters(words_of(asset, WORDS, 0), WORDS, UNK)
    assert letters == {CAT: C}
    ranked = {"rank": [0 if name == "cat" else 1 for name in WORDS], "name": WORDS, "id": []}
    ranked["total_count"] = [int(name == "cat") for name in WORDS]
    (tmp_path / "words.json").write_text(json.dumps(ranked))
    (tmp_path / "forms.json").write_text(json.dumps([["dog", "other"] if n == "cat" else [] for n in WORDS]))
    asset = read_asset(str(tmp_path / "words.json"), str(tmp_path / "forms.json"))
    words = words_of(asset, WORDS, 3000)
    assert (list(words.chosen), words.forms[CAT]) == ([CAT], [DOG])
    with pytest.raises(DataError, match="another vocabulary"):
        words_of(asset, [*WORDS[:-1], "other"], 3000)
    with pytest.raises(DataError, match="none of its words"):
        words_of({"counts": {"VERB": {}, "NOUN": {"ox": 1}, "ADJ": {}}}, WORDS, 3000)
    (tmp_path / "bad.json").write_text("[1]")
    for name, message in (("bad.json", r"counts\.json"), ("none.json", "cannot be read")):
        with pytest.raises(DataError, match=message):
            read_asset(str(tmp_path / name))
