"""Captioning metrics: the figures of pycocoevalcap, examples by hand, and what must hold for any captions."""

import json
import math
import stat
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.errors import DataError
from diptych.metrics.captioning import METRICS, caption_scores, check_captions
from diptych.metrics.captioning_meteor import Unavailable, meteor
from diptych.metrics.captioning_ngrams import bleu, cider, longest_common, rouge_l
from diptych.metrics.captioning_words import caption_words

WORDS = st.lists(st.sampled_from("abcde"), min_size=4, max_size=9).map(" ".join)
SETS = st.lists(st.tuples(WORDS, st.lists(WORDS, min_size=1, max_size=3)), min_size=2, max_size=5)


@cache
def golden() -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "golden.json").read_text(encoding="utf-8"))


def close(found: list[float], expected: list[float]) -> bool:
    return len(found) == len(expected) and all(
        math.isclose(a, b, rel_tol=0, abs_tol=1e-9) for a, b in zip(found, expected, strict=True)
    )


def test_words_are_those_of_pycocoevalcap() -> None:
    known = golden()
    texts = [*known["candidates"], *(text for several in known["references"] for text in several)]
    words = [*known["candidate_words"], *(text for several in known["reference_words"] for text in several)]
    assert len(texts) > 600
    assert [" ".join(caption_words(text)) for text in texts] == words


def test_figures_are_those_of_pycocoevalcap() -> None:
    known = golden()
    scores = caption_scores(known["candidates"], known["references"], java="no such program")
    for n in range(4):
        assert close([scores.overall[f"bleu_{n + 1}"]], [known["overall"]["bleu"][n]])
        assert close(scores.each[f"bleu_{n + 1}"], known["each"]["bleu"][n])
    for name in ("rouge_l", "cider"):
        assert close([scores.overall[name]], [known["overall"][name]])
        assert close(scores.each[name], known["each"][name])
    assert {*scores.overall, *scores.unavailable} == set(METRICS)
    assert "no program 'no such program'" in scores.unavailable["meteor"]
    assert "SPICE is not computed" in scores.unavailable["spice"]


def test_words_that_are_given_stay_as_they_are() -> None:
    known = golden()
    given_words = caption_scores(
        known["candidate_words"], known["reference_words"], tokenise=False, java="no such program"
    )
    assert close([given_words.overall["cider"]], [known["overall"]["cider"]])


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A man's dog doesn't sit.", "a man 's dog does n't sit"),
        ('Mr. Smith, "the (tall) one"; in St. Louis!', "mr. smith the -lrb- tall -rrb- one in st. louis"),
        ("I'm gonna go; you cannot.", "i 'm gon na go you can not"),
        ("the red/white t-shirt costs $5.50 and/or 50%", "the red/white t-shirt costs $ 5.50 and/or 50 %"),
        ("two..three!! 10:30 a.m. no. 5 said no.", "two three !! 10:30 a.m. no. 5 said no"),
        ("o'clock rock 'n' roll, 'tis AT&T's b&b", "o'clock rock 'n' roll 't is at&t 's b & b"),
        ("“quoted” — don’t… 😀 &amp; £5 ½", "quoted do n't & # 5 1/2"),
        ("see www.a.org or mail me@a.com #tag <b>", "see www.a.org or mail me@a.com #tag <b>"),
        ("", ""),
        (" \n ... ", ""),
    ],
)
def test_words(caption: str, words: str) -> None:
    assert caption_words(caption) == words.split()


def test_bleu_by_hand() -> None:
    # 5 words; 3 of them right ("the" counts twice at most), 1 of 4 pairs, no triple; the closest length is 6.
    totals, each = bleu(["the the the cat sat"], [["the dog and the cat ran", "a bird"]])
    brevity = math.exp(1 - 6 / 5)
    assert totals[0] == pytest.approx(3 / 5 * brevity, abs=1e-8)
    assert totals[1] == pytest.approx(math.sqrt(3 / 5 * 1 / 4) * brevity, abs=1e-8)
    assert totals[2:] == pytest.approx([0, 0], abs=1e-3)
    assert [scores[0] for scores in each] == totals


def test_bleu_sums_counts_before_it_divides() -> None:
    totals, each = bleu(["a b", "c c c c"], [["a b"], ["c d e f"]])
    assert totals[0] == pytest.approx((2 + 1) / (2 + 4), abs=1e-8)
    assert each[0] == pytest.approx([1, 1 / 4], abs=1e-8)


def test_of_two_lengths_as_close_the_shorter_counts() -> None:
    totals, _ = bleu(["a b c"], [["a b c d", "a b"]])
    assert totals[0] == pytest.approx(1, abs=1e-8)


def test_rouge_by_hand() -> None:
    # "a c d" of "a b c d": precision 3/3; recall 3/4.
    score, each = rouge_l(["a c d", ""], [["a b c d", "x"], ["a"]])
    assert each == pytest.approx([(1 + 1.44) * 0.75 / (0.75 + 1.44), 0])
    assert score == pytest.approx(each[0] / 2)


