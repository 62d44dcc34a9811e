"""The `msvd-qa` card: questions about the clips of MSVD, made from their sentences."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diptych.data.cards.base import Card, Layout, LeftOut, Source, Split, Unread
from diptych.data.cards.class_sets import MediaKeys, needed
from diptych.data.cards.msvd import CLIPS, MAPPING, clip_meta, mapping
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

NAME = "msvd-qa"
ANSWERS = 1000
"""Answers that published systems choose from."""
SPLITS = ("train", "val", "test")
_PLACES = ("video", "video.zip", *CLIPS)
_HOMEPAGE = "https://github.com/xudejing/video-question-answering"


def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | Sample | LeftOut]:
    """Yield a sample for each clip of each split, in the order in which the questions first name it.

    Raises:
        DataError: a list is not there, or of another form.
    """
    folder = RawFolder(needed(NAME, raw))
    videos, keys = Videos(folder, _PLACES), MediaKeys()
    names: dict[str, str] = {}
    if folder.find(*MAPPING):
        names, wrong = mapping(folder, *MAPPING)
        yield from wrong

    def about(number: str) -> tuple[str, tuple[str, ...], Mapping[str, Any]]:
        clip = names.get(f"vid{number}", "")
        return f"vid{number}", (f"vid{number}", clip), {"number": int(number), **clip_meta(clip)}

    for split in SPLITS:
        asked: Asked = {}
        yield from read_questions(folder, NAME, f"{split}_qa.json", asked)
        yield from samples(asked, split, videos, keys, about)


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
    """Yield the same from the lists of SNP-S3, keys being the names of the clips.

    Raises:
        DataError: a list is not there.
    """
    folder = RawFolder(needed(NAME, raw))
    videos, keys = Videos(folder, _PLACES), MediaKeys()
    answers = answer_list(NAME, raw, options)
    for split in ("train", "test"):
        asked: Asked = {}
        yield from read_snps3(folder, NAME, split, f"msvd_qa/msvd_{split}_qa.jsonl", answers, asked)
        yield from samples(asked, split, videos, keys, lambda name: (name, (name,), clip_meta(name)))


def facts_snps3(raw: Path | None, options: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the answers that a model chooses from: those of the option, else the most frequent ones.

    Raises:
        DataError: the list of the training questions is not there.
    """
    answers, asked = answer_list(NAME, raw, options), Asked()
    for _ in read_snps3(
        RawFolder(needed(NAME, raw)), NAME, "train", "msvd_qa/msvd_train_qa.jsonl", answers, asked
    ):
        pass  # counted when the samples are made
    return {"answers": answers} if answers else frequent(NAME, options, ANSWERS, [asked])


CARD = Card(
    name=NAME,
    title="MSVD-QA: questions about videos",
    description=(
        "50,505 questions about the 1,970 clips of MSVD, made from their sentences by a program; "
        "answers are single words. Splits are by clip and are not those of the `msvd` card: do "
        "not train for one on the test clips of the other."
    ),
    licence=(
        "videos from YouTube under its terms; as far as we recall research only, nothing may be passed on: "
        "have a person confirm it on the homepage"
    ),
    citation=(
        "D. Xu et al. Video Question Answering via Gradually Refined Attention over Appearance and Motion. "
        "ACM Multimedia 2017."
    ),
    homepage=_HOMEPAGE,
    convert=convert,
    facts=facts,
    sources=(
        *(
            Source(f"{split}_qa.json", f"`MSVD-QA.zip`, linked from <{_HOMEPAGE}>, unpacked")
            for split in SPLITS
        ),
        Source(
            CLIPS[0],
            "the videos of the `msvd` card, or the folder `video` with `vidN.avi`",
            alternatives=("video", "video.zip", *CLIPS[1:]),
        ),
        Source(
            MAPPING[1],
            "`MSVD-QA.zip`; needed where the videos have YouTube's names",
            required=False,
            alternatives=MAPPING[:1],
        ),
    ),
    splits={
        "train": Split("split = 'train'", 1200, texts=30_933, about=True),
        "val": Split("split = 'val'", 250, texts=6_415, about=True),
        "test": Split("split = 'test'", 520, texts=13_157, about=True),
    },
    options={**OPTIONS, "answers": f"{OPTIONS['answers']} (default {ANSWERS})"},
    annotations=("answer_list",),
    media="video",
    shard_size=500,
    target_set="msvd-qa",
    prepared=(
        "A sample is a clip with all questions about it. Key and `match_id`: `vidN`; media: the video as "
        "published; `meta.questions`: `{question, question_id, dataset, kind, answer}`, for "
        "`data.examples: questions`; `kind` is the question word (what, who, how, when, where, other). "
        "Columns: `number` (N), `youtube_id`, `start`, `end` (where the mapping tells), `questions` (how "
        "many). The fact `answers` in `dataset.json` lists the most frequent answers of the training "
        "questions. Questions with other answers stay in every split: in evaluation they count as wrong."
    ),
    oddities=(
        "Questions name a video by its number N; the files are called `vidN` or, in the archive of MSVD, by "
        "YouTube id and times, which `youtube_mapping.txt` links. Entries of another form are counted as "
        "`bad entry`, ids that come again in a list as `repeated entry`. The lists of SNP-S3 have no `val`; "
        "their ids are split and number of the line, and labels that are numbers stay numbers unless "
        "`-o answer_list=FILE` tells their texts."
    ),
    miniature="diptych.data.miniatures.msvd:make_msvd_qa",
    layouts={
        "snps3": Layout(
            "SNP-S3's: `--raw` is its `data_root_dir`; it evaluates on `test` only.",
            convert_snps3,
            (
                *(
                    Source(f"msvd_qa/msvd_{split}_qa.jsonl", "SNP-S3's annotations")
                    for split in ("train", "test")
                ),
                Source(CLIPS[0], "the videos of the `msvd` card", alternatives=(*CLIPS[1:], "video")),
            ),
            facts_snps3,
        ),
    },
)
