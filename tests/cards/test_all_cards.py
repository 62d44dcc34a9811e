"""Every card and every layout: miniature -> shards -> everything read back, and what the pages say of it."""

import ast
import json
import math
import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import diptych
from diptych.cli.main import run as diptych_command
from diptych.data.cards import CARDS
from diptych.data.cards.base import Card, LeftOut, Unread
from diptych.data.cards.usage import commands, prepare_command, target_command
from diptych.data.config import DataConfig
from diptych.data.index import ShardDataset
from diptych.data.loader import Loader
from diptych.data.members import whole
from diptych.data.prepare import Summary, load_card, make_miniature, prepare
from diptych.data.sample import Sample
from diptych.data.sources import open_sources
from diptych.data.verify import verify

ROOT = Path(diptych.__file__).parents[2]
WANTED = """
    imagenet-1k imagenet-21k bookswiki coco-caption coco-2017 yfcc15m cc12m cc3m visual-genome sbu
    kinetics-400 kinetics-700 moments-in-time flickr30k msvd msr-vtt glue vqa-v2 nlvr2 didemo webvid
    internvid msrvtt-qa msvd-qa msrvtt-mc snli-ve emoji emoji-scenes retrieval-json vqa-json nlvr-json
"""
"""The list of issue 5."""
SHIPPED = ("emoji", "emoji-scenes", "emoji-clips", "emoji-glue")
"""Need no raw files, so they have no miniature."""
FORMS = [(name, layout) for name in CARDS if name not in SHIPPED for layout in ("", *load_card(name).layouts)]
OWN = [name for name in CARDS if name not in SHIPPED]
PARALLEL = ("coco-caption", "vqa-v2", "cc3m", "kinetics-400", "msr-vtt", "glue")
BY_COMMAND = [("cc3m", "uniperceiver"), ("vqa-json", ""), ("moments-in-time", ""), ("snli-ve", "")]


@dataclass(frozen=True)
class Prepared:
    """A miniature, its shards, and what both hold."""

    card: Card
    layout: str
    raw: Path
    out: Path
    summary: Summary
    samples: dict[str, Sample]
    drawn: list[Sample | Unread | LeftOut]
    """What the card yields."""


@cache
def prepared(name: str, layout: str, folder: Path) -> Prepared:
    card, raw, out = load_card(name), folder / "raw", folder / "out"
    make_miniature(card, raw, layout)
    summary = prepare(card, raw, out, options=card.example, layout=layout)
    rows = ShardDataset.open(out).select()
    read = {sample.key: sample for sample in map(rows.read, range(len(rows)))}
    convert = card.layouts[layout].convert if layout else card.convert
    return Prepared(card, layout, raw, out, summary, read, list(convert(raw, card.example)))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    return defaultdict(lambda: tmp_path_factory.mktemp("card") / "form")


@pytest.fixture(params=FORMS, ids=lambda form: "-".join(filter(None, form)))
def form(request: pytest.FixtureRequest, folders: dict[tuple[str, str], Path]) -> Prepared:
    return prepared(*request.param, folders[request.param])


