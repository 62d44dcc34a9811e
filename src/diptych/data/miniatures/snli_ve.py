"""Miniature of the card `snli-ve`."""

import json
from pathlib import Path
from typing import Any

from diptych.data.miniatures.media import picture


def entry(number: int, pair: str, hypothesis: str, label: str) -> dict[str, Any]:
    """Return a line of the annotations as their owners write it."""
    return {
        "annotator_labels": [label] * 5,
        "captionID": f"{number}.jpg#{pair[-3]}",
        "gold_label": label,
        "pairID": f"{number}.jpg#{pair}",
        "sentence1": "Two people stand.",
        "sentence1_binary_parse": "( ( Two people ) stand )",
        "sentence1_parse": "(ROOT (S (NP Two people) (VP stand)))",
        "sentence2": hypothesis,
        "sentence2_binary_parse": "( )",
        "sentence2_parse": "(ROOT)",
        "Flikr30kID": str(number),
    }


LINES: dict[str, list[dict[str, Any] | str]] = {
    "train": [
        entry(3705, "2r1n", '  A man, say "José",  is   outside. ', "neutral"),
        entry(1417, "4r1e", "Two people stand.", "entailment"),
        entry(3705, "2r1c", "Nobody is there.", "contradiction"),
        entry(3705, "2r1c", "Nobody is there.", "contradiction"),
        entry(9999, "0r1e", "The picture is gone.", "entailment"),
        entry(1417, "4r1n", "They wait.", "-"),
        "{not JSON",
        {**entry(1417, "4r1c", "They sit.", "contradiction"), "Flikr30kID": "1417.jpg"},
    ],
    "dev": [entry(88, "1r1e", "Two people stand.", "entailment")],
    "test": [
        entry(12, "0r1n", "It rains.", "neutral"),
        entry(12, "0r1x", "It snows.", "maybe"),
        entry(5, "3r1c", "A broken picture.", "contradiction"),
    ],
}
"""Photographs out of order, a repeated pair, labels that are none, a damaged line."""

COLOURS = {3705: 1, 1417: 2, 88: 3, 12: 4, 77: 5}
"""Photograph -> colour; nobody refers to 77."""


def make_snli_ve(raw: Path, layout: str = "") -> None:
    """Write the three files and the photographs: one is not there, one is cut off."""
    (raw / "flickr30k-images").mkdir(parents=True, exist_ok=True)
    for name, lines in LINES.items():
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (raw / f"snli_ve_{name}.jsonl").write_text("\n".join(texts) + "\n", encoding="utf-8")
    for number, colour in COLOURS.items():
        (raw / f"flickr30k-images/{number}.jpg").write_bytes(picture(colour))
    (raw / "flickr30k-images/5.jpg").write_bytes(picture(6)[:20])
