"""Tiny raw folders of MSR-VTT and of the questions about it: eight clips of the official numbers."""

import csv
import io
import json
import zipfile
from pathlib import Path
from typing import Any

from diptych.data.miniatures.media import video

CLIPS = {7010: 70, 6512: 65, 0: 1, 6513: 66, 9001: 91, 7015: 75, 9999: 99, 6600: 67}
"""Number of the clip -> colour of its video; no annotation names the last one."""
LISTED = (9001, 6512, 0, 6513, 12, 7010, 9999, 7015, 40)
"""Clips of the annotations, in their order; the video of 12 is not there, that of 40 is cut off."""
CAPTIONS = (
    (0, "a car is shown"),
    (6512, '  a "chef" cooks, très  slowly '),
    (0, "a red car"),
    (9001, "a man folds a paper boat"),
    (12, "a lost video"),
    (6513, "a car is shown"),
    (7010, "people run"),
    (9999, "a dog"),
    (9001, "somebody folds paper"),
    (7010, " "),
    (7015, "a house"),
    (40, "a clip without its end"),
)
"""Number of the clip and caption, in the order of `sen_id`, which starts at 100."""
TRAIN_9K = (6512, 0, 6513, 7010, 12, 5000)
"""Training clips of 1k-A; nothing is known of the last one."""
TEST_1K = ((9999, "a small dog, in the snow"), (9001, "a man folds a paper boat"))
"""Test clips of 1k-A and their sentences."""
QUESTIONS: dict[str, tuple[tuple[int, str, str], ...]] = {
    "train": ((6512, "what is cooked?", "food"), (0, "what is red?", "car"), (6512, "who cooks?", "chef")),
    "val": ((6513, 'what "is" shown, là?', "car"),),
    "test": ((9999, "what is it?", "dog"), (12, "what?", "car"), (7010, "who runs?", "people")),
}
"""Split -> number of the clip, question and answer."""
CHOICES = ("a dog", "a car", "people run", "a man folds a paper boat", "a house")


def make_msrvtt(raw: Path, layout: str = "") -> None:
    """Write the raw files of `msr-vtt` into a folder, in the owners' form or in that of a layout."""
    if layout == "uniperceiver":
        _uniperceiver(raw / "msrvtt_dataset")
    elif layout == "snps3":
        _snps3(raw)
    else:
        _owners(raw)


def make_msrvtt_qa(raw: Path, layout: str = "") -> None:
    """Write the raw files of `msrvtt-qa` into a folder, in the owners' form or in that of a layout."""
    _videos(raw)
    first = 0
    for split, rows in QUESTIONS.items():
        if layout == "snps3":
            entries = [
                {"caption": text, "clip_name": f"video{number}", "label": answer, "type": "video"}
                for number, text, answer in rows
            ]
            _json_lines(raw / f"msrvtt_qa_antmmf/{split}_antmmf.jsonl", entries)
            continue
        listed = [
            {"answer": answer, "category_id": 14, "id": first + i, "question": text, "video_id": number}
            for i, (number, text, answer) in enumerate(rows)
        ]
        first += len(rows)
        if split == "test":
            listed.append(listed[0])
        _text(raw / f"{split}_qa.json", json.dumps(listed, ensure_ascii=False))


def make_msrvtt_mc(raw: Path, layout: str = "") -> None:
    """Write the raw files of `msrvtt-mc` into a folder."""
    _videos(raw)
    choices: tuple[tuple[int, str | int, list[str]], ...] = (
        (9999, "0", list(CHOICES)),
        (7010, "2", [*CHOICES[:4], ' a "house", là  ']),
        (12, "1", list(CHOICES)),
        (7015, "5", list(CHOICES)),
        (7015, "4", list(CHOICES[:4])),
        (7015, 4, list(CHOICES)),
    )
    rows = [
        {
            "qid": f"mc{i}",
            "clip_name": f"video{number}",
            "title": f"msr{number}00001",
            "answer": answer,
            "options": options,
        }
        for i, (number, answer, options) in enumerate(choices)
    ]
    _json_lines(raw / "mc_test.jsonl", [*rows, rows[0]])


