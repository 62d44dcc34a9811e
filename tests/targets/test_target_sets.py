"""Target sets: built, saved, loaded, imported; the tokenizers that make their tokens."""

import gzip
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import models, pre_tokenizers

from diptych.data.targets.build import build, import_pickle
from diptych.data.targets.target_set import NAMES_FILE, TOKENS_FILE, TargetSet, summary
from diptych.data.targets.tokens import (
    PERCEIVER_TOKENS,
    TargetTokenizer,
    clip_tokenizer,
    load_tokenizer,
    read_merges,
)
from diptych.data.text import Tokenizer
from diptych.errors import DataError, UsageError

WORDS = ("a", "photo", "of", "no", "yes", "maybe", "red", "kite", "[SEP]")
END = len(WORDS) - 1


@pytest.fixture
def words() -> TargetTokenizer:
    """A tokenizer of whole words: the id is the place in `WORDS`."""
    raw = RawTokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[SEP]"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return TargetTokenizer(raw, "words")


def rows(targets: TargetSet) -> list[list[int]]:
    assert targets.tokens is not None
    return [row.tolist() for row in targets.tokens.rows()]


def test_names_become_tokens_with_an_end(words: TargetTokenizer) -> None:
    (targets,) = build("mnli", words)
    assert targets.classes == (("no",), ("maybe",), ("yes",))
    assert rows(targets) == [[3, END], [5, END], [4, END]]


def test_synonyms_and_prompts_are_rows_of_their_class(words: TargetTokenizer, tmp_path: Path) -> None:
    path = tmp_path / "toys.txt"
    path.write_text("\ufeffred kite\tkite\r\nyes\n", encoding="utf-8")
    (targets,) = build(str(path), words, ("{}", "a photo of {}"))
    assert (targets.name, targets.classes) == ("toys", (("red kite", "kite"), ("yes",)))
    assert rows(targets) == [
        [6, 7, END],
        [0, 1, 2, 6, 7, END],
        [7, END],
        [0, 1, 2, 7, END],
        [4, END],
        [0, 1, 2, 4, END],
    ]
    assert targets.tokens is not None
    assert targets.tokens.classes.tolist() == [0, 0, 0, 0, 1, 1]
    ids, mask = targets.tokens.padded(pad=99)
    assert ids[2].tolist() == [7, END, 99, 99, 99, 99]
    assert mask.sum(1).tolist() == [3, 6, 2, 5, 2, 5]


def test_the_vocabulary_is_a_pair_for_each_token(words: TargetTokenizer) -> None:
    (targets,) = build("vocabulary", words)
    assert rows(targets) == [[i, END] for i in range(len(WORDS))]
    assert targets.classes == tuple((word,) for word in WORDS)
    for wrong in (build, lambda what: build(what, words, ("a {}",))):
        with pytest.raises(UsageError, match="the vocabulary is that of a tokenizer"):
            wrong("vocabulary")


def test_glue_is_a_set_for_each_task() -> None:
    assert [targets.name for targets in build("glue")] == [
        "cola",
        "sst-2",
        "mrpc",
        "qqp",
        "mnli",
        "qnli",
        "rte",
        "wnli",
        "ax",
    ]


def test_lists_of_files_and_datasets(tmp_path: Path) -> None:
    answers = ["", "yes", "no"]
    (tmp_path / "answers.json").write_text(json.dumps(answers))
    (tmp_path / "dataset.json").write_text(json.dumps({"facts": {"answers": answers}}))
    from_file, from_dataset = build(str(tmp_path / "answers.json"))[0], build(str(tmp_path), name="vqa")[0]
    assert from_file.classes == from_dataset.classes == (("",), ("yes",), ("no",))
    assert from_dataset.name == "vqa"
    (tmp_path / "lists.json").write_text('[["kite", "toy kite"], "red"]')
    assert build(str(tmp_path / "lists.json"))[0].classes == (("kite", "toy kite"), ("red",))


def test_an_empty_answer_is_the_end_alone(words: TargetTokenizer, tmp_path: Path) -> None:
    (tmp_path / "answers.json").write_text('["", "yes"]')
    assert rows(build(str(tmp_path / "answers.json"), words)[0]) == [[END], [4, END]]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.txt", "a\n\nb\n", "line 2 is blank"),
        ("x.txt", "", "line 1 is blank"),
        ("x.json", "{}", "expected a list of names, got dict"),
        ("x.json", "[]", "expected a list of names"),
        ("x.json", "[1]", "entry 0: expected a name or a list of names"),
        ("x.json", "[[]]", "entry 0"),
        ("x.json", "[", "is no JSON"),
        ("dataset.json", '{"facts": {}}', "hold neither answers nor classes"),
        ("dataset.json", "[]", "expected a prepared dataset"),
    ],
)
def test_lists_of_another_form(name: str, content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=words):
        build(str(tmp_path if name == "dataset.json" else tmp_path / name))


