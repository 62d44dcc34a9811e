"""Tiny raw folders of MSVD and MSVD-QA: six clips, their sentences and questions."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diptych.data.miniatures.media import video

COLOURS = {
    "_0nX-El-ySo_83_93": 9,
    "-AwyG1JcMp8_3_7": 3,
    "Cz0_a-b9DkQ_1_4": 201,
    "a_B-c_D1e2F_10_20": 1970,
    "mv89psg6zh4_33_46": 311,
    "qqqqqqqqqqq_0_5": 40,
}
"""Clip -> colour of its video; the last one has no sentences."""
MAPPING = (
    "mv89psg6zh4_33_46 vid1311",
    "_0nX-El-ySo_83_93 vid9",
    "zUbb_Yi7P_E_5_15 vid12",
    "HtmlHtmlHtm_0_3 vid77",
    "a line of three words",
    "-AwyG1JcMp8_3_7 vid3",
    "Cz0_a-b9DkQ_1_4 vid1201",
    "qqqqqqqqqqq_0_5 vid40",
    "a_B-c_D1e2F_10_20 vid1970",
)
SENTENCES: Mapping[str, tuple[tuple[int, str], ...]] = {
    "train": (
        (9, "a man plays a guitar"),
        (9, "a man is playing"),
        (3, '  the chef\'s café, "chez  léo" '),
        (12, "somebody is cooking"),
        (77, "a page about a video"),
        (3, "a man is playing"),
        (9, "a man is playing"),
    ),
    "val": ((1201, "a dog runs"),),
    "test": ((1970, "a boat sinks"), (1311, "a man is playing"), (1970, "the boat goes down")),
}
"""Split -> number of the video and sentence; clip vid12 is not there, vid77 is a web page."""
_NAMES = {line.split()[1]: line.split()[0] for line in MAPPING if len(line.split()) == 2}
QUESTIONS: Mapping[str, tuple[tuple[int, str, str], ...]] = {
    "train": (
        (9, "what is a man playing?", "guitar"),
        (3, "who is cooking?", "man"),
        (9, "how many people play?", "one"),
        (9, "who plays?", "man"),
        (12, "who is cooking?", "somebody"),
    ),
    "val": ((1201, "what runs?", "dog"),),
    "test": ((1970, 'what "sinks", après all?', "boat"), (1311, "who is playing?", "man")),
}
"""Split -> number of the video, question and answer."""


def make_msvd(raw: Path, layout: str = "") -> None:
    """Write the raw files of `msvd` into a folder, in the owners' form or in that of a layout."""
    if layout == "uniperceiver":
        _uniperceiver(raw / "msvd_dataset")
    elif layout == "snps3":
        _snps3(raw)
    else:
        _clips(raw / "YouTubeClips")
        _labels(raw / "txt_labels")


def make_msvd_qa(raw: Path, layout: str = "") -> None:
    """Write the raw files of `msvd-qa` into a folder, in the owners' form or in that of a layout."""
    _clips(raw / "YouTubeClips")
    if layout == "snps3":
        for split in ("train", "test"):
            rows = [
                {"caption": question, "clip_name": _NAMES[f"vid{number}"], "label": answer, "type": "video"}
                for number, question, answer in QUESTIONS[split]
            ]
            _json_lines(raw / f"msvd_qa/msvd_{split}_qa.jsonl", rows)
        return
    _text(raw / "youtube_mapping.txt", "".join(f"{line}\n" for line in MAPPING))
    first = 0
    for split, rows_of in QUESTIONS.items():
        entries: list[Any] = [
            {"answer": answer, "id": first + i, "question": question, "video_id": number}
            for i, (number, question, answer) in enumerate(rows_of)
        ]
        first += len(entries)
        if split == "val":
            entries.append({"answer": None, "id": 999, "question": "what?", "video_id": 1201})
        _text(raw / f"{split}_qa.json", json.dumps(entries, ensure_ascii=False))


def _clips(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, colour in COLOURS.items():
        (folder / f"{name}.avi").write_bytes(video(colour, seconds=0.5, container="avi"))
    (folder / "HtmlHtmlHtm_0_3.avi").write_bytes(b"<!DOCTYPE html><html><body>Sign in</body></html>")


def _labels(folder: Path) -> None:
    _text(folder / "youtube_mapping.txt", "".join(f"{line}\n" for line in MAPPING))
    for split, sentences in SENTENCES.items():
        lines = [f"vid{number}\t{text}\n" for number, text in sentences]
        if split == "test":
            lines.append("vid5555\tof no known video\n")
        _text(folder / f"sents_{split}_lc_nopunc.txt", "".join(lines))


def _uniperceiver(root: Path) -> None:
    _clips(root / "YouTubeClips")
    _labels(root / "txt_labels")
    number = 0
    for split, sentences in SENTENCES.items():
        content: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": []}
        for video_number in dict.fromkeys(number for number, _ in sentences):
            content["images"].append({"id": video_number, "file_name": _NAMES[f"vid{video_number}"]})
        for video_number, text in sentences:
            number += 1
            content["annotations"].append({"image_id": video_number, "id": number, "caption": text.strip()})
        _text(root / f"new_annotations/caption_msvd_{split}_cocostyle.json", json.dumps(content))


def _snps3(raw: Path) -> None:
    _clips(raw / "YouTubeClips")
    for split in ("train", "test"):
        rows = [
            {"caption": text, "clip_name": f"{_NAMES[f'vid{number}']}.avi", "sen_id": i}
            for i, (number, text) in enumerate(SENTENCES[split])
        ]
        _json_lines(raw / f"msvd_retrieval/MSVD_{split}.jsonl", rows)


def _json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    _text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")
