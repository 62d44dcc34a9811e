"""What reports show of clips: a frame of each, and questions that need their order apart."""

import base64
import io
import json
from pathlib import Path

from PIL import Image

from diptych.data.prepare import load_card, prepare
from diptych.report.answers import answer_tables
from diptych.report.collect import read_run
from diptych.report.pictures import thumbnails


def test_a_frame_stands_for_a_clip(tmp_path: Path) -> None:
    options = {"size": "2", "resolution": "48", "frames": "5", "kinds": "12"}
    prepare(load_card("emoji-clips"), None, tmp_path / "data", options=options, shard_size=10, progress=None)
    found = thumbnails(tmp_path / "data", ["clip_000000000", "clip_000000001", "clip_000000007"])
    assert set(found.uris) == {"clip_000000000", "clip_000000001"}
    content = base64.b64decode(found.uris["clip_000000000"].partition("base64,")[2])
    assert Image.open(io.BytesIO(content)).size == (48, 48)


def test_ordered_questions_have_a_line(tmp_path: Path) -> None:
    folder = tmp_path / "run/eval/vqa_toy_test"
    folder.mkdir(parents=True)
    (tmp_path / "run/config.yaml").write_text("name: run\nsystem: {name: snps3}\ntask: {name: vqa}\n")
    part = {"accuracy": 0.25, "count": 4}
    chance = {"most_frequent": 0.5, "most_frequent_by_kind": 0.5, "random": 0.1}
    metrics = {"task": "vqa", "dataset": "toy", "split": "test", "questions": 8, "scored": 8, "accuracy": 0.5}
    metrics |= {"kinds": {"who": part}, "ordered": part, "chance": chance}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (table,) = answer_tables([read_run(tmp_path / "run")])
    assert [(row.label, row.count) for row in table.rows] == [("all", 8), ("who", 4), ("ordered", 4)]
    assert table.rows[2].cells[0].startswith("25.0")