def test_names_that_are_none() -> None:
    with pytest.raises(UsageError, match=r"no target set 'kinetics-40'; did you mean 'kinetics-400'"):
        build("kinetics-40")
    with pytest.raises(UsageError, match=r"trainval_label2ans\.pkl"):
        build("vqa")
    with pytest.raises(UsageError, match=r"expected one .\{\}."):
        build("mnli", None, ("a photo",))


def test_saved_and_loaded(words: TargetTokenizer, tmp_path: Path) -> None:
    for tokenizer in (words, None):
        (targets,) = build("snli-ve", tokenizer, ("a {}",))
        targets.save(tmp_path / "set")
        again = TargetSet.load(tmp_path / "set")
        assert (again.name, again.classes, again.prompts, again.source) == (
            "snli-ve",
            (("contradiction",), ("neutral",), ("entailment",)),
            ("a {}",),
            "the list 'snli-ve' of Diptych",
        )
        assert (tmp_path / "set" / TOKENS_FILE).exists() == (tokenizer is not None)
    first, second = (tmp_path / name for name in "ab")
    for folder in (first, second):
        build("mnli", words)[0].save(folder)
    assert [p.read_bytes() for p in sorted(first.iterdir())] == [
        p.read_bytes() for p in sorted(second.iterdir())
    ]
    loaded = TargetSet.load(first)
    assert rows(loaded) == [[3, END], [5, END], [4, END]]
    assert loaded.tokens is not None
    assert loaded.tokens.tokenizer.end == "[SEP]"
    loaded.check_tokenizer(words.fingerprint)
    with pytest.raises(DataError, match="was made with the tokenizer words"):
        loaded.check_tokenizer("f" * 64)
    with pytest.raises(DataError, match="has no tokens"):
        build("mnli")[0].check_tokenizer(words.fingerprint)
    assert summary(loaded)["longest row"] == 2


