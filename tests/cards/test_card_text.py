"""The cards `bookswiki` and `glue` on their miniatures."""

import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from card_checks import Prepared
from hypothesis import given
from hypothesis import strategies as st

from diptych.data.cards.base import LeftOut
from diptych.data.cards.bookswiki_text import Line, passages, sentences
from diptych.data.miniatures.text import GLUE, make_bookswiki, make_bookswiki_tables, make_glue
from diptych.data.prepare import load_card
from diptych.data.sample import Sample
from diptych.errors import DataError, UsageError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import webdataset

BOTH = ["", "uniperceiver"]


@pytest.fixture(scope="module", params=BOTH)
def books(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return Prepared("bookswiki", tmp_path_factory.mktemp("books"), request.param, words="8")


@pytest.fixture(scope="module", params=BOTH)
def glue(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return Prepared("glue", tmp_path_factory.mktemp("glue"), request.param)


@pytest.mark.slow
def test_passages_of_the_text(books: Prepared) -> None:
    # Five passages, and 2,000 words in pieces of eight.
    assert books.counts() == {"train": 5 + 250, "val": 2}
    assert books.summary.problems == {}
    short = {key: s for key, s in books.samples.items() if "-000000012-" not in key}
    assert {key: s.captions for key, s in short.items()} == {
        "bookswiki-000000002": ("The cat, so they say, sat on “the” café's mat .",),
        "bookswiki-000000003": ("It slept.",),
        "bookswiki-000000006": ("Another document begins here.\n...\nNUL inside and a tab.",),
        "bookswiki-000000010": ("Still the same document.",),
        "bookswiki-000000013": ("The last line has no end",),
        "bookswiki-1000-000000001": ("It slept.",),
        "bookswiki-1000-000000003": ("Another document begins here.",),
    }
    assert short["bookswiki-000000006"].meta == {"source": "bookswiki", "lines": 3, "words": 10}
    assert books.samples["bookswiki-000000012-249"].captions == (" ".join(["w" * 49] * 8),)
    books.check()


def converted(name: str, raw: Path, layout: str = "", **options: str) -> list[Sample | LeftOut]:
    card = load_card(name)
    form = card.layouts[layout] if layout else card
    return list(form.convert(raw, options))  # type: ignore[arg-type]


def test_borders_of_documents_may_be_ignored(tmp_path: Path) -> None:
    make_bookswiki(tmp_path)
    found = converted("bookswiki", tmp_path, words="8", borders="ignore")
    assert [s.captions[0] for s in found[:2] if isinstance(s, Sample)] == [
        "The cat, so they say, sat on “the” café's mat .",
        "It slept.\nAnother document begins here.\n...\nNUL inside and a tab.",
    ]


def test_halves_are_put_together_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "bc1g.doc").write_bytes(b"a book\n")
    (tmp_path / "wiki.doc").write_bytes(b"an article \xff\n")
    found = converted("bookswiki", tmp_path)
    assert [(s.key, s.captions) for s in found if isinstance(s, Sample)] == [
        ("wiki-000000001", ("an article \ufffd",)),
        ("bc1g-000000001", ("a book",)),
    ]


def test_the_small_file_alone_is_for_training(tmp_path: Path) -> None:
    make_bookswiki(tmp_path, "uniperceiver")
    (tmp_path / "bert_pretrain_data/bookswiki/bookswiki.doc").unlink()
    found = converted("bookswiki", tmp_path, "uniperceiver")
    assert [s.split for s in found if isinstance(s, Sample)] == ["train", "train"]


def test_tables_of_articles_and_of_sentences(tmp_path: Path) -> None:
    make_bookswiki_tables(tmp_path)
    found = converted("bookswiki", tmp_path, words="8")
    assert [(s.key, s.captions[0]) for s in found if isinstance(s, Sample)] == [
        ("wikipedia-12-1", 'A kite flies.\nDr. J. Smith wrote: "It flies!"'),
        ("wikipedia-12-3", "He was right.\nHistory\nKites are old."),
        ("wikipedia-7-1", "Ada lived in 1843."),
        ("bookcorpus-000000001", "she sat down ."),
        ("bookcorpus-000000003", "`` no , '' he said ."),
    ]


def test_sentences_end_before_capitals_but_not_behind_abbreviations() -> None:
    text = "It is 3.5 m. Mr. Fox e.g. ran! “Why?” He… stopped. A. B. Doe (b. 1900) left. 12 stayed"
    assert list(sentences(text)) == [
        "It is 3.5 m.",
        "Mr. Fox e.g. ran!",
        "“Why?”",
        "He… stopped.",
        "A. B. Doe (b. 1900) left.",
        "12 stayed",
    ]


def slow_passages(texts: Iterable[str], words: int) -> list[str]:
    """Documents apart, then words by counting; for lines that are not cut."""
    found: list[str] = []
    for document in "\n".join(texts).split("\n\n"):
        held: list[str] = []
        for line in document.split("\n"):
            if len(" ".join(held).split()) >= words:
                found.append("\n".join(held))
                held = []
            held += [line] if line else []
        found += ["\n".join(held)] if held else []
    return found


@pytest.mark.slow
@given(
    st.lists(st.sampled_from(["", "one", "two words", "one two three", "a b c d"]), max_size=12),
    st.integers(1, 6),
)
def test_passages_against_a_slow_rule(texts: list[str], words: int) -> None:
    found = list(passages([Line(str(i), text) for i, text in enumerate(texts)], words))
    assert ["\n".join(p.lines) for p in found] == slow_passages(texts, words)
    assert [texts[int(p.key)] for p in found] == [p.lines[0] for p in found]


def test_bookswiki_without_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected bookswiki\.doc or bookswiki_v2\.txt, or wiki\.doc"):
        converted("bookswiki", tmp_path)
    with pytest.raises(UsageError, match="words=0: expected a whole number from 1"):
        converted("bookswiki", tmp_path, words="0")
    (tmp_path / "wikipedia").mkdir()
    (tmp_path / "wikipedia/a.parquet").write_bytes(b"no table")
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read as Parquet"):
        converted("bookswiki", tmp_path)


@pytest.mark.slow
def test_tasks_of_glue(glue: Prepared) -> None:
    counted = {name: count for name, count in glue.counts().items() if count != 1}
    assert counted == {"cola_train": 2, "cola_test": 2, "sst-2_train": 3, "qqp_train": 2}
    assert len(glue.counts()) == 30
    damaged = glue.left_out()["bad entry"]
    assert damaged[-1] == (
        "mnli-val-1: MNLI: expected a label among contradiction, neutral, entailment, got '-'"
    )
    # Uni-Perceiver's preparation has dropped the damaged row of QQP already.
    raw = glue.out.name == "out_"
    assert damaged[:-1] == (["qqp-train-1: QQP: expected 6 fields, got 4"] if raw else [])
    glue.check()


def test_sentences_and_labels_of_glue(glue: Prepared) -> None:
    found = {
        key: (s.captions, s.meta.get("label"), s.meta.get("class_name")) for key, s in glue.samples.items()
    }
    for key, expected in {
        "cola-train-0": (("The sailors rode the breeze.",), 1, "correct"),
        "cola-train-1": (('The "naïve" more, he left.',), 0, "incorrect"),
        "cola-test-1": (("Was that?",), None, None),
        "sst-2-train-0": (("hide new secretions",), 0, "bad"),
        "sst-2-test-0": (("uneasy mishmash",), None, None),
        "mrpc-train-0": (('He said "yes.', "He agreed."), 1, "yes"),
        "qqp-val-0": (("Who?", "Who is it?"), 1, "yes"),
        "qqp-test-0": (("Would it?", "Could it?"), None, None),
        "mnli-train-0": (("It has two sides.", "It has sides."), 2, "yes"),
        "mnli-val-0": (("New.", "Old."), 0, "no"),
        "mnli-val_mismatched-0": (("You.", "Me."), 1, "maybe"),
        "qnli-train-0": (("When?", "In 1950."), 1, "yes"),
        "rte-train-0": (("No weapons.", "Weapons."), 0, "no"),
        "wnli-val-0": (("The drain.", "The hair."), 0, "no"),
        "ax-test-0": (("The cat sat.", "The cat did not sit."), None, None),
    }.items():
        assert found[key] == expected, key
    scored = glue.samples["sts-b-train-0"].meta
    assert (scored["score"], scored["target"]) == (4.25, 0.85)
    assert "score" not in glue.samples["sts-b-test-0"].meta
    assert glue.column("index")["sst-2-train-2"] == 2


def test_glue_reads_as_any_webdataset(glue: Prepared) -> None:
    shards = [str(glue.out / shard["file"]) for shard in glue.dataset.info["shards"]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # webdataset leaves files open
        read = {s["__key__"]: s["txt"].decode() for s in webdataset.WebDataset(shards, shardshuffle=False)}
    assert read == {key: sample.captions[0] for key, sample in glue.samples.items()}


def test_chosen_tasks_and_zips(tmp_path: Path) -> None:
    for task in ("RTE", "QNLI"):
        name = "QNLIv2.zip" if task == "QNLI" else "RTE.zip"
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for path, lines in GLUE.items():
                if path.startswith(f"{task}/"):
                    archive.writestr(path, "\n".join(lines))
    found = converted("glue", tmp_path, tasks="rte,qnli")
    assert [getattr(s, "key", "") for s in found] == [
        f"{task}-{split}-0" for task in ("qnli", "rte") for split in ("train", "val", "test")
    ]
    with pytest.raises(DataError, match=r"CoLA/train\.tsv, CoLA/dev\.tsv, .* and 18 others not there"):
        converted("glue", tmp_path)
    with pytest.raises(UsageError, match="unknown 'rt'; did you mean 'rte'"):
        converted("glue", tmp_path, tasks="rt")


def test_mrpc_as_microsoft_distributes_it(tmp_path: Path) -> None:
    head = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    (tmp_path / "MRPC").mkdir()
    (tmp_path / "MRPC/msr_paraphrase_train.txt").write_text(
        head + '1\t7\t8\tHe said "a.\tA.\n0\t5\t6\tUp.\tDown.\n1\t3\t4\tx\ty\n', encoding="utf-8"
    )
    (tmp_path / "MRPC/msr_paraphrase_test.txt").write_text(head + "1\t1\t2\tOne.\tTwo.\n", encoding="utf-8")
    (tmp_path / "MRPC/dev_ids.tsv").write_text("5\t6\n")
    found = [s for s in converted("glue", tmp_path, tasks="mrpc") if isinstance(s, Sample)]
    assert [(s.key, s.captions, s.meta.get("label")) for s in found] == [
        ("mrpc-train-0", ('He said "a.', "A."), 1),
        ("mrpc-train-1", ("x", "y"), 1),
        ("mrpc-val-0", ("Up.", "Down."), 0),
        ("mrpc-test-0", ("One.", "Two."), None),
    ]


def test_the_full_diagnostic_set(tmp_path: Path) -> None:
    (tmp_path / "diagnostic").mkdir()
    (tmp_path / "diagnostic/diagnostic-full.tsv").write_text(
        "Lexical Semantics\tLogic\tKnowledge\tDomain\tPremise\tHypothesis\tLabel\n"
        "\tNegation\t\tArtificial\tThe cat sat.\tNo cat sat.\tcontradiction\n"
    )
    (found,) = converted("glue", tmp_path, tasks="ax")
    assert isinstance(found, Sample)
    assert (found.key, found.captions) == ("ax-test-0", ("The cat sat.", "No cat sat."))


def test_a_score_that_is_none(tmp_path: Path) -> None:
    make_glue(tmp_path)
    path = tmp_path / "STS-B/dev.tsv"
    row = path.read_text().splitlines()[1]
    path.write_text("\n".join(row.replace("5.000", score) for score in ("5.1", "nan", "x", "0.000")))
    found = converted("glue", tmp_path, tasks="sts-b")
    left = [f.detail for f in found if isinstance(f, LeftOut)]
    assert left == [f"STS-B: expected a score from 0 to 5, got '{score}'" for score in ("5.1", "nan", "x")]
    assert next(f for f in found if getattr(f, "key", "") == "sts-b-val-3").meta["target"] == 0  # type: ignore[union-attr]
