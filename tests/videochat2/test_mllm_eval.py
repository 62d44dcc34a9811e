"""Choices as in MVBench, short answers and captions: prompts, scores, tables."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_mllm_clips import clip_batch, make_model
from videochat2_toys import TOKENIZER

from diptych.data.batch import Batch
from diptych.errors import DataError
from diptych.metrics.short_answers import (
    option_letter,
    option_line,
    published_choice,
    relaxed_accuracy,
    relaxed_match,
)
from diptych.systems.task import EvalData, Evaluation
from diptych.tasks.instruct import InstructConfig, InstructTask
from diptych.tasks.mllm_eval import MllmEvalTask, cut_answer, entries_of, first_line
from diptych.tasks.mllm_eval_config import MVBENCH_SYSTEM, MllmEvalConfig
from diptych.tasks.mllm_eval_results import choice_figures, choice_row, right_option, short_accuracy

ENTRY = {"question": "What moves?", "options": ["a cat", "a dog", "the sun"], "answer": "a dog", "kind": "x"}


@pytest.mark.parametrize(
    ("answer", "place"),
    [
        ("(A) a cat", 0),
        ("(b) a dog", 1),
        ("(B", 1),
        ("(B.", 1),
        ("B", 1),
        ("B) a dog", 1),
        ("B: a dog", 1),
        ("((C) the sun", 2),
        ("(C the sun", 2),
        ("**B**", 1),
        ("(A) or (A)", 0),
        ("(", None),
        ("", None),
        ("()", None),
        ("(D) a bird", None),
        ("a dog", None),
        ("A dog", None),
        ("(a dog", None),
        ("(The answer is B", None),
        ("(A) or (C)", None),
        ("(ab) x", None),
        ("(1)", None),
    ],
)
def test_one_letter_is_read_or_none(answer: str, place: int | None) -> None:
    assert option_letter(answer, 3) == place


@given(st.integers(0, 4), st.text(alphabet="abcde ", max_size=12))
def test_an_option_as_it_is_written_is_read_back(place: int, text: str) -> None:
    assert option_letter(option_line(place, text), 5) == place
    assert published_choice(option_line(place, text), option_line(place, text))


def test_published_rule_takes_empty_answers_for_right() -> None:
    assert published_choice("(", "(C) three")
    assert not published_choice("(A) or (C)", "(C) three")
    row = choice_row("k", ENTRY, "(")
    assert (row["accuracy"], row["published_accuracy"], row["choice"]) == (0.0, 1.0, None)


@pytest.mark.parametrize(
    ("answer", "truth", "right"),
    [
        ("104.9", "100", True),
        ("105.1", "100", False),
        ("95", "100", True),
        ("-4.1", "-4", True),
        ("4", "-4", False),
        ("0.05", "5%", True),
        ("5", "5%", False),
        (" 5% ", "5%", True),
        ("0", "0", True),
        ("0.0", "0", False),
        ("YES", "Yes", True),
        ("1000", "1,000", False),
        ("nan", "100", False),
        ("inf", "inf", True),
        ("", "3", False),
    ],
)
def test_relaxed_accuracy_of_charts(answer: str, truth: str, right: bool) -> None:
    assert relaxed_match(answer, truth) == right


def test_best_of_several_truths() -> None:
    assert relaxed_accuracy("7", ["5", "7.1"]) == 1.0
    assert relaxed_accuracy("7", ["5"]) == 0.0
    assert short_accuracy("A  Dog", {"answer": "a dog"}, "exact") == 1.0
    assert short_accuracy("dog", {"answer": "a dog"}, "exact") == 0.0
    assert short_accuracy("dog", {"answer": "a dog"}, "vqa") == 1.0
    assert short_accuracy("dog", {}, "relaxed") is None


def test_right_options_by_place_or_text() -> None:
    options = ["a", "b"]
    assert right_option({"answer": 1}, options) == 1
    assert right_option({"answer": "b"}, options) == 1
    assert right_option({"answer": "c"}, options) is None
    assert right_option({"answer": 2}, options) is None
    assert right_option({}, options) is None


def test_answers_are_cut() -> None:
    assert cut_answer("yes ###Human: no") == "yes"
    assert cut_answer("x Assistant: B) it ###") == "B) it"
    assert first_line("B) it\nbecause") == "B) it"
    assert first_line(" ") == ""


def test_tables_of_tasks_by_hand() -> None:
    second = {**ENTRY, "kind": "y", "answer": "a cat"}
    said = [(ENTRY, "(B) a dog"), (ENTRY, "("), (second, "(B) a dog"), (second, "(A) a cat")]
    rows = [choice_row(str(i), entry, text) for i, (entry, text) in enumerate(said)]
    found = choice_figures(rows)
    assert (found["accuracy"], found["published_accuracy"], found["unreadable"]) == (0.5, 0.75, 0.25)
    assert found["tasks"]["x"] == {
        "questions": 2,
        "strict": 0.5,
        "published": 1.0,
        "unreadable": 0.5,
        "random": pytest.approx(1 / 3),
    }
    assert found["kinds"]["y"] == {"accuracy": 0.5, "count": 2}
    published = choice_figures(rows, published=True)
    assert (published["accuracy"], published["strict_accuracy"], published["scoring"]) == (
        0.75,
        0.5,
        "published",
    )
    assert choice_figures([choice_row("k", {"options": ["a", "b"]}, "(A)")]) == {"questions": 1, "scored": 0}


def make_eval(**settings: Any) -> MllmEvalTask:
    config = MllmEvalConfig.model_validate({"answer": {"max_new_tokens": 2}, **settings})
    return MllmEvalTask(make_model(max_text_tokens=100), config, TOKENIZER).eval()


def asked_batch(entries: list[Any], name: str = "choices") -> Batch:
    return replace(clip_batch(len(entries)), extra={name: entries})


class Said(MllmEvalTask):
    """Answers from a list, to look at what is asked."""

    prompts: list[str]
    begun: list[str]
    replies: list[str]

    def answers(self, batch: Any, chats: Any, settings: Any = None, *, begun: str = "") -> list[str]:
        self.prompts += [self.tokenizer.render(chat, answer=True) for chat in chats]
        self.begun += [begun] * len(chats)
        return [self.replies.pop(0) for _ in chats]


def evaluate(batch: Batch, replies: list[str], **settings: Any) -> tuple[Evaluation, Said]:
    task = Said(make_model(), MllmEvalConfig.model_validate(settings), TOKENIZER)
    task.prompts, task.begun, task.replies = [], [], replies
    data = EvalData("toy", "test", len(batch), lambda: iter([batch]))
    return task.evaluate(data, lambda *_: None), task


@pytest.mark.slow
def test_mvbench_prompt_and_scores() -> None:
    batch = asked_batch([[ENTRY, {**ENTRY, "answer": "a cat"}], [ENTRY]], "questions")
    found, task = evaluate(batch, ["B) a dog\nor so", "", "C)"], kind="choices")
    assert task.begun == ["Best option:("] * 3
    first = task.prompts[0]
    assert first.count(MVBENCH_SYSTEM) == 2
    assert first.startswith(
        f"<|im_start|>system\n{MVBENCH_SYSTEM}<|im_end|>\n<|im_start|>user\n<|picture|>\n"
    )
    assert (
        "Question: What moves?\nOptions:\n(A) a cat\n(B) a dog\n(C) the sun\nOnly give the best option."
        in first
    )
    assert [row["said"] for row in found.predictions] == ["(B) a dog", "(", "(C)"]
    assert [row["key"] for row in found.predictions] == ["0", "0", "1"]
    metrics = found.metrics
    assert metrics["accuracy"] == pytest.approx(1 / 3)
    assert metrics["published_accuracy"] == pytest.approx(2 / 3)
    assert metrics["asked"]["begin"] == "Best option:("
    assert metrics["generation"]["temperature"] == 0.0
    published, _ = evaluate(batch, ["B)", "", "C)"], kind="choices", choice_scoring="published")
    assert published.metrics["accuracy"] == pytest.approx(2 / 3)


@pytest.mark.slow
def test_letters_are_asked_for_plainly() -> None:
    found, task = evaluate(asked_batch([ENTRY]), ["(B)"], kind="choices", prompt="letters", choice="Which?")
    assert task.begun == [""]
    assert "What moves?\n(A) a cat\n(B) a dog\n(C) the sun\nWhich?" in task.prompts[0]
    assert found.metrics["accuracy"] == 1.0


@pytest.mark.slow
def test_charts_are_averaged_over_their_kinds() -> None:
    human = {"question": "How many?", "answer": "100", "kind": "human", "question_id": 7}
    machine = {"question": "How much?", "answers": ["5%"], "kind": "augmented"}
    batch = asked_batch([human, human, human, machine], "questions")
    replies = ["104", "90", "1", "0.05"]
    found, task = evaluate(batch, replies, score="relaxed", overall="kinds", short="Briefly.")
    assert found.metrics["kinds"]["human"] == {"accuracy": pytest.approx(1 / 3), "count": 3}
    assert found.metrics["accuracy"] == pytest.approx((1 / 3 + 1) / 2)
    assert found.metrics["over_questions"] == 0.5
    assert found.extra["submission"][0] == {"question_id": 7, "answer": "104"}
    assert "How many? Briefly." in task.prompts[0]


@pytest.mark.slow
def test_captions_are_scored() -> None:
    batch = replace(clip_batch(2), captions=[("a cat runs",), ("a dog", "the dog sits")])
    found, task = evaluate(
        batch, ["a cat\nruns", "the dog sits"], kind="captions", caption="Say it.", meteor=False
    )
    assert [row["caption"] for row in found.predictions] == ["a cat runs", "the dog sits"]
    assert found.metrics["bleu_1"] == pytest.approx(1.0)
    assert found.metrics["headline"] == "cider"
    assert "Say it." in task.prompts[0]


def test_a_real_answer_goes_on_from_its_beginning() -> None:
    task = make_eval(kind="choices", max_tokens=1000)
    batch = asked_batch([{"question": "a", "options": ["cat", "dog"], "answer": 1}])
    chat = task.choice_chat(batch.extra["choices"][0], ["video"])
    begun, _ = task.encode(batch, [chat], answer=True, begun="Best option:(")
    plain, _ = task.encode(batch, [chat], answer=True)
    assert begun[0].ids[: len(plain[0].ids)] == plain[0].ids
    assert begun[0].ids[len(plain[0].ids) :] == task.tokenizer.tokens("Best option:(")
    data = EvalData("toy", "test", 1, lambda: iter([batch]))
    found = task.evaluate(data, lambda *_: None)
    assert found.predictions[0]["said"].startswith("(")


def test_questions_without_options_are_refused() -> None:
    with pytest.raises(DataError, match=r"task\.kind=short"):
        evaluate(asked_batch([{"question": "a", "answer": "b"}]), [], kind="choices")
    none = torch.arange(1)
    assert entries_of(Batch(keys=["a"], positions=none, match_ids=none), options=True) == []


def test_queries_are_told_the_system_text_alone_for_mvbench() -> None:
    asset = {"query_words": json.loads(TOKENIZER.to_json())}
    for about, found in (("system", MVBENCH_SYSTEM), ("question", f"{MVBENCH_SYSTEM} {MVBENCH_SYSTEM}")):
        config = MllmEvalConfig(kind="choices", ask_queries=True, query_about=about)
        task = MllmEvalTask(make_model(), config, TOKENIZER, asset)
        assert task.instruction(task.choice_chat(ENTRY, ["video"])).startswith(found)


def test_it_takes_what_instruct_has_trained(tmp_path: Path) -> None:
    trained = InstructTask(make_model(), InstructConfig(), TOKENIZER)
    assert (
        make_eval().state_dict().keys()
        == InstructTask(make_model(max_text_tokens=100), InstructConfig(), TOKENIZER).state_dict().keys()
    )
    assert trained.name == "instruct"


def test_templates_of_videochat2() -> None:
    from diptych.data.chat import ChatTokenizer
    from diptych.data.conversations import Wording, with_turns

    chat = with_turns([("Who ?", "A dog ."), ("Where ?", "Home .")], Wording("Look ."), ["video"])
    vicuna = ChatTokenizer.around(TOKENIZER, "videochat2")
    expected = (
        "Look . ###Human: <|picture|>\nWho ? ###Assistant: A dog . ###Human: Where ? ###Assistant: Home . ###"
    )
    assert vicuna.render(chat) == expected
    assert vicuna.render(chat.asks(), answer=True) == expected.partition(" A dog")[0] + " "
    found = vicuna.encode_chat(chat, [2])
    learned = [i for i, on in zip(found.ids, found.learned, strict=True) if on]
    assert learned == vicuna.tokens("A dog . ###") + vicuna.tokens("Home . ###")
    mistral = ChatTokenizer.around(TOKENIZER, "videochat2_mistral")
    assert mistral.render(chat) == (
        "Look . [INST] <|picture|>\nWho ? [/INST] A dog .</s> [INST] Where ? [/INST] Home .</s> "
    )
