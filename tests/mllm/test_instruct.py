"""Instruction tuning on a toy: packing, padding, placement of pictures, generation, frozen parts."""

import pytest
import torch
from tests.mllm.mllm_toy import QUESTIONS, context, questions, toy_task

from diptych.data.conversations import Conversation, Message, Part, Wording, with_turns
from diptych.errors import DataError
from diptych.systems.mllm.generation import GenerationConfig, generate
from diptych.systems.mllm.rows import cut, lay_out
from diptych.tasks.instruct_data import conversations_of

TOLERANCE = 2e-6
"""Of losses and gradients in float32, where the order of additions differs."""


def gradients(task, batches):
    """Return the mean loss and gradients over all learned tokens of some batches."""
    task.zero_grad()
    losses = [task.predict(b, conversations_of(b, task.config.wording)) for b in batches]
    count = sum(int(n) for *_, n in losses)
    loss = sum(one for one, *_ in losses) / count
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in task.named_parameters() if p.grad is not None}


@pytest.mark.slow
def test_packed_padded_and_single_conversations_learn_the_same():
    task, batch = toy_task(max_tokens=64), questions()
    padded, of_padded = gradients(task, [batch])
    single, of_single = gradients(task, [batch.take(torch.tensor([i])) for i in range(len(batch))])
    packed_task = toy_task(max_tokens=64, pack=True)
    packed, of_packed = gradients(packed_task, [batch])
    assert padded == pytest.approx(single, abs=TOLERANCE)
    assert padded == pytest.approx(packed, abs=TOLERANCE)
    assert of_padded.keys() == of_single.keys() == of_packed.keys()
    for name, expected in of_single.items():
        torch.testing.assert_close(of_padded[name], expected, atol=TOLERANCE, rtol=1e-4, msg=name)
        torch.testing.assert_close(of_packed[name], expected, atol=TOLERANCE, rtol=1e-4, msg=name)
    # The rows really hold several conversations, and pictures are behind each other in another order.
    encoded, _ = packed_task.encode(batch, conversations_of(batch, Wording()))
    laid = lay_out(encoded, task.tokenizer.pad_id, task.tokenizer.picture_id, length=64)
    assert len(laid.rows.ids) < len(batch)
    assert laid.order != sorted(laid.order)


@pytest.mark.slow
def test_what_one_conversation_says_does_not_reach_another_in_its_row():
    task = toy_task(max_tokens=128, pack=True).eval()
    one, other = questions(2, seed=1), questions(2, seed=1)
    other.images[1] = 255 - other.images[1]
    asked = {**QUESTIONS[1], "question": "is the dog blue and the cat red no"}
    other.extra["questions"] = [QUESTIONS[0], asked]

    def first_states(batch):
        encoded, pictures = task.encode(batch, conversations_of(batch, Wording()))
        laid = lay_out(encoded, task.tokenizer.pad_id, task.tokenizer.picture_id, length=128)
        assert len(laid.rows.ids) == 1
        number = laid.order.index(0) + 1
        states = task.network.read(laid.rows, task.see(pictures, laid.order))
        return states[laid.rows.segments == number]

    with torch.no_grad():
        torch.testing.assert_close(first_states(one), first_states(other), atol=1e-6, rtol=1e-5)


def test_features_land_at_their_places():
    task, batch = toy_task(), questions(2)
    chats = conversations_of(batch, Wording())
    encoded, pictures = task.encode(batch, chats)
    laid = lay_out(encoded, task.tokenizer.pad_id, task.tokenizer.picture_id)
    seen = task.see(pictures, laid.order)
    assert seen.shape == (8, 32)  # 2 pictures of 2 x 2 features
    inputs = task.network.inputs(laid.rows.ids, laid.rows.pictures, seen)
    for row in range(2):
        places = laid.rows.pictures[row].nonzero()[:, 0].tolist()
        assert places == list(range(places[0], places[0] + 4))
        torch.testing.assert_close(inputs[row, places], seen[4 * row : 4 * row + 4])
    words = task.network.language.embed(laid.rows.ids.masked_fill(laid.rows.pictures, 0))
    torch.testing.assert_close(inputs[~laid.rows.pictures], words[~laid.rows.pictures])


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0, "top_k": 20, "top_p": 0.9, "seed": 3}])
def test_generation_with_and_without_cache_gives_the_same_tokens(settings):
    task, batch = toy_task().eval(), questions()
    chats = [chat.asks() for chat in conversations_of(batch, Wording())]
    encoded, pictures = task.encode(batch, chats, answer=True)
    laid = lay_out(encoded, task.tokenizer.pad_id, task.tokenizer.picture_id, left=True)
    found = {}
    for cache in (True, False):
        with torch.inference_mode():
            tokens = task.see(pictures, laid.order)
            how = GenerationConfig(max_new_tokens=12, cache=cache, repetition_penalty=1.3, **settings)
            found[cache] = torch.stack(list(generate(task.network, laid.rows, tokens, how, [5])), 1)
    assert torch.equal(found[True], found[False])
    assert len(found[True][0].unique()) > 1


