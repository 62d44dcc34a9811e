"""Subtitles in WebVTT and SubRip: when which lines are shown."""

import re
from collections.abc import Sequence
from typing import Any

from diptych.data.acquire.spans import seconds_of

MOST_CHARACTERS = 4 * 2**20
"""A file with more is cut off: subtitles of a day of speech have less."""

_ARROW = re.compile(r"^\s*(\S+)\s+-->\s+(\S+)")
_TAG = re.compile(r"<[^<>]*>")

Shown = list[dict[str, Any]]
"""`start`, `end` in seconds and `lines`, in order of time."""


def read_subtitles(text: str) -> Shown:
    """Return what is shown when; lines that merely stay on the screen are told once, at their first time.

    Machine-made subtitles repeat each line while the next one appears under it.
    """
    found: Shown = []
    seen: list[str] = []
    for block in re.split(r"\r?\n[ \t]*\r?\n", text[:MOST_CHARACTERS]):
        rows = block.splitlines()
        place = next((n for n, row in enumerate(rows) if _ARROW.match(row)), None)
        times = None if place is None else _ARROW.match(rows[place])
        if place is None or times is None:
            continue
        start, end = seconds_of(times[1]), seconds_of(times[2])
        lines = [" ".join(_TAG.sub("", row).split()) for row in rows[place + 1 :]]
        lines = [line for line in lines if line]
        if start is None or end is None or not lines:
            continue
        new = [line for line in lines if line not in seen]
        seen = lines
        if new:
            found.append({"start": start, "end": max(start, end), "lines": new})
    return found


def within(shown: Sequence[dict[str, Any]], start: float, end: float) -> Shown:
    """Return what is shown between two times, with its times counted from the first one."""
    return [
        {
            **one,
            "start": max(0.0, round(one["start"] - start, 3)),
            "end": round(min(one["end"], end) - start, 3),
        }
        for one in shown
        if one["start"] < end and one["end"] > start
    ]