def test_cider_by_hand() -> None:
    # Weights are log 2 for everything said of one picture, log 1 = 0 for "a", which both have. The first
    # candidate lacks only the pair's order: words count, pairs do not.
    score, each = cider(["a cat b", "a dog"], [["a b cat"], ["a dog"]])
    assert each[0] == pytest.approx(10 * (1 + 0 + 0 + 0) / 4)
    assert each[1] == pytest.approx(10 * (1 + 1 + 0 + 0) / 4)
    assert score == pytest.approx(sum(each) / 2)
    assert cider(["a dog"], [["a dog"]])[0] == 0


def test_cider_punishes_length_and_repetition() -> None:
    _, once = cider(["cat", "dog"], [["cat"], ["dog"]])
    _, often = cider(["cat cat cat", "dog"], [["cat"], ["dog"]])
    assert once[0] == pytest.approx(10 / 4)
    # Cut to the reference: 1 * 1 / (3 * 1); two pairs more.
    assert often[0] == pytest.approx(10 / 4 / 3 * math.exp(-(2**2) / (2 * 36)))


@settings(max_examples=20, deadline=None)
@given(SETS)
def test_a_candidate_that_is_a_reference_has_the_best_bleu_and_rouge(
    sets: list[tuple[str, list[str]]],
) -> None:
    candidates = [references[-1] for _, references in sets]
    references = [several for _, several in sets]
    totals, each = bleu(candidates, references)
    assert totals == pytest.approx([1] * 4, abs=1e-6)
    assert [score for scores in each for score in scores] == pytest.approx([1] * 4 * len(sets), abs=1e-6)
    assert rouge_l(candidates, references)[0] == pytest.approx(1)


@settings(max_examples=20, deadline=None)
@given(SETS, st.randoms(use_true_random=False))
def test_the_order_of_pictures_and_references_does_not_matter(
    sets: list[tuple[str, list[str]]], random: Any
) -> None:
    order = list(range(len(sets)))
    random.shuffle(order)
    first = caption_scores([c for c, _ in sets], [r for _, r in sets], tokenise=False, java="none")
    mixed = [(sets[i][0], sets[i][1][::-1]) for i in order]
    second = caption_scores([c for c, _ in mixed], [r for _, r in mixed], tokenise=False, java="none")
    for name, figure in first.overall.items():
        assert second.overall[name] == pytest.approx(figure, abs=1e-9)
        assert second.each[name] == pytest.approx([first.each[name][i] for i in order], abs=1e-9)
        assert all(-1e-9 <= score <= (10 if name == "cider" else 1) + 1e-9 for score in first.each[name])


@given(st.lists(st.sampled_from("abc"), max_size=6), st.lists(st.sampled_from("abc"), max_size=6))
def test_longest_common_against_a_slow_one(first: list[str], second: list[str]) -> None:
    def slow(a: tuple[str, ...], b: tuple[str, ...]) -> int:
        if not a or not b:
            return 0
        if a[0] == b[0]:
            return 1 + slow(a[1:], b[1:])
        return max(slow(a[1:], b), slow(a, b[1:]))

    assert longest_common(first, second) == slow(tuple(first), tuple(second))


@settings(deadline=None)
@given(st.text(max_size=40))
def test_any_text_has_words(text: str) -> None:
    for word in caption_words(text):
        assert word
        assert not {" ", "\n"} & set(word)


@pytest.mark.parametrize(
    ("candidates", "references", "message"),
    [
        ([], [], "no pictures"),
        (["a"], [], "1 candidates and references of 0"),
        (["a", "b"], [["a"], []], r"references\[1\]"),
        (["a"], ["a"], r"references\[0\] is 'a'"),
    ],
)
def test_captions_that_do_not_go_together(candidates: list[str], references: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_captions(candidates, references)


def program(folder: Path, lines: str) -> str:
    """Write a program that answers as METEOR's does."""
    file = folder / "java"
    file.write_text(f"#!{sys.executable}\nimport sys\n{lines}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return str(file)


def test_meteor_talks_to_its_program(tmp_path: Path) -> None:
    java = program(
        tmp_path,
        "for line in sys.stdin:\n"
        "    kind, *rest = line.strip('\\n').split(' ||| ')\n"
        "    if kind == 'SCORE': print(len(rest), len(rest[-1].split()), flush=True)\n"
        "    else:\n"
        "        counts = [[int(x) for x in r.split()] for r in rest]\n"
        "        for a, b in counts: print(a / 10 + b / 100)\n"
        "        print(0.5, flush=True)",
    )
    jar = tmp_path / "meteor-1.5.jar"
    jar.touch()
    # Of each: how many captions it was asked about (with the candidate), and the candidate's words.
    said, references = ["a ||| b", ""], [["x", "y"], ["z"]]
    assert meteor(said, references, java=java, jar=jar) == (0.5, pytest.approx([0.32, 0.20]))


def test_meteor_that_cannot_run(tmp_path: Path) -> None:
    jar = tmp_path / "meteor-1.5.jar"
    with pytest.raises(Unavailable, match=r"meteor-1\.5\.jar"):
        meteor(["a"], [["a"]], java=sys.executable, jar=jar)
    jar.touch()
    with pytest.raises(Unavailable, match="failed"):
        meteor(["a"], [["a"]], java=program(tmp_path, "sys.exit(1)"), jar=jar)
    with pytest.raises(Unavailable, match="failed"):
        meteor(["a"], [["a"]], java=program(tmp_path, "print('nonsense', flush=True); input()"), jar=jar)
