"""The official accuracy of question answering and its rules, by hand and against a slow oracle."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.data.vqa_answers import canonical_answer, normalise_answer, soft_scores
from diptych.metrics.accuracy import best_constant, best_constant_by_kind, by_kind, mean
from diptych.metrics.vqa import entry_answers, entry_scores, equal_answers, vqa_accuracy


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("Yes", "yes"),
        ("  the Red\tcar\n", "red car"),
        ("two", "2"),
        ("None", "0"),
        ("ten apples", "10 apples"),
        ("a.", ""),
        ("St. Louis", "st louis"),
        ("3.5", "3.5"),
        ("10,000", "10000"),
        ("black/white", "black white"),
        ("black / white", "black white"),
        ("t-shirt", "t shirt"),
        ("what?!", "what"),
        # With "- " anywhere, every "-" goes without a trace.
        ("a-b - c", "ab c"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("couldntve", "couldntve"),
        ("Im here", "im here"),
        ("somebody'd", "somebodyd"),
        ("ow's'at", "'ow's'at"),
        ("", ""),
    ],
)
def test_rules_for_answers(answer: str, normal: str) -> None:
    assert normalise_answer(answer) == normal


def test_accuracy_by_hand() -> None:
    assert vqa_accuracy("yes", ["yes"] * 10) == 1.0
    assert vqa_accuracy("no", ["yes"] * 10) == 0.0
    # One of ten: left out once (0), and one of the others nine times (1 / 3).
    assert vqa_accuracy("b", ["a"] * 9 + ["b"]) == pytest.approx(0.3)
    assert vqa_accuracy("b", ["a"] * 8 + ["b"] * 2) == pytest.approx((8 * 2 / 3 + 2 * 1 / 3) / 10)
    assert vqa_accuracy("b", ["a"] * 7 + ["b"] * 3) == pytest.approx((7 + 3 * 2 / 3) / 10)
    assert vqa_accuracy("b", ["a"] * 6 + ["b"] * 4) == pytest.approx(1.0)
    # Answers are normalised where people differ, and only there.
    assert vqa_accuracy("two", ["2"] * 9 + ["three"]) == 1.0
    assert vqa_accuracy("two", ["2"] * 10) == 0.0
    assert vqa_accuracy("a red car", ["Red car."]) == 1.0
    assert vqa_accuracy("anything", []) == 0.0


@given(
    st.sampled_from(["yes", "no", "2", "Two", "the dog"]),
    st.lists(st.sampled_from(["yes", "Yes", "no", "two", "2", "dog", "red"]), min_size=2, max_size=10),
)
def test_accuracy_leaves_each_person_out_once(answer: str, people: list[str]) -> None:
    given_answers, said = people, answer
    if len(set(people)) > 1:
        given_answers, said = [normalise_answer(p) for p in people], normalise_answer(answer)
    scores = []
    for left_out in range(len(people)):
        others = given_answers[:left_out] + given_answers[left_out + 1 :]
        scores.append(min(1, sum(other == said for other in others) / 3))
    assert math.isclose(vqa_accuracy(answer, people), sum(scores) / len(scores), abs_tol=1e-12)


@given(st.text(max_size=20))
def test_normal_answers_stay_as_they_are_where_nothing_is_left_to_do(text: str) -> None:
    once = canonical_answer(text)
    assert once == once.strip()
    assert equal_answers(text, text)


def test_targets_by_the_number_of_people() -> None:
    assert soft_scores(["yes"] * 5 + ["no"] * 3 + ["maybe"] * 2 + ["so"]) == {
        "yes": 1.0,
        "no": 0.9,
        "maybe": 0.6,
        "so": 0.3,
    }
    assert entry_scores({"answer": "red"}) == {"red": 1.0}
    assert entry_scores({"answers": ["red"]}) == {"red": 0.3}
    assert entry_scores({"answers": ["red"], "dataset": "vg"}) == {"red": 1.0}
    assert entry_scores({"question": "What?"}) == {}
    assert entry_scores({"scores": {"red": 0.6, "blue": 1}}) == {"red": 0.6, "blue": 1.0}
    assert entry_answers({"answer": 3}) == ["3"]


def test_accuracies_by_kind_and_of_constants() -> None:
    assert mean([]) == 0.0
    assert by_kind([1.0, 0.0, 0.5, 1.0], ["b", "b", "a", ""]) == {
        "a": {"accuracy": 0.5, "count": 1},
        "b": {"accuracy": 0.5, "count": 2},
    }
    right, kinds = ["x", "x", "y", "z"], ["1", "2", "2", "2"]
    assert best_constant(right) == 0.5
    assert best_constant_by_kind(right, kinds) == 0.5
    assert best_constant_by_kind(["x", "x", "y", "y"], ["1", "1", "2", "2"]) == 1.0
    assert best_constant([]) == best_constant_by_kind([], []) == 0.0
