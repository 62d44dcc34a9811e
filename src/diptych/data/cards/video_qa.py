"""What the cards of questions about videos share: grouping by video, question words, lists of answers."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diptych.data.cards.base import LeftOut, Unread
from diptych.data.cards.class_sets import REPEATED_ENTRY, MediaKeys, bad_entry, needed, squeezed
from diptych.data.cards.options import Options
from diptych.data.cards.video_lists import Videos, objects, read_json, shown
from diptych.data.raw.folder import RawFolder
from diptych.data.raw.tables import json_items
from diptych.data.sample import Sample
from diptych.errors import DataError

Question = dict[str, Any]
"""question, question_id, dataset, kind, answer"""
Asked = dict[str, list[Question]]
"""Name of a video -> what is asked about it."""

WORDS = ("what", "who", "how", "when", "where")
"""Question words that accuracy is reported by."""
OTHER = "other"


def question_word(question: str) -> str:
    """Return the first word of a question if it is one of `WORDS`, else `other`."""
    first = question.split(maxsplit=1)[0].lower() if question.strip() else ""
    return first if first in WORDS else OTHER


def question(dataset: str, number: int | str, text: str, answer: str) -> Question:
    """Return a question as tasks read it."""
    return {
        "question": squeezed(text),
        "question_id": number,
        "dataset": dataset,
        "kind": question_word(text),
        "answer": squeezed(answer),
    }


def read_questions(folder: RawFolder, dataset: str, place: str, asked: Asked) -> Iterator[LeftOut]:
    """Add the questions of an owners' list (`{answer, id, question, video_id}`) by `vidN` or `videoN`.

    Args:
        folder: of the raw files.
        dataset: name that the questions get.
        place: of the list.
        asked: filled: number of the video, as text -> questions.

    Yields:
        Entries of another form, and ids that come again.

    Raises:
        DataError: the file is not there, or holds no list.
    """
    seen: set[int] = set()
    with folder.text(place) as stream:
        for position, entry in enumerate(json_items(stream, shown(folder, place))):
            where = f"{place}[{position}]"
            match entry:
                case {
                    "question": str() as text,
                    "answer": str() as answer,
                    "id": int() as number,
                    "video_id": int() as video,
                } if text.strip() and answer.strip():
                    if number in seen:
                        yield LeftOut(REPEATED_ENTRY, where, f"question {number} is there already")
                        continue
                    seen.add(number)
                    asked.setdefault(str(video), []).append(question(dataset, number, text, answer))
                case _:
                    yield bad_entry(
                        where, "texts `question` and `answer`, numbers `id` and `video_id`", entry
                    )


def read_snps3(
    folder: RawFolder, dataset: str, split: str, place: str, answers: Sequence[str], asked: Asked
) -> Iterator[LeftOut]:
    """Add the questions of a list of SNP-S3 (`{caption, clip_name, label}`) by the name of the clip.

    Args:
        folder: of the raw files.
        dataset: name that the questions get.
        split: begins the ids of the questions, the number of the line ends them.
        place: of the list.
        answers: texts of labels that are numbers; empty: the number itself is the answer's text.
        asked: filled: name of the clip -> questions.

    Yields:
        Lines of another form.

    Raises:
        DataError: the file is not there.
    """
    for where, entry in objects(folder, place):
        number = f"{split}_{where.rpartition(':')[2]}"
        match entry:
            case LeftOut():
                yield entry
            case {"caption": str() as text, "clip_name": str() as clip, "label": str() as answer} if (
                text.strip() and clip and answer.strip()
            ):
                asked.setdefault(clip, []).append(question(dataset, number, text, answer))
            case {"caption": str() as text, "clip_name": str() as clip, "label": int() as label} if (
                text.strip() and clip and label >= 0 and (not answers or label < len(answers))
            ):
                answer = answers[label] if answers else str(label)
                asked.setdefault(clip, []).append(question(dataset, number, text, answer))
            case _:
                yield bad_entry(where, "`caption`, `clip_name` and a known `label`", entry)


def samples(
    asked: Asked,
    split: str,
    videos: Videos,
    keys: MediaKeys,
    about: Callable[[str], tuple[str, Iterable[str], Mapping[str, Any]]],
) -> Iterator[Unread | LeftOut]:
    """Yield a sample for each video.

    Args:
        asked: what is asked, by video.
        split: where the samples belong.
        videos: where the videos are.
        keys: makes keys.
        about: name in `asked` -> name of the sample, names of the video's file to look for, entries of meta.
    """
    for name, questions in asked.items():
        stored, files, meta = about(name)
        key = keys.make(stored)
        sample = Sample(key, {}, (), stored, split, {**meta, "questions": questions})
        file = next((file for file in files if videos.get(file)), None)
        yield videos.sample(file or stored, sample, f"{len(questions)} questions")


OPTIONS = {
    "answers": "how many of the most frequent answers of the training questions a model chooses from",
    "answer_list": (
        "JSON file under --raw with the texts of the answers in the order of their numbers "
        "(layout `snps3`, whose labels may be numbers)"
    ),
}


def answer_list(card: str, raw: Path | None, options: Mapping[str, str]) -> list[str]:
    """Return the texts of `-o answer_list=FILE`; empty where it is not given.

    Raises:
        DataError: the file cannot be read, or holds no list of different texts.
    """
    name = Options(card, options, OPTIONS).text("answer_list")
    if not name:
        return []
    content = read_json(RawFolder(needed(card, raw)), name)
    if not isinstance(content, list) or not all(isinstance(text, str) for text in content):
        raise DataError(f"{raw}/{name}: expected a JSON list of texts, one an answer")
    if len(set(content)) < len(content):
        raise DataError(f"{raw}/{name}: an answer is there twice; each has to be there once")
    return content


def frequent(card: str, options: Mapping[str, str], default: int, asked: Iterable[Asked]) -> dict[str, Any]:
    """Return the fact `answers`: the most frequent of the training questions.

    The most frequent comes first; equally frequent ones are in the order of the alphabet. Where all answers
    are numbers of classes, all classes count, in their order.
    """
    count = Options(card, options, OPTIONS).integer("answers", default, 1, 1_000_000)
    found = Counter(q["answer"] for part in asked for questions in part.values() for q in questions)
    if found and all(answer.isdecimal() for answer in found):
        return {"answers": [str(label) for label in range(max(map(int, found)) + 1)]}
    ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return {"answers": [answer for answer, _ in ordered[:count]]}
