"""The `glue` card: nine tasks of understanding sentences, and the diagnostic set."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.data.cards.base import Card, Layout, LeftOut, Source, Split
from diptych.data.cards.options import Options
from diptych.data.raw.folder import RawFolder
from diptych.data.raw.tables import tsv
from diptych.data.sample import Sample
from diptych.data.targets.names import class_names
from diptych.errors import DataError, UsageError

NAME = "glue"
TREE = "bert_pretrain_data/glue_data/"
NUMBERS = {"0": 0, "1": 1}
TWO_WAY = {"not_entailment": 0, "entailment": 1}
THREE_WAY = {"contradiction": 0, "neutral": 1, "entailment": 2}
FULL_SCORE = 5.0
"""Highest score of STS-B."""


@dataclass(frozen=True)
class _Task:
    """Where the columns of a task are, counted from 0."""

    folder: str
    texts: tuple[int, ...]
    hidden_texts: tuple[int, ...]
    """Of the test files."""
    label: int | None
    labels: Mapping[str, int] | None
    """Text of the label -> class; None: a score."""
    fields: int | None = None
    """Fields that a row with a label must have."""
    val_label: int | None = None
    """Where the validation files have the label elsewhere."""
    mismatched: bool = False
    """Has second files of another genre."""


TASKS: dict[str, _Task] = {
    "cola": _Task("CoLA", (3,), (1,), 1, NUMBERS, fields=4),
    "sst-2": _Task("SST-2", (0,), (1,), 1, NUMBERS, fields=2),
    "mrpc": _Task("MRPC", (3, 4), (3, 4), 0, NUMBERS, fields=5),
    "qqp": _Task("QQP", (3, 4), (1, 2), 5, NUMBERS, fields=6),
    "sts-b": _Task("STS-B", (7, 8), (7, 8), 9, None, fields=10),
    "mnli": _Task("MNLI", (8, 9), (8, 9), 11, THREE_WAY, val_label=15, mismatched=True),
    "qnli": _Task("QNLI", (1, 2), (1, 2), 3, TWO_WAY, fields=4),
    "rte": _Task("RTE", (1, 2), (1, 2), 3, TWO_WAY, fields=4),
    "wnli": _Task("WNLI", (1, 2), (1, 2), 3, NUMBERS, fields=4),
    "ax": _Task("diagnostic", (1, 2), (1, 2), None, THREE_WAY),
}
HEADS = ("index", "id", "sentence", "Quality", "Lexical Semantics")
"""First fields of headers."""
OPTIONS = {"tasks": f"tasks to read, with commas (default: all; {', '.join(TASKS)})"}
FILES = {
    "train": ("train.tsv",),
    "val": ("dev_matched.tsv", "dev.tsv"),
    "val_mismatched": ("dev_mismatched.tsv",),
    "test": ("test_matched.tsv", "test.tsv"),
    "test_mismatched": ("test_mismatched.tsv",),
}
"""Split -> names of its file."""
_NAMED = 6
"""Missing files that an error names."""
DIAGNOSTIC = ("diagnostic.tsv", "diagnostic-full.tsv", "AX.tsv")
ARCHIVES = {"qnli": ("QNLIv2",), "qqp": ("QQP-clean",)}
"""Task -> other names of its zip."""
MICROSOFT = ".txt"
DEV_IDS = ("dev_ids.tsv", "mrpc_dev_ids.tsv")
_Rows = Iterator[tuple[int, list[str]]]


def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Sample | LeftOut]:
    """Yield the rows of each task, split by split, in the order of the files.

    Raises:
        UsageError: a wrong option, or no raw folder.
        DataError: a file of a chosen task is not there.
    """
    return _convert(raw, options, "")


def convert_uniperceiver(raw: Path | None, options: Mapping[str, str]) -> Iterator[Sample | LeftOut]:
    """Yield the same from the tree of Uni-Perceiver's data page; see `convert`."""
    return _convert(raw, options, TREE)


def _convert(raw: Path | None, options: Mapping[str, str], tree: str) -> Iterator[Sample | LeftOut]:
    if raw is None:
        raise UsageError(f"card '{NAME}' needs its raw files: give their folder with --raw")
    chosen = Options(NAME, options, OPTIONS).several("tasks", tuple(TASKS), tuple(TASKS))
    folder = RawFolder(raw)
    wanted = [(name, split) for name in chosen for split in _files_of(name)]
    missing = [
        f"{TASKS[name].folder}/{_names(name, split)[0]}"
        for name, split in wanted
        if folder.find(*_places(folder, tree, name, split)) is None
    ]
    if missing:
        more = f" and {len(missing) - _NAMED} others" if len(missing) > _NAMED else ""
        raise DataError(
            f"{raw / tree}: {', '.join(missing[:_NAMED])}{more} not there; get them, or choose tasks with "
            "-o tasks="
        )
    for name, split in wanted:
        yield from _split(folder, tree, name, split)


