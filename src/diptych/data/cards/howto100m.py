"""The `howto100m` card: instructional videos and what is said in them."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from diptych.data.cards.base import Card, LeftOut, Source, Split, Unread
from diptych.data.cards.options import Options
from diptych.data.cards.url_sets import check_media, needed
from diptych.data.members import clean_key
from diptych.data.raw.clips import ClipRef
from diptych.data.raw.folder import INSIDE, RawFolder
from diptych.data.raw.refs import Ref
from diptych.data.raw.transcripts import clips_of, read_transcript
from diptych.data.sample import Sample
from diptych.errors import DataError, UsageError

OPTIONS = {
    "min_seconds": "of a clip: pieces of speech are joined until it is so long (default 5, as published)",
    "min_characters": "of what is said in it (default 5, as published)",
    "precision": "how clips are cut: `keyframe` (default: fast, begins earlier) or `exact` (encoded again)",
}
VIDEOS = ("videos", "videos.zip", "videos.tar")
SPOKEN = ("transcripts", "transcripts.zip", "transcripts.tar")
ENDINGS = ("mp4", "webm", "mkv")
HELD_OUT = 500
"""One of so many videos is for validation."""

_CARD = "howto100m"


def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | LeftOut]:
    """Yield the clips of each video that has a transcript, videos by name, clips in their order.

    Raises:
        UsageError: a wrong option.
        DataError: the transcripts, or all the videos, are missing.
    """
    folder = needed(raw, _CARD)
    given = Options(_CARD, options, OPTIONS)
    seconds, characters = _at_least(given), given.integer("min_characters", 5, 1, 10**6)
    exact = given.choice("precision", "keyframe", ("keyframe", "exact")) == "exact"
    files = RawFolder(folder)
    spoken = _transcripts(files)
    check_media(folder, _CARD, "train", *VIDEOS)
    for name in sorted(spoken):
        with files.text(spoken[name]) as stream:
            pieces = read_transcript(stream.read())
        if isinstance(pieces, str):
            yield LeftOut("bad entry", name, pieces)
            continue
        found = _video(files, name)
        if found is None:
            yield LeftOut("missing video", name, f"{name}.mp4")
            continue
        for clip in clips_of(pieces, seconds, characters):
            key = f"{clean_key(name)}_{round(clip.start * 1000)}_{round(clip.end * 1000)}"
            meta = {"video": name, "clip_start": clip.start, "clip_end": clip.end}
            ref = ClipRef(found, clip.start, clip.end, "exact" if exact else "keyframe")
            yield Unread(Sample(key, {}, (clip.text,), "", split_of(name), meta), {"mp4": ref})


def split_of(name: str) -> str:
    """Return the split of a video, by its name: all its clips are in the same one."""
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
    return "val" if number % HELD_OUT == 0 else "train"


def _at_least(given: Options) -> float:
    text = given.text("min_seconds", "5")
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e6:
        raise UsageError(
            f"card '{_CARD}', option min_seconds={text}: expected a number of seconds, 0 or more"
        )
    return seconds


def _transcripts(files: RawFolder) -> dict[str, str]:
    """Return name of video -> place of its transcript."""
    places = files.glob(f"{SPOKEN[0]}/*.json")
    for archive in SPOKEN[1:]:
        places += [f"{archive}{INSIDE}{name}" for name in files.members(archive) if name.endswith(".json")]
    if not places:
        raise DataError(
            f"{files.root}: expected transcripts, a JSON file for each video in one of {', '.join(SPOKEN)}; "
            f"see `diptych data show {_CARD}`"
        )
    named: dict[str, str] = {}
    for place in places:
        named.setdefault(PurePosixPath(place.rpartition(INSIDE)[2]).stem, place)
    return named


def _video(files: RawFolder, name: str) -> Ref | None:
    places = (
        f"{folder}{'/' if folder == VIDEOS[0] else INSIDE}{name}.{ending}"
        for folder in VIDEOS
        for ending in ENDINGS
    )
    return files.find(*places)


CARD = Card(
    name=_CARD,
    title="HowTo100M",
    description=(
        "Instructional videos and what is said in them, as speech recognition wrote it down. A video becomes "
        "clips, one behind the other: neighbouring pieces of speech are joined until a clip has enough "
        "seconds and characters; what is said is its caption, and often not what is seen."
    ),
    licence=(
        "videos: those of their authors on YouTube; research only, as far as known. Have a person check "
        "before use."
    ),
    convert=convert,
    media="video",
    splits={
        "train": Split("split = 'train'", note="clips of 499 of 500 videos"),
        "val": Split("split = 'val'", note="those of one video in 500, by its name (ours)"),
    },
    sources=(
        Source(
            "transcripts",
            'for each video `transcripts/<name>.json`: `{"start": [...], "end": [...], "text": [...]}`, '
            "seconds and what is said from there to there",
            alternatives=SPOKEN[1:],
        ),
        Source("videos", "`videos/<name>.mp4` (or .webm, .mkv)", alternatives=VIDEOS[1:]),
    ),
    options=OPTIONS,
    citation=(
        "Miech, Zhukov, Alayrac, Tapaswi, Laptev, Sivic: HowTo100M: Learning a Text-Video Embedding by "
        "Watching Hundred Million Narrated Video Clips. ICCV 2019."
    ),
    homepage="https://www.di.ens.fr/willow/research/howto100m/",
    shard_size=500,
    miniature="diptych.data.miniatures.howto100m:make_howto100m",
    prepared=(
        "Key: the video's name, start and end in milliseconds. The clip, and what is said in it. Columns: "
        "`video`, `clip_start`, `clip_end` (seconds)."
    ),
    oddities=(
        "- The published code joins pieces around one drawn at random, anew each time; here the clips of a "
        "video are cut once, and every piece is in exactly one of them.\n"
        "- Clips cut at keyframes begin earlier than what is said in them; `-o precision=exact` encodes them "
        "again, which takes long.\n"
        "- A transcript with lists of different lengths, or times that are no numbers, is counted as `bad "
        "entry` with its video."
    ),
)