def _owners(raw: Path) -> None:
    _videos(raw)
    parts: tuple[tuple[str, str, list[int]], ...] = (
        ("train_val_videodatainfo.json", "train_val_annotation.zip", [n for n in LISTED if n < 7010]),
        ("test_videodatainfo.json", "", [n for n in LISTED if n >= 7010]),
    )
    for name, archive, numbers in parts:
        content: dict[str, Any] = {
            "info": {"year": "2016"},
            "videos": [
                {
                    "category": number % 20,
                    "url": f"https://video.example/watch?v={number}",
                    "video_id": f"video{number}",
                    "start time": 137.72,
                    "end time": 149,
                    "split": "train" if number < 6513 else "validate" if number < 7010 else "test",
                    "id": number,
                }
                for number in numbers
            ],
            "sentences": [
                {"caption": text, "video_id": f"video{number}", "sen_id": 100 + i}
                for i, (number, text) in enumerate(CAPTIONS)
                if number in numbers
            ],
        }
        if not archive:
            content["sentences"].append({"caption": "lost", "video_id": "video8888", "sen_id": 999})
        text = json.dumps(content, ensure_ascii=False)
        if archive:
            with zipfile.ZipFile(raw / archive, "w", zipfile.ZIP_DEFLATED) as out:
                # A name alone would be given the time of day: other bytes each time.
                out.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)
        else:
            _text(raw / name, text)
    _text(raw / "MSRVTT_train.9k.csv", "video_id\n" + "".join(f"video{n}\n" for n in TRAIN_9K))
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["key", "vid_key", "video_id", "sentence"])
    for i, (number, text) in enumerate(TEST_1K):
        writer.writerow([f"ret{i}", f"msr{number}", f"video{number}", text])
    _text(raw / "MSRVTT_JSFUSION_test.csv", table.getvalue())


def _videos(raw: Path) -> None:
    """Write the videos: the first archive unpacked, the second one as it came."""
    folder = raw / "TrainValVideo"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(raw / "test_videos.zip", "w") as out:
        for number, colour in CLIPS.items():
            data = video(colour, seconds=0.5)
            if number < 7010:
                (folder / f"video{number}.mp4").write_bytes(data)
            else:
                out.writestr(zipfile.ZipInfo(f"TestVideo/video{number}.mp4"), data)
    (folder / "video40.mp4").write_bytes(video(40, seconds=0.5)[:-100])


def _uniperceiver(root: Path) -> None:
    (root / "videos").mkdir(parents=True)
    for number, colour in CLIPS.items():
        (root / f"videos/video{number}.mp4").write_bytes(video(colour, seconds=0.5))
    known = [n for n in TRAIN_9K if n in LISTED]
    trainval = [(n, 100 + i, text) for i, (n, text) in enumerate(CAPTIONS) if n in known]
    test = [(number, number, text) for number, text in TEST_1K]
    for part, rows in (("trainval", trainval), ("test", test)):
        content = {
            "images": [{"id": n, "file_name": f"video{n}"} for n in dict.fromkeys(row[0] for row in rows)],
            "annotations": [{"image_id": n, "id": i, "caption": text} for n, i, text in rows],
        }
        _text(root / f"annotations_new/caption_msrvtt_1k_{part}_cocostyle.json", json.dumps(content))


def _snps3(raw: Path) -> None:
    _videos(raw)
    train = [
        {"caption": text, "clip_name": f"video{number}", "sen_id": i}
        for i, (number, text) in enumerate(CAPTIONS)
        if number in TRAIN_9K
    ]
    test = [
        {"caption": text, "clip_name": f"video{number}", "retrieval_key": f"ret{i}"}
        for i, (number, text) in enumerate(TEST_1K)
    ]
    for part, rows in (("train", train), ("val", test), ("test", test)):
        _json_lines(raw / f"msrvtt_retrieval/{part}.jsonl", rows)


def _json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    _text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")
