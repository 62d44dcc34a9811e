"""The cards `mvbench` and `videochat2-json` on miniatures, worked out by hand."""

from pathlib import Path

import pytest
from tests.cards.card_checks import Prepared

from diptych.data.cards.mvbench import TASKS, label_of
from diptych.data.cards.videochat2_json import conversation_of
from diptych.data.conversations import parse_conversation
from diptych.errors import UsageError


def test_questions_of_mvbench_by_video_and_part(tmp_path: Path) -> None:
    made = Prepared("mvbench", tmp_path, roots="object_shuffle=perception,moving_count=clevrer")
    assert (len(TASKS), len(set(TASKS)), label_of("Fine-grained Pose")) == (20, 20, "fine_grained_pose")
    samples = list(made.samples.values())
    assert [(s.meta.get("start"), s.meta.get("end")) for s in samples] == [
        (0.0, 1.0),
        (0.5, 1.5),
        (None, None),
        (None, None),
    ]
    # Two videos of one name, each where its task says.
    assert [found for (found,) in made.colours().values()] == [1, 1, 2, 3]
    assert samples[0].meta["questions"] == [
        {
            "question": "What happened after the person took the food?",
            "question_id": "action_sequence/0",
            "dataset": "mvbench",
            "kind": "Action Sequence",
            "options": ["Ate the medicine.", "Tidied up the blanket.", "Put down the cup.", "Took it."],
            "answer": 0,
        }
    ]
    assert samples[3].meta["questions"][0]["options"] == ["1", "2", "3"]
    assert samples[3].meta["questions"][0]["answer"] == 2
    left = made.left_out()
    assert len(left["bad entry"]) == 2
    assert len(left["missing video"]) == 1
    with pytest.raises(UsageError, match="expected task=folder"):
        Prepared("mvbench", tmp_path, roots="elsewhere=x")


def test_annotation_files_become_conversations(tmp_path: Path) -> None:
    lists = {"train": "train.json", "val": "val.json", "test": "test.json"}
    made = Prepared("videochat2-json", tmp_path, **lists)
    assert made.counts() == {"train": 4, "val": 1, "test": 1}
    clip, cats, count, caption = (s for s in made.samples.values() if s.split == "train")
    assert (clip.meta["start"], clip.meta["end"], list(clip.media)) == (0.5, 1.5, ["mp4"])
    assert clip.meta["conversations"][0]["messages"] == [
        {"role": "system", "content": [{"type": "text", "text": "Watch the clip."}]},
        {
            "role": "user",
            "content": [{"type": "video", "video": ""}, {"type": "text", "text": "\nWho runs?"}],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "a man"}]},
        {"role": "user", "content": [{"type": "text", "text": "Where?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "at home"}]},
    ]
    assert parse_conversation(cats.meta["conversations"][0]).messages[1].text("<x>") == "<x>"
    asked = parse_conversation(count.meta["conversations"][0])
    assert [message.role for message in asked.messages] == ["user", "assistant"]
    assert caption.captions == ("a man runs", "somebody runs")
    left = made.left_out()
    assert len(left["bad entry"]) == 4
    assert len(left["missing video"]) == len(left["missing picture"]) == 1


def test_other_forms_are_no_conversations() -> None:
    assert conversation_of([], "image") is None
    assert conversation_of([{"q": "a"}], "image") is None
    assert conversation_of([{"q": "a", "a": " "}], "image") is None
    assert conversation_of("text", "video") is None
