"""Chat templates, room for pictures, and what is learned: by hand."""

import pickle

import pytest
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import models, pre_tokenizers

from diptych.data.chat import PICTURE, ChatTokenizer
from diptych.data.conversations import (
    Conversation,
    Message,
    Part,
    Wording,
    choice_turn,
    parse_conversation,
    question_turn,
    with_turns,
)
from diptych.data.text import Tokenizer
from diptych.errors import DataError
from diptych.systems.mllm.internlm_chat import learned_targets

START, END = "<|im_start|>", "<|im_end|>"
WORDS = ["user", "assistant", "system", "what", "is", "it", "a", "cat", "no", "dog", "\n", "Be", "kind"]


def tokenizer(template: str = "chatml", **settings) -> ChatTokenizer:
    """Return one with a token a word, and one a line break."""
    names = ["[UNK]", "</s>", "[UNUSED_TOKEN_145]", "[UNUSED_TOKEN_146]", *WORDS]
    raw = RawTokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Split(" ", "removed")]
    )
    marks = ["[UNUSED_TOKEN_145]", "[UNUSED_TOKEN_146]", "</s>", START, END]
    raw.add_special_tokens(marks)
    end = END if template == "chatml" else "</s>"
    return ChatTokenizer(raw, {"eos_token": end, "chat_template": template, **settings})


def shown(chat: ChatTokenizer, ids):
    return [chat._raw.id_to_token(i) for i in ids]


TWO_TURNS = with_turns([("what is it", "a cat"), ("a dog", "no")], Wording(system="Be kind"))


def test_assistant_text_and_its_end_alone_are_learned():
    chat = tokenizer()
    found = chat.encode_chat(TWO_TURNS, [3])
    expected = [START, "system", "\n", "Be", "kind", END, "\n"]
    expected += [START, "user", "\n", PICTURE, PICTURE, PICTURE, "\n", "what", "is", "it", END, "\n"]
    expected += [START, "assistant", "\n", "a", "cat", END, "\n"]
    expected += [START, "user", "\n", "a", "dog", END, "\n"]
    expected += [START, "assistant", "\n", "no", END, "\n"]
    assert shown(chat, found.ids) == expected
    learned = [token for token, on in zip(expected, found.learned, strict=True) if on]
    assert learned == ["a", "cat", END, "no", END]
    assert [i for i, on in enumerate(found.learned) if on] == [22, 23, 24, 36, 37]
    assert [t for t in found.targets if t != -100] == [
        i for i, on in zip(found.ids, found.learned, strict=True) if on
    ]


def test_what_is_generated_from_is_the_beginning_of_what_is_trained():
    chat = tokenizer()
    trained = chat.encode_chat(TWO_TURNS, [3])
    asked = chat.encode_chat(TWO_TURNS.asks(2), [3], answer=True)
    assert trained.ids[: len(asked.ids)] == asked.ids
    assert not any(asked.learned)
    assert trained.learned[len(asked.ids)]


@pytest.mark.parametrize("system", ["", "Be kind"])
def test_internlms_targets_are_those_of_its_own_code(system):
    chat = tokenizer("internlm", learn_rest=True)
    said = with_turns([("what is it", "a cat"), ("a dog", "no")], Wording(system=system), [])
    found = chat.encode_chat(said, [])
    end, eos = (chat._raw.token_to_id(name) for name in ("[UNUSED_TOKEN_145]", "</s>"))
    # The published code counts marks from the first turn, so a system's turn is taken off; its role is one
    # token here and two there.
    begin = shown(chat, found.ids).index("user") - 1
    theirs = learned_targets(found.ids[begin:], end=end, eos=eos, header=5)
    assert found.targets[begin:] == theirs
    assert [t for t in found.targets[:begin] if t != -100] == []
    assert shown(chat, [t for t in theirs if t != -100])[-3:] == ["[UNUSED_TOKEN_145]", "\n", "</s>"]


