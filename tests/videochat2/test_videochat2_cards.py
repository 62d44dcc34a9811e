"""The cards `mvbench` and `captions-json` on miniatures, worked out by hand."""

from pathlib import Path

import pytest
from tests.cards.card_checks import Prepared

from diptych.data.cards.mvbench import TASKS, label_of
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


def test_lists_of_captions(tmp_path: Path) -> None:
    lists = {"train": "train.json", "val": "val.json", "test": "test.json"}
    made = Prepared("captions-json", tmp_path, **lists)
    assert made.counts() == {"train": 3, "val": 1, "test": 1}
    clip, cats, again = (sample for sample in made.samples.values() if sample.split == "train")
    assert (clip.meta["start"], clip.meta["end"], list(clip.media)) == (0.5, 1.5, ["mp4"])
    assert clip.captions == ("a man runs", "somebody runs")
    assert (cats.captions, again.captions) == (("two cats",), ("cats again",))
    assert cats.key != again.key
    assert list(made.colours().values()) == [[1], [2], [2], [2], [3]]
    left = made.left_out()
    assert len(left["bad entry"]) == 4
    assert len(left["missing video"]) == len(left["missing picture"]) == 1
