"""Times in lists: seconds or a clock, a start and an end, or several of them."""

import json
import math
import re
from typing import Any

Span = tuple[float, float]
"""Seconds: from, to (infinity: to the end)."""

START_NAMES = ("start", "start_timestamp", "start_time", "clip_start", "time_start", "begin")
END_NAMES = ("end", "end_timestamp", "end_time", "clip_end", "time_end")
CLIPS_NAMES = ("clips", "timestamps", "spans")
"""Columns that hold times, in small letters."""
MOST = 10_000
"""Clips in one row; more is no list of clips."""

_CLOCK = re.compile(r"(?:(\d{1,4}):)?(\d{1,4}):([0-5]?\d(?:[.,]\d{1,9})?)", re.ASCII)
_SECONDS = re.compile(r"\d{1,9}(\.\d{1,9})?", re.ASCII)


def seconds_of(value: object) -> float | None:
    """Return the seconds of a time: a number, or text such as `12.5`, `03:10.5`, `00:03:10.567`.

    None if it is nothing of that.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            return None
        return number if 0 <= number < math.inf else None
    if not isinstance(value, str):
        return None
    text = value.strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    found = _CLOCK.fullmatch(text)
    if found is None:
        return None
    hours, minutes, rest = found.groups()
    if hours is not None and int(minutes) > 59:
        return None
    # Whole milliseconds are exact as thousandths, sums of fractions are not.
    return round(int(hours or 0) * 3600 + int(minutes) * 60 + float(rest.replace(",", ".")), 9)


def span_of(start: object, end: object) -> Span | None:
    """Return the span of a row; None where the list gives no times.

    Raises:
        ValueError: they are no times, or it ends before it begins.
    """
    if _is_missing(start) and _is_missing(end):
        return None
    first = 0.0 if _is_missing(start) else seconds_of(start)
    last = math.inf if _is_missing(end) else seconds_of(end)
    if first is None or last is None:
        raise ValueError(f"expected seconds or HH:MM:SS.fff, got {start!r} to {end!r}"[:200])
    if not last > first:
        raise ValueError(f"the clip ends at {end!r}, not after its start at {start!r}"[:200])
    return first, last


def spans_of(value: object) -> tuple[Span, ...]:
    """Return the spans of a column such as `[[0, 2.5], ["00:00:04.000", "00:00:06.500"]]`; also as text.

    Raises:
        ValueError: it is of another form.
    """
    if _is_missing(value):
        return ()
    if isinstance(value, str):
        try:
            value = json.loads(value.replace("'", '"'))
        except (ValueError, RecursionError) as error:
            raise ValueError("expected clips as [[start, end], ...]") from error
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= MOST:
        raise ValueError(f"expected 1 to {MOST} clips as [[start, end], ...]")
    return tuple(_pair(entry) for entry in value)


def _pair(entry: Any) -> Span:
    if not isinstance(entry, list | tuple) or len(entry) != 2:
        raise ValueError(f"expected a clip as [start, end], got {entry!r}"[:200])
    span = span_of(entry[0], entry[1])
    if span is None:
        raise ValueError("expected a clip as [start, end], got one without times")
    return span


def _is_missing(value: object) -> bool:
    return (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or (isinstance(value, str) and value.strip().lower() in ("", "null", "none", "nan"))
    )