def test_a_template_that_changes_its_beginning_is_refused():
    source = "{{ messages | length }}{% for m in messages %}{{ m.role + m.content }}{% endfor %}"
    with pytest.raises(DataError, match=r"system\.language\.template"):
        tokenizer(source).encode_chat(with_turns([("what", "no"), ("is", "it")], Wording(), []), [])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% if %}", "cannot be read"),
        ("{{ raise_exception('only users') }}", "only users"),
        ("{{ messages.__class__.__mro__ }}{{ messages.append(1) }}", "refuses"),
    ],
)
def test_bad_templates(source, message):
    with pytest.raises(DataError, match=message):
        tokenizer(source).encode_chat(with_turns([("what", "no")], Wording(), []), [])


def test_missing_pictures_and_special_tokens_are_errors():
    chat = tokenizer()
    with pytest.raises(DataError, match="1 pictures or videos, but 2"):
        chat.encode_chat(TWO_TURNS, [3, 3])
    with pytest.raises(DataError, match="special token"):
        chat.encode_chat(with_turns([(f"what {PICTURE}", "no")], Wording(), []), [])
    with pytest.raises(DataError, match="no chat template"):
        tokenizer("x").__class__(tokenizer()._raw, {"eos_token": END})


def test_saved_and_pickled_it_is_the_same(tmp_path):
    chat = tokenizer()
    expected = chat.encode_chat(TWO_TURNS, [2])
    chat.save(tmp_path)
    read = Tokenizer.from_file(tmp_path / "tokenizer.json")
    assert isinstance(read, ChatTokenizer)
    assert read.encode_chat(TWO_TURNS, [2]) == expected
    assert pickle.loads(pickle.dumps(chat)).encode_chat(TWO_TURNS, [2]) == expected


def test_a_plain_tokenizer_gets_a_template():
    plain = Tokenizer.train(["what is it a cat"] * 3, 40)
    chat = ChatTokenizer.around(plain)
    assert chat.vocab_size == plain.vocab_size + 3
    found = chat.encode_chat(with_turns([("what is it", "a cat")], Wording(), []), [])
    assert chat.decode_answer([i for i, on in zip(found.ids, found.learned, strict=True) if on]) == "a cat"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([], "expected an object with a list `messages`"),
        ({"messages": []}, "expected a user's message first"),
        ({"messages": [{"role": "user", "content": 3}]}, r"messages\[0\]: expected an object"),
        ({"messages": [{"role": "user", "content": [{"type": "sound"}]}]}, r"messages\[0\]\.content\[0\]"),
        ({"messages": [{"role": "user", "content": "a"}] * 2}, "messages 0 and 1 are both the user's"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "expected a user's message first"),
        (
            {
                "messages": [
                    {"role": "user", "content": "a"},
                    {"role": "assistant", "content": [{"type": "image"}]},
                ]
            },
            "a picture or video in the assistant's",
        ),
    ],
)
def test_wrong_conversations_say_where(record, message):
    with pytest.raises(DataError, match=message):
        parse_conversation(record)


def test_typed_content_and_back():
    record = {
        "id": 7,
        "messages": [
            {"role": "system", "content": "Be kind"},
            {
                "role": "user",
                "content": [{"type": "image", "image": "a.jpg"}, {"type": "text", "text": "\nwhat"}],
            },
            {"role": "assistant", "content": "a cat"},
        ],
    }
    found = parse_conversation(record)
    assert found.media == [Part("image", source="a.jpg")]
    assert parse_conversation(found.to_json()) == found
    assert found.blind().messages[1] == Message.of("user", "what")
    assert found.asks() == Conversation(found.messages[:2], {"id": 7})


def test_questions_and_choices_in_words():
    wording = Wording(short="In a word.", choice="Which?")
    assert question_turn({"question": "What? ", "answers": ["a", "b", "b"]}, wording) == (
        "What? In a word.",
        "b",
    )
    assert question_turn({"question": "What?", "answer": "x"}, Wording()) == ("What?", "x")
    entry = {"question": "Why?", "options": ["so", "thus"], "answer": 1}
    assert choice_turn(entry, wording) == ("Why?\n(A) so\n(B) thus\nWhich?", "(B)")
    assert choice_turn({"options": ["so"]}, Wording(choice="")) == ("(A) so", "")
