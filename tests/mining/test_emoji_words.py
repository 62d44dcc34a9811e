"""The list of words that ships, and counting without a tokenizer."""

import json
from pathlib import Path

from diptych.cli.main import run
from diptych.data.cards.emoji_clips_plan import BACKWARDS, kind_of
from diptych.data.cards.emoji_words import kinds


def test_the_list_knows_things_colours_and_events() -> None:
    found = kinds()
    assert (found["dog"], found["dogs"], found["pink"], found["changes"]) == ("NOUN", "NOUN", "ADJ", "VERB")
    assert not {"of", "a", "tile", "left"} & found.keys()
    assert {event.split()[0] for event in (*BACKWARDS, "changes")} <= found.keys()
    assert all(kind_of(event) for event in BACKWARDS)


def test_words_are_counted_without_a_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text(
        "a Dog moves left, a dog on a pink tile grows\ntwo cats stay still\n"
    )
    arguments = ["--out", str(tmp_path / "words"), "--tagger", "emoji", "--workers", "1"]
    assert run(["words", "mine", str(tmp_path / "captions.txt"), *arguments]) == 0
    counts = json.loads((tmp_path / "words" / "counts.json").read_text())
    assert counts == {
        "VERB": {"moves": 1, "grows": 1, "stay": 1},
        "NOUN": {"Dog": 1, "dog": 1, "cats": 1},
        "ADJ": {"pink": 1},
        "NUM": {},
    }
    assert not (tmp_path / "words" / "words.json").exists()