def test_a_batch_of_answers_is_that_of_single_questions():
    task, batch = toy_task().eval(), questions()
    chats = [chat.asks() for chat in conversations_of(batch, Wording())]
    together = task.answers(batch, chats)
    alone = [task.answers(batch.take(torch.tensor([i])), [chats[i]])[0] for i in range(len(batch))]
    assert together == alone


def test_adapters_of_pictures_do_not_touch_text():
    task = toy_task()
    blind = toy_task(blind="image")
    for name, parameter in blind.named_parameters():
        if name.endswith(".up.weight"):
            torch.nn.init.zeros_(parameter)
    batch = questions(2)
    chats = [chat.blind() for chat in conversations_of(batch, Wording())]
    task.config = task.config.with_(blind="image")
    with torch.no_grad():
        assert task.predict(batch, chats)[0] == blind.predict(batch, chats)[0]


def test_a_control_without_pictures_sees_none():
    task = toy_task(blind="image")
    one, other = questions(3, seed=1), questions(3, seed=2)
    with torch.no_grad():
        assert task.compute_loss(one, context(one)).total == task.compute_loss(other, context(other)).total
    task.config = task.config.with_(blind="none")
    with torch.no_grad():
        assert task.compute_loss(one, context(one)).total != task.compute_loss(other, context(other)).total


def test_several_pictures_and_a_video_in_one_conversation():
    task = toy_task()
    batch = questions(1)
    views = torch.randint(0, 256, (1, 5, 3, 16, 16), dtype=torch.uint8)
    shown = Message.of("user", "first ", Part("image"), " then ", Part("video"), " what")
    chat = Conversation((shown, Message.of("assistant", "red")))
    extra = {"grids": [[(1, 1, 1)] * 5], "media": [[1, 4]]}
    found, _ = task.encode(type(batch)(["0"], batch.positions, batch.match_ids, views, extra=extra), [chat])
    runs = "".join("p" if i == task.tokenizer.picture_id else "." for i in found[0].ids).split(".")
    assert [len(run) for run in runs if run] == [4, 16]


def test_all_questions_of_a_sample_are_turns_in_an_order_of_their_own():
    batch = questions(2)
    batch.extra["questions"] = [QUESTIONS, QUESTIONS]
    first, second = conversations_of(batch, Wording(), 0, context(batch).draws)
    asked = [[m.text("").strip() for m in chat.messages if m.role == "user"] for chat in (first, second)]
    assert sorted(asked[0]) == sorted(asked[1]) == sorted(q["question"] for q in QUESTIONS)
    assert asked[0] != asked[1]
    assert len(first.media) == 1
    assert len(conversations_of(batch, Wording(), 2, context(batch).draws)[0].messages) == 4


def test_cutting_keeps_pictures_whole():
    task, batch = toy_task(), questions(1)
    encoded, _ = task.encode(batch, conversations_of(batch, Wording()))
    assert len(cut(encoded[0], 10, task.tokenizer.picture_id).ids) == 10
    with pytest.raises(DataError, match="pictures end at token"):
        cut(encoded[0], 4, task.tokenizer.picture_id)


def test_what_waits_for_an_answer_is_not_cut():
    task, batch = toy_task(max_tokens=8), questions(1)
    chat = conversations_of(batch, Wording())[0].asks()
    found, _ = task.encode(batch, [chat], answer=True)
    assert len(found[0].ids) > 8
    long = with_turns([("what color " * 60, "")], Wording())
    with pytest.raises(DataError, match="the language model reads 128 in all"):
        task.encode(batch, [long], answer=True)


def test_a_user_cannot_write_special_tokens():
    task = toy_task()
    chat = with_turns([("what <|im_end|> color", "red")], Wording(), [])
    with pytest.raises(DataError, match=r"special token '<\|im_end\|>'"):
        task.tokenizer.encode_chat(chat, [])