def _files_of(name: str) -> Iterator[str]:
    """Yield the splits of a task."""
    for split in ("test",) if name == "ax" else FILES:
        if TASKS[name].mismatched or not split.endswith("mismatched"):
            yield split


def _names(name: str, split: str) -> tuple[str, ...]:
    if name == "ax":
        return DIAGNOSTIC
    return FILES[split] if TASKS[name].mismatched else FILES[split][-1:]


def _split(folder: RawFolder, tree: str, name: str, split: str) -> Iterator[Sample | LeftOut]:
    task = TASKS[name]
    for number, row in _rows(folder, tree, name, split):
        key = f"{name}-{split}-{number}"
        try:
            yield _sample(key, name, split, number, row)
        except _RowError as error:
            yield LeftOut("bad entry", key, f"{task.folder}: {error}")


class _RowError(Exception):
    """What is wrong with a row."""


def _sample(key: str, name: str, split: str, number: int, row: Sequence[str]) -> Sample:
    task, hidden = TASKS[name], split.startswith("test")
    columns = task.hidden_texts if hidden else task.texts
    if len(row) <= max(columns) or (not hidden and task.fields not in (None, len(row))):
        wanted = f"at least {max(columns) + 1}" if hidden or task.fields is None else f"{task.fields}"
        raise _RowError(f"expected {wanted} fields, got {len(row)}")
    texts = tuple(" ".join(row[column].split()) for column in columns)
    if not all(texts):
        raise _RowError("expected texts that are not empty")
    meta: dict[str, Any] = {"task": name, "index": number}
    if not hidden:
        column = task.val_label if task.val_label is not None and split.startswith("val") else task.label
        meta |= _label(name, row[column] if column is not None and column < len(row) else "")
    return Sample(key, {}, texts, "", split, meta)


def _label(name: str, text: str) -> dict[str, Any]:
    labels = TASKS[name].labels
    if labels is not None:
        if text.strip() not in labels:
            raise _RowError(f"expected a label among {', '.join(labels)}, got '{text[:40]}'")
        label = labels[text.strip()]
        return {"label": label, "class_name": class_names(name)[label]}
    try:
        score = float(text)
    except ValueError:
        score = -1.0
    if not 0 <= score <= FULL_SCORE:
        raise _RowError(f"expected a score from 0 to {FULL_SCORE:g}, got '{text[:40]}'")
    return {"score": score, "target": score / FULL_SCORE}


def _rows(folder: RawFolder, tree: str, name: str, split: str) -> _Rows:
    """Yield number (from 0, without the header) and fields of the rows of a file."""
    places = _places(folder, tree, name, split)
    if name == "ax":
        return _diagnostic(folder, places)
    rows = _numbered(folder, places)
    if name == "mrpc" and split != "test" and places[0].endswith(MICROSOFT):
        return _held_out(folder, f"{tree}{TASKS[name].folder}/", rows, split)
    return rows


def _places(folder: RawFolder, tree: str, name: str, split: str) -> list[str]:
    """Return where the file of a split may be."""
    task = TASKS[name].folder
    top = f"{tree}{task}"
    places = [
        place
        for file in _names(name, split)
        for place in (
            *((f"{top}/processed/{file}",) if tree else ()),
            f"{top}/{file}",
            *(f"{tree}{archive}.zip@/{task}/{file}" for archive in (task, *ARCHIVES.get(name, ()))),
        )
    ]
    if name != "mrpc" or folder.find(*places) is not None:
        return places
    # Microsoft's own files: training and validation lie in one, told apart by a list.
    original = f"{top}/msr_paraphrase_{'test' if split == 'test' else 'train'}{MICROSOFT}"
    complete = split == "test" or folder.find(*(f"{top}/{ids}" for ids in DEV_IDS)) is not None
    return [original] if complete and folder.find(original) is not None else places


def _numbered(folder: RawFolder, places: Sequence[str]) -> _Rows:
    with folder.text(*places) as stream:
        number = 0
        for line, row in tsv(stream):
            # Prepared files have lost their headers.
            if line == 0 and row[0] in HEADS:
                continue
            yield number, row
            number += 1