@pytest.fixture(params=OWN)
def own(request: pytest.FixtureRequest, folders: dict[tuple[str, str], Path]) -> Prepared:
    return prepared(request.param, "", folders[request.param, ""])


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files of a dataset, without what is made on first use."""
    files = (path for path in folder.rglob("*") if path.is_file() and ".diptych" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_the_cards_of_the_issue_are_there() -> None:
    assert set(CARDS) >= set(WANTED.split())


@pytest.mark.parametrize("name", CARDS)
def test_a_card_says_everything(name: str) -> None:
    card = load_card(name)
    assert card.name == name
    for text in (card.title, card.description, card.licence, card.prepared, card.oddities):
        assert text == text.strip() != ""
    assert card.splits
    assert card.miniature or name in SHIPPED
    assert card.citation or card.homepage or name.endswith("-json")
    assert set(card.example) <= set(card.options)
    assert card.shard_size == (500 if card.media == "video" else 5000)
    for layout in card.layouts.values():
        assert layout.description
        assert layout.sources


@pytest.mark.slow
def test_every_caption_survives(form: Prepared) -> None:
    expected: dict[str, Sample] = {}
    for item in form.drawn:
        if not isinstance(item, LeftOut):
            sample = item.sample if isinstance(item, Unread) else item
            expected.setdefault(sample.key, sample)
    assert set(form.samples) <= set(expected)
    lost = len(expected) - len(form.samples)
    unusable = [cause for cause in form.summary.problems if re.match("unreadable|truncated|no video", cause)]
    assert lost == sum(form.summary.problems[cause] for cause in unusable)
    for key, read in form.samples.items():
        sample = expected[key]
        captions = tuple(whole(text) for text in sample.captions if text.strip())
        assert (read.captions, read.split) == (captions, sample.split)
        assert read.match_id == sample.match_id
        assert read.meta == json.loads(json.dumps(dict(sample.meta)))
        assert len({name.rpartition(".")[0] for name in read.media}) == len(read.media)


@pytest.mark.slow
def test_captions_are_tidy(form: Prepared) -> None:
    """Blanks are squeezed, but in text that is lines, and in lists that are taken as they are."""
    if form.card.name == "retrieval-json":
        pytest.skip("takes texts as they are")
    for sample in form.samples.values():
        for caption in sample.captions:
            assert caption == (
                caption.strip() if form.card.name == "bookswiki" else " ".join(caption.split())
            )


@pytest.mark.slow
def test_all_that_was_left_out_is_counted(form: Prepared) -> None:
    counted: dict[str, int] = defaultdict(int)
    for item in form.drawn:
        if isinstance(item, LeftOut):
            counted[item.cause] += 1
    for cause, number in counted.items():
        assert form.summary.problems[cause] >= number
    named = form.summary.examples
    assert set(named) == set(form.summary.problems)
    assert all(re.fullmatch(r".+: .+", line, re.DOTALL) for lines in named.values() for line in lines)
    assert set(form.summary.problems) <= documented_causes()


@pytest.mark.slow
def test_every_byte_is_as_written(form: Prepared) -> None:
    verdict = verify(form.out)
    assert verdict.sound, list(map(str, verdict.damages))
    assert verdict.samples == len(form.samples) == form.summary.samples


@pytest.mark.slow
def test_splits_select_what_is_there(form: Prepared) -> None:
    dataset = ShardDataset.open(form.out)
    # One question for all splits: `select` asks once for each.
    asked = ", ".join(f"({split.where}) is true as s{i}" for i, split in enumerate(form.card.splits.values()))
    table = dataset.query(f"select key, {asked} from samples").to_pylist()
    selected = {name: [r["key"] for r in table if r[f"s{i}"]] for i, name in enumerate(form.card.splits)}
    assert form.summary.splits == {name: len(keys) for name, keys in selected.items()}
    # Every sample is in a split that a user can name.
    assert {key for keys in selected.values() for key in keys} == set(form.samples)
    # What the whole dataset has is not what the miniature has: it says so.
    expected = {name for name, split in form.card.splits.items() if split.expected or split.texts}
    warned = {re.findall("'([^']*)'", line)[0] for line in form.summary.warnings}
    assert warned == expected


def test_an_epoch_of_the_loader(form: Prepared) -> None:
    if form.card.media != "image":
        pytest.skip("no pictures")
    found = {
        name
        for sample in form.samples.values()
        for name in ("questions", "statements")
        if sample.meta.get(name)
    }
    examples = next(iter(found)) if found else "samples"
    config = DataConfig.model_validate(
        {
            "path": str(form.out),
            "examples": examples,
            "image": {"size": 16},
            "loader": {"batch_size": 3, "on_error": "raise", "shuffle": False},
        }
    )
    loader = Loader(open_sources(config), config, None, seed=1)
    batches = [next(batch) for batch in [iter(loader)] * math.ceil(loader.batches_per_epoch)]
    usable = {
        key for key, sample in form.samples.items() if examples == "samples" or sample.meta.get(examples)
    }
    assert {key for batch in batches for key in batch.keys} == usable
    for batch in batches:
        assert batch.images is not None
        assert batch.images.dtype == torch.uint8
        assert batch.images.shape[-3:] == (3, 16, 16)
        assert not batch.skipped


# webdataset leaves the files to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_webdataset_reads_it(own: Prepared) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import webdataset

        tars = [str(path) for path in sorted(own.out.glob("*.tar"))]
        read = list(webdataset.WebDataset(tars, shardshuffle=False))
    assert [row["__key__"] for row in read] == list(own.samples)
    for row in read:
        sample = own.samples[row["__key__"]]
        assert json.loads(row["json"])["captions"] == list(sample.captions)
        assert {name: row[name] for name in sample.media} == dict(sample.media)


@pytest.mark.slow
def test_prepared_twice_gives_equal_bytes(own: Prepared, tmp_path: Path) -> None:
    prepare(own.card, own.raw, tmp_path / "again", options=own.card.example)
    assert contents(tmp_path / "again") == contents(own.out)
    make_miniature(own.card, tmp_path / "raw")
    assert contents(tmp_path / "raw") == contents(own.raw)


@pytest.mark.slow
@pytest.mark.parametrize("name", PARALLEL)
def test_two_workers_and_small_shards(
    name: str, tmp_path: Path, folders: dict[tuple[str, str], Path]
) -> None:
    card, raw = load_card(name), prepared(name, "", folders[name, ""]).raw
    one = prepare(card, raw, tmp_path / "one", shard_size=2)
    two = prepare(card, raw, tmp_path / "two", shard_size=2, workers=2)
    assert replace(one, out=two.out) == two
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "layout"), BY_COMMAND)
def test_the_commands_that_a_card_tells(
    name: str,
    layout: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    card = load_card(name)
    told = [command for command, _ in commands(card)]
    wanted = prepare_command(card, layout)
    assert wanted in told
    tiny = f"{told[0]} --layout {layout}" if layout else told[0]
    for command in (tiny, f"{wanted} --workers 1", f"diptych data verify data/{name}"):
        assert command.split()[0] == "diptych"
        assert diptych_command(command.split()[1:]) == 0
        printed = capsys.readouterr().out
    assert printed.endswith("all as written\n")
    if f"data/{name}" in target_command(card):
        assert diptych_command(["targets", "build", f"data/{name}", "--out", "targets"]) == 0


@cache
def documented_causes() -> set[str]:
    page = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    part = page[page.index("**Bad samples**") : page.index("### Workers and clusters")]
    return set(re.findall("`([^`]+)`", part))


@pytest.mark.slow
def test_the_page_names_every_cause_that_the_code_counts() -> None:
    elsewhere = {"damaged picture", "damaged video"}  # of `verify --decode`
    causes = set(causes_of_the_code())
    assert {"bad entry", "missing video", "no label", "rewritten key", "clip past the end"} <= causes
    assert causes - documented_causes() == elsewhere & causes


COUNTING = ("LeftOut", "BadSampleError", "MediumError", "PictureError", "Bad")


def causes_of_the_code() -> Iterator[str]:
    """Yield the short names that the package counts problems under."""
    folder = ROOT / "src/diptych/data"
    trees = [ast.parse(path.read_text()) for path in folder.rglob("*.py") if "acquire" not in path.parts]
    constants: dict[str, list[ast.expr]] = defaultdict(list)
    for tree in trees:
        for target, value in assignments(tree.body):
            constants[target].append(value)
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield from causes_of_a_call(node, constants)
        for target, value in assignments(ast.walk(tree)):
            if target == "cause":
                yield from texts(value, constants)


def assignments(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, ast.expr]]:
    for node in nodes:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        if isinstance(node, ast.Assign | ast.AnnAssign) and value is not None:
            yield from ((target.id, value) for target in targets if isinstance(target, ast.Name))


def causes_of_a_call(call: ast.Call, constants: Mapping[str, list[ast.expr]]) -> Iterator[str]:
    name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    if (name in COUNTING or ast.unparse(call.func).endswith("tally.count")) and call.args:
        yield from texts(call.args[0], constants)
    for keyword in call.keywords:
        if keyword.arg == "cause":
            yield from texts(keyword.value, constants)


def texts(value: Any, constants: Mapping[str, list[ast.expr]]) -> Iterator[str]:
    match value:
        case ast.Constant(value=str(text)):
            yield text
        case ast.IfExp():
            yield from texts(value.body, constants)
            yield from texts(value.orelse, constants)
        case ast.JoinedStr(values=[ast.Constant(value="missing "), _]):
            yield from ("missing picture", "missing video")
        case ast.Name(id=name) if name.isupper():
            for other in constants[name]:
                if isinstance(other, ast.Constant) and isinstance(other.value, str):
                    yield other.value