def test_damaged_sets(words: TargetTokenizer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a target set"):
        TargetSet.load(tmp_path)
    build("mnli", words)[0].save(tmp_path)
    names = json.loads((tmp_path / NAMES_FILE).read_text())
    for change, message in (
        ({"format": 7}, "of format 1"),
        ({"tokenizer": {"name": "x"}}, "no complete target set"),
        ({"classes": [["no"]]}, "classes that are not in"),
    ):
        (tmp_path / NAMES_FILE).write_text(json.dumps({**names, **change}))
        with pytest.raises(DataError, match=message):
            TargetSet.load(tmp_path)
    (tmp_path / NAMES_FILE).write_text(json.dumps(names))
    (tmp_path / TOKENS_FILE).write_bytes(b"nothing")
    with pytest.raises(DataError, match="build the target set anew"):
        TargetSet.load(tmp_path)


def pickled(path: Path, content: Any) -> Path:
    path.write_bytes(pickle.dumps(content))
    return path


def test_published_tokens_are_imported(words: TargetTokenizer, tmp_path: Path) -> None:
    data: list[Any] = [torch.tensor([6, 7, END]), [torch.tensor([4, END]), torch.tensor([3, END])]]
    path = pickled(tmp_path / "toy_class_name_CLIP_with_endoftext.pkl", {"data": data, "modality": "text"})
    named = import_pickle(path, words)
    assert (named.name, named.classes) == ("toy_class_name", (("red kite",), ("yes", "no")))
    assert rows(named) == [[6, 7, END], [4, END], [3, END]]
    # What is built from the names is what was imported.
    rebuilt = TargetSet(named.name, named.classes, "", named.prompts)
    assert [words.encode(text) for _, text in rebuilt.texts()] == rows(named)
    bare = import_pickle(path, name="toys")
    assert (bare.name, bare.classes) == ("toys", ((), ()))
    assert bare.tokens is not None
    assert (bare.tokens.tokenizer.end_id, bare.tokens.classes.tolist()) == (END, [0, 1, 1])
    bare.save(tmp_path / "out")
    TargetSet.load(tmp_path / "out").check_tokenizer("anything")


def test_answers_are_imported_in_their_order(words: TargetTokenizer, tmp_path: Path) -> None:
    listed = import_pickle(pickled(tmp_path / "trainval_label2ans.pkl", ["", "yes", "no"]), words)
    numbered = import_pickle(pickled(tmp_path / "trainval_ans2label.pkl", {"no": 2, "": 0, "yes": 1}), words)
    assert listed.classes == numbered.classes == (("",), ("yes",), ("no",))
    assert rows(listed) == rows(numbered) == [[END], [4, END], [3, END]]


@pytest.mark.parametrize(
    ("content", "words_of_it"),
    [
        ({"no": 1, "yes": 1}, "numbers 0, 1, 2"),
        ({"no": True, "yes": 0}, "numbers 0, 1, 2"),
        ([{"question_id": 1, "image_id": 2, "labels": [3], "scores": [1.0]}], "targets of questions"),
        ({"data": [], "modality": "text"}, "expected a list of tokens"),
        ({"data": ["kite"], "modality": "text"}, "class 0: expected rows of token ids"),
        ({"data": [[]], "modality": "text"}, "class 0: expected rows"),
        (
            {"data": [torch.tensor([1, END]), torch.tensor([1])], "modality": "text"},
            "end with the same token",
        ),
        ({"data": [torch.tensor([1, 3])], "modality": "text"}, "it did not make them"),
        ({"data": [torch.tensor([99, END])], "modality": "text"}, "it did not make them"),
        (3, "expected a list of names, got int"),
    ],
)
def test_pickles_of_something_else(
    content: Any, words_of_it: str, words: TargetTokenizer, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=words_of_it):
        import_pickle(pickled(tmp_path / "x.pkl", content), words)


def test_any_tokenizer_file(tmp_path: Path) -> None:
    Tokenizer.train(["a red kite", "a kite"] * 3, 60).save(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer.end == "[SEP]"
    assert tokenizer.decode(tokenizer.encode("A red kite")) == "a red kite"
    assert load_tokenizer(str(tmp_path / "tokenizer.json"), "[CLS]").end == "[CLS]"
    assert tokenizer.fingerprint == load_tokenizer(str(tmp_path)).fingerprint
    with pytest.raises(DataError, match="has no token <end> to end a text"):
        load_tokenizer(str(tmp_path), "<end>")
    with pytest.raises(DataError, match="expected clip, uniperceiver, or a tokenizers JSON"):
        load_tokenizer(str(tmp_path / "none.json"))
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(DataError, match="not a tokenizers JSON file"):
        load_tokenizer(str(tmp_path / "bad.json"))


MERGES = [("c", "a"), ("ca", "t</w>"), ("t", "h"), ("th", "e</w>"), ("i", "t</w>")]


def slow_bpe(word: str) -> list[str]:
    """Join the pair that stands first in `MERGES`, again and again."""
    parts = [*word[:-1], f"{word[-1]}</w>"]
    while True:
        pairs = [(parts[i], parts[i + 1]) for i in range(len(parts) - 1)]
        known = [pair for pair in MERGES if pair in pairs]
        if not known:
            return parts
        at = pairs.index(known[0])
        parts[at : at + 2] = ["".join(known[0])]


def test_clip_from_its_merges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diptych.data.targets.tokens.packaged_merges", lambda: tuple(MERGES))
    tokenizer = load_tokenizer("clip")
    assert (tokenizer.size, tokenizer.end_id) == (512 + len(MERGES) + 2, 512 + len(MERGES) + 1)
    more = load_tokenizer("uniperceiver")
    assert (more.size, more.end_id) == (tokenizer.size + len(PERCEIVER_TOKENS), tokenizer.end_id)
    names = tokenizer.tokens()
    text = "The CAT   sat it's"
    expected = [part for word in ("the", "cat", "sat", "it", "'s") for part in slow_bpe(word)]
    assert [names[i] for i in tokenizer.encode(text)] == [*expected, "<|endoftext|>"]
    assert tokenizer.decode(tokenizer.encode(text)) == "the cat sat it 's"


def test_merges_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "x.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match="gzipped merges"):
        read_merges(tmp_path / "x.gz")
    with gzip.open(tmp_path / "x.gz", "wt") as file:
        file.write("#version\na b c\n")
    with pytest.raises(DataError, match="two pieces a line"):
        read_merges(tmp_path / "x.gz")


def test_clip_as_published() -> None:
    """Ids of the published tokenizer (open_clip and Uni-Perceiver's agree on them)."""
    tokenizer = load_tokenizer("uniperceiver")
    assert (tokenizer.size, load_tokenizer("clip").size) == (49_411, 49_408)
    for text, ids in {
        "a photo of a dog.": [320, 1125, 539, 320, 1929, 269],
        "left right": [1823, 1155],
        "<|spe|>": [49_410],
        "abseiling": [596, 567, 3299],
    }.items():
        assert tokenizer.encode(text) == [*ids, 49_407]


def test_bytes_of_every_kind_have_a_letter() -> None:
    tokenizer = TargetTokenizer(clip_tokenizer([]), "bytes")
    text = "aé北\x85"
    ids = tokenizer.encode(text)
    assert len(ids) == len("aé北".encode()) + 1
    assert np.unique(ids).size == len(ids)
