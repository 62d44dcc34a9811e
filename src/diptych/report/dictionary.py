"""What a report says of a visual dictionary: what parts of pictures its words stand for, how much used."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from diptych.data.index import ShardDataset
from diptych.data.members import is_picture
from diptych.errors import DiptychError
from diptych.report.collect import EvalView, RunView, read_json
from diptych.report.compare import Chart
from diptych.report.plots import line_chart

SIDE = 48
"""Pixels of a patch on the page."""
METRIC = "metric/visual_words"

Box = tuple[float, float, float, float]
"""Left, top, right, bottom as shares of what the model saw of a picture."""


@dataclass(frozen=True)
class WordView:
    """An entry of the dictionary."""

    number: int
    count: int
    share: float
    """Of all tokens of the split."""
    patches: list[tuple[str, str, float]]
    """Data URI (empty: the picture cannot be read), key of the picture and distance, nearest first."""


@dataclass(frozen=True)
class DictionaryView:
    """The section of the page."""

    title: str
    codes: int
    used: int
    perplexity: float
    words: list[WordView]
    charts: list[Chart]


def visual_dictionary(runs: Sequence[RunView]) -> DictionaryView | None:
    """Describe the dictionary of the last evaluation that has one; None without any.

    Raises:
        RunError: its file is damaged.
    """
    for run in reversed(runs):
        for evaluation in reversed(run.evaluations):
            path = evaluation.path / "visual_words.json"
            if path.exists():
                return _describe(run, evaluation, read_json(path))
    return None


def _describe(run: RunView, evaluation: EvalView, told: Mapping[str, Any]) -> DictionaryView:
    usage: list[int] = told["usage"]
    total = sum(usage) or 1
    words = told.get("words", [])
    wanted = {(p["key"], tuple(p["box"]), tuple(p["size"])) for word in words for p in word["patches"]}
    uris = cut(_dataset_of(run), wanted, str(_image_settings(run).get("resize", "squash")))
    views = [
        WordView(
            word["word"],
            word["count"],
            word["count"] / total,
            [
                (uris.get((p["key"], tuple(p["box"]), tuple(p["size"])), ""), p["key"], p["distance"])
                for p in word["patches"]
            ],
        )
        for word in words
    ]
    return DictionaryView(
        title=f"{run.title}, {evaluation.title}",
        codes=len(usage),
        used=sum(count > 0 for count in usage),
        perplexity=float(evaluation.metrics.get("visual_words_perplexity", 0.0)),
        words=views,
        charts=_charts(run, usage),
    )


def _charts(run: RunView, usage: Sequence[int]) -> list[Chart]:
    """Return how often words are used, the most used first, and how many were in use over training."""
    total = sum(usage) or 1
    shares = [100 * count / total for count in sorted(usage, reverse=True)]
    ranks = list(range(1, len(shares) + 1))
    charts = [
        Chart(
            "share of the image tokens, %",
            line_chart(
                {"share": (ranks, shares)}, x_label="visual words, the most used first", smoothed=False
            ),
        )
    ]
    rows = [row for row in run.rows if isinstance(row.get(METRIC), int | float)]
    if len(rows) > 1:
        curve = ([row["step"] for row in rows], [row[METRIC] for row in rows])
        charts.append(Chart("visual words in use (perplexity)", line_chart({"words": curve}, x_label="step")))
    return charts


def _dataset_of(run: RunView) -> Path:
    evaluate, data = run.config.get("evaluate") or {}, run.config.get("data") or {}
    return Path(evaluate.get("path") or data.get("path") or "")


def _image_settings(run: RunView) -> Mapping[str, Any]:
    return (run.config.get("data") or {}).get("image") or {}


Wanted = tuple[str, tuple[int, ...], tuple[int, ...]]
"""Key of a sample, box in pixels of what the model saw, width and height of that."""


def cut(dataset: Path, wanted: set[Wanted], resize: str) -> dict[Wanted, str]:
    """Cut patches out of pictures and return them as data URIs; those that cannot be read are left out.

    Args:
        dataset: the prepared dataset.
        wanted: what to cut.
        resize: how pictures were made to fit (`data.image.resize`).
    """
    if not wanted or not dataset.name or not dataset.exists():
        return {}
    by_key: dict[str, list[Wanted]] = {}
    for one in sorted(wanted):
        by_key.setdefault(one[0], []).append(one)
    quoted = ", ".join("'" + key.replace("'", "''") + "'" for key in by_key)
    try:
        selection = ShardDataset.open(dataset).select(where=f"key in ({quoted})")
    except DiptychError:
        return {}  # the data may have moved since
    uris: dict[Wanted, str] = {}
    for i in range(len(selection)):
        try:
            sample = selection.read(i)
            content = next(data for name, data in sorted(sample.media.items()) if is_picture(name))
            with Image.open(io.BytesIO(content)) as stored:
                picture = stored.convert("RGBA")
        except Exception:  # damaged bytes raise almost anything; the page shows the key instead
            continue
        part = seen_part(picture.width, picture.height, resize)
        for one in by_key[sample.key]:
            uris[one] = _uri(picture, part, one)
    return uris


def seen_part(width: int, height: int, resize: str) -> tuple[float, float, float, float]:
    """Return left, top, width and height of what the model saw of a picture, in the picture's own pixels."""
    if resize not in ("crop", "pad"):
        return 0.0, 0.0, float(width), float(height)
    side = float(min(width, height) if resize == "crop" else max(width, height))
    return (width - side) / 2, (height - side) / 2, side, side


def _uri(picture: Image.Image, part: tuple[float, float, float, float], wanted: Wanted) -> str:
    _, box, (width, height) = wanted
    left, top, wide, high = part
    xs = [left + x * wide / width for x in (box[0], box[2])]
    ys = [top + y * high / height for y in (box[1], box[3])]
    edges = (
        round(xs[0]),
        round(ys[0]),
        max(round(xs[1]), round(xs[0]) + 1),
        max(round(ys[1]), round(ys[0]) + 1),
    )
    patch = picture.crop(edges)
    scale = SIDE / max(patch.size)
    small = (max(1, round(patch.width * scale)), max(1, round(patch.height * scale)))
    out = io.BytesIO()
    # Small patches are shown pixel by pixel.
    how = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    patch.resize(small, how).save(out, "webp", quality=75)
    return f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode('ascii')}"
