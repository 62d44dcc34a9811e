"""GLUE as sequences with a slot, and hidden words."""

from collections import Counter
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diptych.data.cards.glue import TASKS
from diptych.data.targets.names import class_names
from diptych.errors import DataError, UsageError
from diptych.systems.uniperceiver.glue import (
    PROMPTS,
    SIMILAR,
    Slotted,
    pack,
    similarity_scores,
    similarity_targets,
    task_name,
)
from diptych.systems.uniperceiver.words import IGNORED, fit_words, gather_words, mask_words

SLOT, END = 900, 901
TOKENS: list[str] = []


def encode(text: str) -> list[int]:
    """A token a word; signs are words."""
    words = text.replace(".", " .").replace("?", " ?").split()
    for word in words:
        if word not in TOKENS:
            TOKENS.append(word)
    return [TOKENS.index(word) for word in words]


def say(found: Slotted) -> str:
    names = {SLOT: "[S]", END: "[E]"}
    return " ".join(names.get(i) or TOKENS[i] for i in found.ids)


def packed(task: str, *sentences: str, limit: int = 256, published: bool = False) -> Slotted:
    return pack(task, sentences, encode, slot=SLOT, end=END, limit=limit, published=published)


@pytest.mark.parametrize(
    ("task", "text"),
    [
        ("SST-2", "a b . [E] It is [S] . [E]"),
        ("CoLA", "a b . This is [S] . [E]"),
        ("RTE", "a b ? [E] it is [S] , c d . [E]"),
        ("WNLI", "a b ? [E] it is [S] , c d . [E]"),
        ("QNLI", "a b [E] it is [S] , c d . [E]"),
        ("MRPC", "a b . [S] , c d . [E]"),
        ("STS-B", "a b . [S] , c d . [E]"),
        ("QQP", "a b [E] [S] , c d . [E]"),
        ("MNLI_Match", "a b . [S] , c d . [E]"),
        ("ax", "a b . [S] , c d . [E]"),
    ],
)
def test_prompts(task: str, text: str) -> None:
    sentences = ("a b.", "c d.") if PROMPTS[task_name(task)][1] else ("a b.",)
    found = packed(task, *sentences)
    assert say(found) == text
    assert found.ids[found.slot] == SLOT


def test_every_task_of_the_card_has_a_prompt_and_words() -> None:
    assert set(PROMPTS) == set(TASKS)
    assert all(len(class_names(task)) >= 2 for task in PROMPTS if task != "sts-b")


def test_truncation_by_hand() -> None:
    # 10 tokens: the second part gets 5, the first what is left; each keeps its last token.
    assert say(packed("RTE", "a b c d e f", "g h i j k", limit=10)) == "a b c d is [S] , g h [E]"
    # QNLI leaves the first part whole and cuts the second one to what remains.
    assert say(packed("QNLI", "a b", "g h i j k", limit=9)) == "a b [E] it is [S] , g [E]"
    assert say(packed("QNLI", "a b c d e f g", "g h i j", limit=8)) == "a b c is [S] , g [E]"
    assert say(packed("MNLI", "a b c d e f g h", "i", limit=8)) == "a b c h [S] , i [E]"


def test_a_single_sentence_that_is_too_long() -> None:
    ours = packed("SST-2", "a b c d e f g", limit=9)
    assert (say(ours), ours.slot) == ("a b c [E] It is [S] . [E]", 6)
    # As published the slot is lost: its place was counted before the cut.
    published = packed("SST-2", "a b c d e f g", limit=9, published=True)
    assert (say(published), published.slot) == ("a b c d e f g [E] [E]", 10)
    for limit in (13, 256):
        fits = (packed("SST-2", "a b c d e f g", limit=limit, published=p) for p in (False, True))
        assert next(fits) == next(fits)


@given(st.sampled_from(sorted(PROMPTS)), st.integers(0, 40), st.integers(0, 40), st.integers(8, 60))
def test_slot_and_length(task: str, first: int, second: int, limit: int) -> None:
    sentences = ["w " * first, "v " * second][: 2 if PROMPTS[task][1] else 1]
    found = packed(task, *sentences, limit=limit)
    assert len(found.ids) <= limit
    assert [i for i, token in enumerate(found.ids) if token == SLOT] == [found.slot]
    assert found.ids[-1] == END


def test_what_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no task 'mrcp'; did you mean 'mrpc'"):
        task_name("mrcp")
    with pytest.raises(DataError, match="2 sentences; expected one"):
        packed("cola", "a", "b")
    with pytest.raises(DataError, match="1 sentences; expected two"):
        packed("rte", "a")
    with pytest.raises(UsageError, match="limit 7"):
        packed("rte", "a", "b", limit=7)


def test_similarity_is_a_likelihood() -> None:
    targets = similarity_targets(torch.tensor([0.0, 5.0, 2.0]))
    assert torch.allclose(targets, torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.4]]))
    assert torch.allclose(similarity_scores(targets.clamp(min=1e-12).log()), torch.tensor([0.0, 5.0, 2.0]))
    assert len(SIMILAR) == targets.shape[1]


def test_hidden_words_against_a_slow_one() -> None:
    words = [[1], [2, 3], [4], [5, 6, 7]] * 30

    def slow(seed: int) -> tuple[list[int], list[int]]:
        random, ids, labels = Random(seed), [], []
        for word in words:
            fate = random.random() / 0.15
            for piece in word:
                ids.append(SLOT if fate < 0.8 else random.randrange(50) if fate < 0.9 else piece)
                labels.append(piece if fate < 1 else IGNORED)
        return ids, labels

    for seed in range(20):
        found = mask_words(words, Random(seed), slot=SLOT, vocabulary=50)
        assert found == slow(seed)


def test_shares_of_hidden_words() -> None:
    ids, labels = mask_words([[7]] * 20_000, Random(5), slot=SLOT, vocabulary=1_000_000)
    hidden = [i for i, label in zip(ids, labels, strict=True) if label != IGNORED]
    fates = Counter({SLOT: "slot", 7: "kept"}.get(i, "other") for i in hidden)
    assert len(hidden) / 20_000 == pytest.approx(0.15, abs=0.01)
    assert fates["slot"] / len(hidden) == pytest.approx(0.8, abs=0.03)
    assert fates["other"] / len(hidden) == pytest.approx(0.1, abs=0.03)
    assert mask_words([[7]], Random(0), slot=SLOT, vocabulary=9, ratio=0) == ([7], [IGNORED])


def test_lines_are_joined() -> None:
    lines = [[[1], [2, 3]], [[4]], [[5], [6]]]
    assert gather_words(lines, 1, END, least=3) == [[4], (END,), [5], [6], (END,)]
    assert gather_words(lines, 2, END, least=4) == [[5], [6], (END,), [1], [2, 3], (END,)]
    assert len(gather_words(lines, 0, END)) == 8  # every line once
    assert gather_words([], 0, END) == []


def test_sequences_of_one_length() -> None:
    assert fit_words([1, 2, 3, 4], [-1, 2, -1, 4], 3) == ([1, 2, 4], [-1, 2, 4])
    assert fit_words([1], [1], 3) == ([1, 0, 0], [1, -1, -1])
    assert fit_words([1, 2], [1, 2], 2) == ([1, 2], [1, 2])
