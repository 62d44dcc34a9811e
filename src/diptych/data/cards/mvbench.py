"""The `mvbench` card: twenty tasks of multiple choice about videos."""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from diptych.data.cards.base import Card, LeftOut, Source, Split, Unread
from diptych.data.cards.class_sets import MISSING_VIDEO, MediaKeys, bad_entry, ending, needed, squeezed, stem
from diptych.data.cards.options import Options, names_of
from diptych.data.cards.video_lists import read_json
from diptych.data.raw.folder import Media, RawFolder
from diptych.data.raw.refs import Ref
from diptych.data.raw.video import VIDEOS
from diptych.data.sample import Sample
from diptych.errors import UsageError

NAME = "mvbench"
TASKS = (
    "Action Sequence",
    "Action Prediction",
    "Action Antonym",
    "Fine-grained Action",
    "Unexpected Action",
    "Object Existence",
    "Object Interaction",
    "Object Shuffle",
    "Moving Direction",
    "Action Localization",
    "Scene Transition",
    "Action Count",
    "Moving Count",
    "Moving Attribute",
    "State Change",
    "Fine-grained Pose",
    "Character Order",
    "Egocentric Navigation",
    "Episodic Reasoning",
    "Counterfactual Inference",
)
"""In the order of published tables."""
QUESTIONS = 200
"""Of each task."""
OPTIONS = {
    "roots": "folders of tasks under video/, as `object_shuffle=perception`, with commas, where names of "
    "videos are not unique (default: anywhere under video/)",
}
_Bounds = tuple[float | None, float | None]


def file_of(task: str) -> str:
    """Return the place of a task's list."""
    return f"json/{label_of(task)}.json"


def label_of(task: str) -> str:
    """Return a task's name as files have it."""
    return task.lower().replace(" ", "_").replace("-", "_")


def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | LeftOut]:
    """Yield a sample for each video, or part of one, in the order in which the lists first name it.

    Raises:
        UsageError: a wrong option.
        DataError: a list is not there, or no JSON.
    """
    folder = RawFolder(needed(NAME, raw))
    roots = _roots(Options(NAME, options, OPTIONS).text("roots"))
    videos = _Places(folder.media("video"))
    keys = MediaKeys()
    asked: dict[tuple[str, _Bounds], list[dict[str, Any]]] = {}
    found: dict[tuple[str, _Bounds], tuple[str, Ref]] = {}
    for task in TASKS:
        label = label_of(task)
        entries = read_json(folder, file_of(task))
        for number, entry in enumerate(entries if isinstance(entries, list) else [entries]):
            where = f"{file_of(task)}:{number}"
            question = _question(entry, task, f"{label}/{number}")
            if question is None:
                yield bad_entry(where, "`video`, `question`, `candidates` and the `answer` among them", entry)
                continue
            place = videos.find(entry["video"], roots.get(label, ""))
            if place is None:
                yield LeftOut(MISSING_VIDEO, f"{label}_{number}", f"{entry['video']} (one question)")
                continue
            where_from = (place[0], (_seconds(entry, "start"), _seconds(entry, "end")))
            found[where_from] = place
            asked.setdefault(where_from, []).append(question)
    for where_from, questions in asked.items():
        name, ref = found[where_from]
        start, end = where_from[1]
        part = {name: value for name, value in (("start", start), ("end", end)) if value is not None}
        key = keys.make(stem(name), f"{name} {start} {end}")
        yield Unread(Sample(key, {}, (), key, "test", {**part, "questions": questions}), {ending(name): ref})


def _roots(text: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in names_of(text)]
    known = {label_of(task) for task in TASKS}
    for label, sign, _ in pairs:
        if not sign or label not in known:
            raise UsageError(f"card '{NAME}', option roots: expected task=folder, got '{label}{sign}'")
    return {label: place.strip("/") for label, _, place in pairs}


def _question(entry: Any, task: str, number: str) -> dict[str, Any] | None:
    match entry:
        case {
            "video": str() as video,
            "question": str() as question,
            "candidates": [*options],
            "answer": answer,
        } if video and len(options) > 1:
            texts = [squeezed(str(option)) for option in options]
            right = squeezed(str(answer))
            if texts.count(right) != 1:
                return None
            return {
                "question": squeezed(question),
                "question_id": number,
                "dataset": NAME,
                "kind": task,
                "options": texts,
                "answer": texts.index(right),
            }
        case _:
            return None


def _seconds(entry: Mapping[str, Any], name: str) -> float | None:
    value = entry.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


class _Places:
    """Videos by the ends of their paths."""

    def __init__(self, media: Media) -> None:
        self._media = media
        self._named: dict[str, list[str]] = {}
        for name in sorted(media.names()):
            if ending(name) in VIDEOS:
                self._named.setdefault(PurePosixPath(name).name, []).append(name)

    def find(self, name: str, root: str) -> tuple[str, Ref] | None:
        """Return path and video; of several under `root` the first in the order of paths."""
        wanted = f"/{name}"
        for path in self._named.get(PurePosixPath(name).name, ()):
            if f"/{path}".endswith(wanted) and (not root or f"/{path}/".find(f"/{root}/") >= 0):
                ref = self._media.get(path)
                return None if ref is None else (path, ref)
        return None


CARD = Card(
    name=NAME,
    title="MVBench: twenty tasks about what happens in videos",
    description=(
        "Questions with two to five options about videos of eleven datasets, 200 for each of twenty tasks "
        "that a single frame does not solve. There is nothing to train on."
    ),
    licence="that of the datasets that the videos come from; annotations for research",
    citation="Li et al., MVBench: A Comprehensive Multi-modal Video Understanding Benchmark, CVPR 2024",
    homepage="https://github.com/OpenGVLab/Ask-Anything",
    convert=convert,
    options=OPTIONS,
    sources=(
        Source("json/*.json", "MVBench's lists, one for each task (`action_sequence.json`, ...)"),
        Source("video", "the videos, in folders or archives by dataset"),
    ),
    splits={"test": Split("split = 'test'", texts=len(TASKS) * QUESTIONS)},
    media="video",
    shard_size=500,
    prepared=(
        "A sample is a video, or the part of it that a question is about (`start`, `end` in seconds, for "
        "`data.video.part: times`). Key: the name of the video, with a hash where there are several parts. "
        "`meta.questions`: `{question, question_id, dataset, kind, options, answer}`; `kind` is the task, "
        "`answer` the place of the right option (from 0). Column: `questions` (how many)."
    ),
    oddities=(
        "Episodic Reasoning comes as folders of JPEGs, three for each second: make a video of each, with the "
        "folder's name, or its questions are counted as `missing video`. Options and answers are texts or "
        "numbers; entries whose answer is not among the options once are counted as `bad entry`. About "
        "thirty questions that came twice were replaced in June 2024: figures differ by up to half a point."
    ),
    miniature="diptych.data.miniatures.mvbench:make_mvbench",
)
