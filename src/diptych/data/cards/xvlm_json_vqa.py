"""The `vqa-json` card: questions about pictures as VQA v2, Visual Genome and GQA are fine-tuned on."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diptych.data.cards.base import Card, LeftOut, Unread
from diptych.data.cards.options import Options
from diptych.data.cards.xvlm_json import (
    EXAMPLE,
    LISTS,
    SPLITS,
    Entries,
    Keys,
    check_options,
    files_of,
    find_picture,
    missing,
    read_json,
)
from diptych.data.sample import Sample
from diptych.errors import DataError, UsageError

DATASETS = ("vqa", "vg", "gqa")
OPTIONS = {
    **LISTS,
    "answers": "the answers that a model chooses from, a JSON list of texts; kept in dataset.json",
    "vqa_root": "folder of the pictures of VQA under --raw (default: --raw itself)",
    "vg_root": "the same for Visual Genome (entries with `dataset: vg`)",
    "gqa_root": "the same for GQA (entries with `dataset: gqa`)",
}
_PASSED = {"question_type": "question_type", "answer_type": "kind", "kind": "kind"}
"""Fields of an entry that are kept -> their names."""

_Question = dict[str, Any]


@dataclass
class _Picture:
    """What the lists ask of a picture."""

    questions: list[_Question] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)


def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | LeftOut]:
    """Yield a sample for each picture of each split, in the order in which the lists first name it.

    Raises:
        UsageError: a wrong option.
        DataError: an annotation file cannot be read or is of another form.
    """
    if raw is None:
        raise UsageError("card 'vqa-json' needs its raw files: give their folder with --raw")
    given = check_options("vqa-json", options, OPTIONS)
    folders = {dataset: raw / given.text(f"{dataset}_root") for dataset in DATASETS}
    keys = Keys()
    for split in SPLITS:
        for (dataset, name), about in _read(given, raw, split).items():
            key = keys.make(split, dataset, name)
            found = find_picture(folders[dataset], name)
            if found is None:
                yield missing(key, f"{dataset} {name} ({len(about.questions)} questions)")
                continue
            meta = {"file": name, "dataset": dataset, "questions": about.questions}
            yield Unread(Sample(key, {}, (), "", split, meta), dict([found]))
            for text in about.repeated:
                yield LeftOut("repeated question", key, text)


_Pictures = dict[tuple[str, str], _Picture]
"""(dataset, name of the picture) -> what is asked about it."""


def _read(given: Options, raw: Path, split: str) -> _Pictures:
    pictures: _Pictures = {}
    seen: set[tuple[str, str | int]] = set()
    same: dict[str, str] = {}
    for path in (path for name, path in files_of(given, raw) if name == split):
        entries = Entries(path)
        for entry in entries:
            dataset = entry.get("dataset", "vqa")
            if dataset not in DATASETS:
                raise entries.wrong(f"'dataset' to be one of {', '.join(DATASETS)}", dataset)
            about = pictures.setdefault((dataset, entries.text(entry, "image")), _Picture())
            question = _question(entries, entry, dataset, same)
            number = question["question_id"]
            if (dataset, number) in seen:
                about.repeated.append(f"question_id {number}: {question['question']}")
                continue
            seen.add((dataset, number))
            about.questions.append(question)
    return pictures


def _question(entries: Entries, entry: Mapping[str, Any], dataset: str, same: dict[str, str]) -> _Question:
    """Return what a sample keeps of an entry; equal answers become one object in memory."""
    question: _Question = {
        "question": entries.text(entry, "question"),
        "question_id": entries.number_or_text(entry, "question_id"),
        "dataset": dataset,
    }
    if "answer" in entry:
        answers = [same.setdefault(answer, answer) for answer in entries.texts(entry, "answer")]
        single = isinstance(entry["answer"], str)
        question |= {"answer": answers[0]} if single else {"answers": answers}
    for name, kept in _PASSED.items():
        if isinstance(entry.get(name), str):
            question[kept] = entry[name]
    return question


def facts(raw: Path | None, options: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the list of answers, if one is given.

    Raises:
        DataError: it cannot be read, or is no list of different texts.
    """
    name = options.get("answers", "")
    if raw is None or not name:
        return {}
    answers = read_json(raw / name)
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise DataError(f"{raw / name}: expected a list of texts")
    if len(set(answers)) < len(answers):
        twice = next(answer for i, answer in enumerate(answers) if answer in answers[:i])
        raise DataError(f"{raw / name}: the answer {twice!r} is there twice; each has to be there once")
    return {"answers": answers}


CARD = Card(
    name="vqa-json",
    title="Questions about pictures from JSON lists",
    description=(
        "VQA v2, Visual Genome and GQA in the JSON lists that X-VLM made common for fine-tuning: "
        "`[{question_id, question, answer, image, dataset}, ...]`; `answer` is one text, or a list with that "
        "of each annotator, or not there (test); `dataset` is `vqa` where it is not there. All questions "
        "about a picture become one sample: `questions`: `{question, question_id, dataset, answer or "
        "answers}`, for `data.examples: questions`. A question id that comes again in a split is left out. "
        "Answers outside the list of answers stay: the task decides. Columns: `file`, `dataset`, `questions` "
        "(how many)."
    ),
    licence="that of the pictures and annotations",
    convert=convert,
    facts=facts,
    splits=SPLITS,
    options=OPTIONS,
    annotations=(*LISTS, "answers"),
    example={**EXAMPLE, "answers": "answers.json"},
    prepared=(
        "- key: `<split>_<dataset>_<name of the picture>` without its ending, with a hash where two would be "
        "alike\n"
        "- medium: the file as it is\n"
        "- columns: `file`, `dataset`, `questions` (how many)\n"
        "- in the JSON: `questions`: `{question, question_id, dataset, answer or answers}`\n"
        "- `facts` in dataset.json: `answers`, the list to choose from"
    ),
    oddities=(
        "- `answer` is a text, a list of ten, or not there (test).\n"
        "- Question ids are unique within a dataset of a split; one that comes again counts as `repeated "
        "question`.\n"
        "- A picture that is not there is `missing picture`, with all questions about it."
    ),
    target_set="vqa-json",
    miniature="diptych.data.miniatures.xvlm_json:make_vqa",
)
