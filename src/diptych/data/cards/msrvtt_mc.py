"""The `msrvtt-mc` card: which of five sentences belongs to a clip of MSR-VTT."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diptych.data.cards.base import Card, LeftOut, Source, Split, Unread
from diptych.data.cards.class_sets import REPEATED_ENTRY, MediaKeys, bad_entry, needed, squeezed
from diptych.data.cards.msrvtt_forms import CITATION, HOMEPAGE, LICENCE, VIDEOS, number_of, videos_source
from diptych.data.cards.video_lists import Videos, objects, without_ending
from diptych.data.examples import OPTIONS
from diptych.data.raw.folder import RawFolder
from diptych.data.sample import Sample

NAME = "msrvtt-mc"
LIST = ("mc_test.jsonl", "msrvtt_retrieval/mc_test.jsonl")
_START = "msrvtt_retrieval/"


def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | Sample | LeftOut]:
    """Yield a sample for each clip, in the order in which the questions first name it.

    Raises:
        DataError: the list is not there.
    """
    folder = RawFolder(needed(NAME, raw))
    videos = Videos(folder, (*VIDEOS, *(f"{_START}{place}" for place in VIDEOS)))
    keys, asked, seen = MediaKeys(), dict[str, list[dict[str, Any]]](), set[str]()
    for where, entry in objects(folder, *LIST):
        found = entry if isinstance(entry, LeftOut) else _question(entry)
        if found is None:
            expected = f"`qid`, `clip_name`, {OPTIONS} `options` and the place of the `answer` among them"
            yield bad_entry(where, expected, entry)
        elif isinstance(found, LeftOut):
            yield found
        elif found[1]["question_id"] in seen:
            yield LeftOut(REPEATED_ENTRY, where, f"question {found[1]['question_id']} is there already")
        else:
            seen.add(found[1]["question_id"])
            asked.setdefault(found[0], []).append(found[1])
    for name, questions in asked.items():
        number = number_of(name)
        meta = {} if number is None else {"number": number}
        sample = Sample(keys.make(name), {}, (), name, "test", {**meta, "choices": questions})
        yield videos.sample(name, sample, f"{len(questions)} choices")


def _question(entry: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Return clip and question of a line, None if it is of another form."""
    match entry:
        case {
            "qid": str() as number,
            "clip_name": str() as clip,
            "options": [*options],
            "answer": str() | int() as answer,
        } if clip and len(options) == OPTIONS and all(isinstance(option, str) for option in options):
            # The index is a text as published.
            place = str(answer)
            if place not in map(str, range(OPTIONS)):
                return None
            return without_ending(clip), {
                "question": "",
                "question_id": number,
                "dataset": NAME,
                "options": [squeezed(option) for option in options],
                "answer": int(place),
            }
        case _:
            return None


CARD = Card(
    name=NAME,
    title="MSRVTT-MC: multiple choice about videos",
    description=(
        "2,990 test clips of MSR-VTT; for each, the right one of five sentences is to be found. There is "
        "nothing to train on: systems are trained on the captions of the `msr-vtt` card."
    ),
    licence=LICENCE,
    citation=CITATION,
    homepage=HOMEPAGE,
    convert=convert,
    version="2",
    sources=(
        Source(LIST[0], "SNP-S3's annotations (`msrvtt_retrieval`)", alternatives=LIST[1:]),
        videos_source(_START),
    ),
    splits={"test": Split("split = 'test'", 2990, texts=2990, about=True)},
    media="video",
    shard_size=500,
    prepared=(
        "A sample is a clip. Key and `match_id`: the clip's name, as in `video9001`; media: `mp4` as "
        "published; `meta.choices`: `{question, question_id, dataset, options, answer}`, for `data.examples: "
        "choices`: the question is empty, `options` are the five sentences, `answer` the place of the right "
        "one (from 0). Columns: `number`, `choices` (how many)."
    ),
    oddities=(
        'The place of the right sentence is a text in the list (`"0"`). Lines of another form are counted '
        "as `bad entry`. The published systems name the same list for training and validation; here it is "
        "`test` only."
    ),
    miniature="diptych.data.miniatures.msrvtt:make_msrvtt_mc",
)
