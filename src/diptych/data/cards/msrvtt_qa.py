"""The `msrvtt-qa` card: questions about the clips of MSR-VTT, made from their captions."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diptych.data.cards.base import Card, Layout, LeftOut, Source, Split, Unread
from diptych.data.cards.class_sets import MediaKeys, needed
from diptych.data.cards.msrvtt_forms import LICENCE, VIDEOS, number_of, videos_source
from diptych.data.cards.video_lists import Videos
from diptych.data.cards.video_qa import (
    OPTIONS,
    Asked,
    answer_list,
    frequent,
    read_questions,
    read_snps3,
    samples,
)
from diptych.data.raw.folder import RawFolder
from diptych.data.sample import Sample

NAME = "msrvtt-qa"
ANSWERS = 1500
"""Answers that published systems choose from."""
SPLITS = ("train", "val", "test")
_HOMEPAGE = "https://github.com/xudejing/video-question-answering"
_SNPS3 = "msrvtt_qa_antmmf"
_About = tuple[str, tuple[str, ...], Mapping[str, Any]]


def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | Sample | LeftOut]:
    """Yield a sample for each clip of each split, in the order in which the questions first name it.

    Raises:
        DataError: a list is not there, or of another form.
    """
    folder = RawFolder(needed(NAME, raw))
    videos, keys = Videos(folder, VIDEOS), MediaKeys()
    for split in SPLITS:
        asked: Asked = {}
        yield from read_questions(folder, NAME, f"{split}_qa.json", asked)
        yield from samples(asked, split, videos, keys, lambda number: _about(f"video{number}"))


def _about(name: str) -> _About:
    number = number_of(name)
    return name, (name,), {} if number is None else {"number": number}


def facts(raw: Path | None, options: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the answers that a model chooses from.

    Raises:
        DataError: the list of the training questions is not there, or of another form.
    """
    asked: Asked = {}
    for _ in read_questions(RawFolder(needed(NAME, raw)), NAME, "train_qa.json", asked):
        pass  # counted when the samples are made
    return frequent(NAME, options, ANSWERS, [asked])


def convert_snps3(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | Sample | LeftOut]:
    """Yield the same from the lists of SNP-S3.

    Raises:
        DataError: a list is not there.
    """
    folder = RawFolder(needed(NAME, raw))
    videos = Videos(folder, (*VIDEOS, *(f"{_SNPS3}/{place}" for place in VIDEOS)))
    keys, answers = MediaKeys(), answer_list(NAME, raw, options)
    for split in SPLITS:
        asked: Asked = {}
        yield from read_snps3(folder, NAME, split, f"{_SNPS3}/{split}_antmmf.jsonl", answers, asked)
        yield from samples(asked, split, videos, keys, _about)


def facts_snps3(raw: Path | None, options: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the answers that a model chooses from: those of the option, else the most frequent ones.

    Raises:
        DataError: the list of the training questions is not there.
    """
    folder, answers, asked = RawFolder(needed(NAME, raw)), answer_list(NAME, raw, options), Asked()
    for _ in read_snps3(folder, NAME, "train", f"{_SNPS3}/train_antmmf.jsonl", answers, asked):
        pass  # counted when the samples are made
    return {"answers": answers} if answers else frequent(NAME, options, ANSWERS, [asked])


CARD = Card(
    name=NAME,
    title="MSRVTT-QA: questions about videos",
    description=(
        "About 243,000 questions about the 10,000 clips of MSR-VTT in its official splits, made from their "
        "captions by a program; answers are single words."
    ),
    licence=LICENCE,
    citation=(
        "D. Xu et al. Video Question Answering via Gradually Refined Attention over Appearance and Motion. "
        "ACM Multimedia 2017."
    ),
    homepage=_HOMEPAGE,
    convert=convert,
    facts=facts,
    sources=(
        *(
            Source(f"{split}_qa.json", f"`MSRVTT-QA.zip`, linked from <{_HOMEPAGE}>, unpacked")
            for split in SPLITS
        ),
        videos_source(""),
    ),
    splits={
        "train": Split("split = 'train'", 6513, texts=158_581, about=True),
        "val": Split("split = 'val'", 497, texts=12_278, about=True),
        "test": Split("split = 'test'", 2990, texts=72_821, about=True),
    },
    options={**OPTIONS, "answers": f"{OPTIONS['answers']} (default {ANSWERS})"},
    annotations=("answer_list",),
    media="video",
    shard_size=500,
    target_set="msrvtt-qa",
    prepared=(
        "A sample is a clip with all questions about it. Key and `match_id`: the clip's name, as in "
        "`video6513`; media: `mp4` as published; `meta.questions`: `{question, question_id, dataset, kind, "
        "answer}`, for `data.examples: questions`; `kind` is the question word (what, who, how, when, where, "
        "other). Columns: `number`, `questions` (how many). The fact `answers` in `dataset.json` lists the "
        "most frequent answers of the training questions. Questions with other answers stay in every split: "
        "in evaluation they count as wrong."
    ),
    oddities=(
        "Questions name a clip by its number. Entries of another form are counted as `bad entry`, ids that "
        "come again in a list as `repeated entry`. In the lists of SNP-S3 ids are split and number of the "
        "line, and labels that are numbers stay numbers unless `-o answer_list=FILE` tells their texts."
    ),
    miniature="diptych.data.miniatures.msrvtt:make_msrvtt_qa",
    layouts={
        "snps3": Layout(
            "SNP-S3's: `--raw` is its `data_root_dir`.",
            convert_snps3,
            (
                *(Source(f"{_SNPS3}/{split}_antmmf.jsonl", "SNP-S3's annotations") for split in SPLITS),
                videos_source(f"{_SNPS3}/"),
            ),
            facts_snps3,
        ),
    },
)
