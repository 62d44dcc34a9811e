"""Files of conversations: the forms of others, and what is wrong with a line."""

import json

import pytest

from diptych.data.conversation_files import read_conversations
from diptych.data.conversations import Part
from diptych.errors import DataError


def read(tmp_path, form, records, lines=False):
    path = tmp_path / "data.json"
    text = "\n".join(map(json.dumps, records)) if lines else json.dumps(records, indent=1)
    path.write_text(text, encoding="utf-8")
    return list(read_conversations(path, form))


def said(conversation):
    return [(m.role, m.text("*")) for m in conversation.messages]


LLAVA = {
    "id": "1",
    "image": "a/b.jpg",
    "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}],
}


@pytest.mark.parametrize("lines", [False, True])
def test_llava(tmp_path, lines):
    blind = {
        **LLAVA,
        "id": 2,
        "conversations": [{"from": "human", "value": "Hi"}, *LLAVA["conversations"][1:]],
    }
    found = read(tmp_path, "llava", [LLAVA, blind], lines)
    assert said(found[0].conversation) == [("user", "*\nWhat?"), ("assistant", "A cat.")]
    assert found[0].conversation.media == [Part("image", source="a/b.jpg")]
    assert found[0].conversation.facts == {"id": "1"}
    # A picture without a mark comes first.
    assert said(found[1].conversation)[0] == ("user", "*\nHi")
    assert [r.line for r in found] == ([1, 2] if lines else [2, 16])


def test_video_llava_mixes_both(tmp_path):
    record = {
        "video": ["v.mp4"],
        "image": ["1.jpg", "2.jpg"],
        "conversations": [
            {"from": "human", "value": "<video>\nand <image><image>"},
            {"from": "gpt", "value": "ok"},
        ],
    }
    (found,) = read(tmp_path, "llava", [record])
    assert [(p.kind, p.source) for p in found.conversation.media] == [
        ("video", "v.mp4"),
        ("image", "1.jpg"),
        ("image", "2.jpg"),
    ]


def test_ixc(tmp_path):
    turns = [{"from": "Human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    marked = [{"from": "user", "value": "<ImageHere> and <ImageHere>?"}, *turns[1:]]
    found = read(
        tmp_path,
        "ixc",
        [
            {"image": ["a.jpg"], "conversations": turns},
            {"image": ["a.jpg", "b.jpg"], "conversations": marked},
        ],
    )
    assert said(found[0].conversation)[0] == ("user", "*Hi")
    assert said(found[1].conversation)[0] == ("user", "* and *?")
    with pytest.raises(DataError, match="line 2: 0 marks <ImageHere>, but 2 files"):
        read(tmp_path, "ixc", [{"image": ["a.jpg", "b.jpg"], "conversations": turns}])


def test_videochat2(tmp_path):
    pairs = [{"i": "Look.", "q": "What?", "a": "A cat."}, {"q": "Where?", "a": "There."}]
    records = [
        {"video": "x/y.mp4", "QA": pairs, "start": 1, "end": 2.5},
        {"image": "z.jpg", "QA": [{"a": "Sun."}]},
    ]
    found = read(tmp_path, "videochat2", records)
    assert said(found[0].conversation) == [
        ("system", "Look."),
        ("user", "*\nWhat?"),
        ("assistant", "A cat."),
        ("user", "Where?"),
        ("assistant", "There."),
    ]
    assert found[0].clip == (1.0, 2.5)
    assert said(found[1].conversation) == [("user", "*\n"), ("assistant", "Sun.")]
    assert found[1].clip is None


@pytest.mark.parametrize(
    ("form", "record", "message"),
    [
        (
            "llava",
            {"conversations": [{"from": "alien", "value": "x"}]},
            r"conversations\[0\]: expected `from`",
        ),
        ("llava", {"conversations": "x"}, "expected an object with a list `conversations`"),
        ("llava", {**LLAVA, "image": 3}, "`image`: expected a file"),
        ("llava", {**LLAVA, "image": []}, "1 marks <image>, but 0 files"),
        ("llava", {**LLAVA, "conversations": LLAVA["conversations"][1:]}, "expected a user's message first"),
        ("videochat2", {"video": "a.mp4", "QA": [{"q": "x"}]}, r"QA\[0\]: expected texts"),
        ("videochat2", {"QA": [{"q": "x", "a": "y"}]}, "expected one of `image` and `video`"),
        ("messages", {"messages": 1}, "expected an object with a list `messages`"),
    ],
)
def test_wrong_records_name_their_line(tmp_path, form, record, message):
    good = {
        "llava": LLAVA,
        "videochat2": {"image": "z.jpg", "QA": [{"q": "", "a": "y"}]},
        "messages": {"messages": [{"role": "user", "content": "a"}]},
    }[form]
    with pytest.raises(DataError, match=rf"data\.json, line 2: .*{message}"):
        read(tmp_path, form, [good, record], lines=True)


def test_what_is_no_json_names_its_line(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "a"}]}\n{"messages": \n', encoding="utf-8")
    with pytest.raises(DataError, match="line 3: no JSON"):
        list(read_conversations(path, "messages"))
    with pytest.raises(DataError, match="cannot be read"):
        list(read_conversations(tmp_path / "none.json", "messages"))