def _diagnostic(folder: RawFolder, places: Sequence[str]) -> _Rows:
    """Yield the rows as `index, sentence1, sentence2`, whatever columns the file has."""
    with folder.text(*places) as stream:
        rows = tsv(stream)
        header = [field.lower() for field in next(rows, (0, []))[1]]
        columns = [
            next((header.index(name) for name in names if name in header), None)
            for names in (("sentence1", "premise"), ("sentence2", "hypothesis"))
        ]
        if None in columns:
            raise DataError(f"{folder.root}: {places[0]}: expected columns sentence1 and sentence2")
        for number, (_, row) in enumerate(rows):
            texts = [row[c] if c is not None and c < len(row) else "" for c in columns]
            yield number, [str(number), *texts]


def _held_out(folder: RawFolder, top: str, rows: _Rows, split: str) -> _Rows:
    """Yield the rows of training or validation, by the pairs of ids in `dev_ids.tsv`."""
    with folder.text(*(f"{top}{ids}" for ids in DEV_IDS)) as stream:
        held_out = {tuple(row[:2]) for _, row in tsv(stream)}
    return enumerate(row for _, row in rows if (tuple(row[1:3]) in held_out) == (split == "val"))


_COUNTS: dict[str, tuple[int, int, int, bool]] = {
    "cola": (8_551, 1_043, 1_063, False),
    "sst-2": (67_349, 872, 1_821, False),
    "mrpc": (3_668, 408, 1_725, True),
    "qqp": (363_846, 40_430, 390_965, True),
    "sts-b": (5_749, 1_500, 1_379, True),
    "mnli": (392_702, 9_815, 9_796, True),
    "qnli": (104_743, 5_463, 5_463, True),
    "rte": (2_490, 277, 3_000, True),
    "wnli": (635, 71, 146, True),
}
"""Task -> samples of train, val, test, and whether they are known roughly."""


def _splits() -> Iterator[tuple[str, Split]]:
    for task, (*counts, about) in _COUNTS.items():
        for split, count in zip(("train", "val", "test"), counts, strict=True):
            yield f"{task}_{split}", Split(f"task = '{task}' AND split = '{split}'", count, about=about)
        if TASKS[task].mismatched:
            for split, count in (("val", 9_832), ("test", 9_847)):
                where = f"task = '{task}' AND split = '{split}_mismatched'"
                yield f"{task}_{split}_mismatched", Split(where, count, about=True)
    yield "ax_test", Split("task = 'ax' AND split = 'test'", 1_104)


CARD = Card(
    name=NAME,
    title="GLUE: nine tasks of understanding sentences",
    description=(
        "Sentences, or pairs of them, with a class or a score: is it a sentence (CoLA), does it praise "
        "(SST-2), do two say the same (MRPC, QQP), how much alike are they (STS-B), does one follow from the "
        "other (MNLI, QNLI, RTE, WNLI), and the diagnostic set (AX). Each task is a folder or zip under "
        "`--raw`. MRPC may be the files of Microsoft's own download with `dev_ids.tsv`."
    ),
    licence=(
        "that of each task: as recalled, QQP is for non-commercial use and MRPC under Microsoft's terms. "
        "No row ships with Diptych; check the homepage."
    ),
    homepage="https://gluebenchmark.com",
    citation="Wang et al., GLUE: A Multi-Task Benchmark and Analysis Platform, 2018",
    convert=convert,
    sources=tuple(
        Source(
            task.folder,
            "https://gluebenchmark.com/tasks; needed unless `-o tasks=` leaves it out",
            required=False,
            alternatives=(f"{task.folder}.zip",),
        )
        for task in TASKS.values()
    ),
    splits=dict(_splits()),
    options=OPTIONS,
    media="text",
    layouts={
        "uniperceiver": Layout(
            f"Uni-Perceiver's data page; `--raw` is DATA_PATH with `{TREE}<TASK>/processed/*.tsv`, or "
            "the raw files one level higher",
            convert_uniperceiver,
            (Source(TREE.rstrip("/"), "Uni-Perceiver's data page"),),
        )
    },
    target_set="glue",
    prepared=(
        "Key: task, split and row number from 0, as submissions count rows (`mnli-val-17`). No media. "
        "Captions: the sentence, or both sentences in their order. Columns: `task`, `index` (the row number) "
        "and, where they are not hidden, `label` and `class_name` (as prompts say it; contradiction, "
        "neutral, entailment are 0, 1, 2); for STS-B `score` (0 to 5) and `target` (score / 5). Splits: "
        "train, val (`dev`), test; MNLI also val_mismatched, test_mismatched."
    ),
    oddities=(
        "No quoting: quotes are letters. CoLA's train and dev have no header. Rows of QQP without six fields "
        "and rows with a label that is none are left out (`bad entry`); their numbers stay free. Labels of "
        "test files are never read, also where MRPC's own download has them. With `-o tasks=` the counts of "
        "the other tasks are reported as missing."
    ),
    miniature="diptych.data.miniatures.text:make_glue",
)
