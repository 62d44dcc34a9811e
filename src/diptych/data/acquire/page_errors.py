"""What yt-dlp says when a page gives no video, in the words under which failures are counted."""

import re

from diptych.data.acquire.problems import FetchError
from diptych.data.addresses import PRIVATE

KNOWN = (
    (PRIVATE, "refused address"),
    ("not a bot", "bot check"),
    ("captcha", "bot check"),
    ("too many requests|rate-limited|rate limit", "http 429"),
    ("private", "video private"),
    (
        "confirm your age|age-restricted|age restricted|inappropriate for some users|age verification",
        "age check",
    ),
    ("in your country|in your region|from your location|geo[- ]?restrict|geo[- ]?block", "region"),
    ("members-only|join this channel|requires payment|purchase|rented|premium", "video not free"),
    (
        "log ?in|logged[- ]in|sign in|authentication|account credentials|registered users",
        "login",
    ),
    ("premieres in|will begin in|live event|livestream|is live|live stream recording is not", "live video"),
    ("requested format", "no such format"),
    (
        "removed|terminated|no longer available|deleted|video unavailable|does not exist|not available"
        "|is unavailable|isn't available",
        "video gone",
    ),
    ("unsupported url|no video|no media found|could not find", "no video on the page"),
    ("no space left", "full disk"),
    ("timed out|timeout", "no answer"),
    ("name or service|getaddrinfo|name resolution|failed to resolve|nodename", "dns"),
    ("certificate|ssl", "tls"),
    ("connection|incompleteread|remote end closed|bytes read", "cut off"),
)
"""What a message has in it, in small letters -> cause; the first that fits counts."""
AGAIN = frozenset({"bot check", "http 429", "no answer", "dns", "cut off"})
"""Failures that may pass."""

_ADDRESS = re.compile(r"https?://[^\s'\")]+")
_BEGINNING = re.compile(r"^\[[^\]]*\] [^:]*: ")
_STATUS = re.compile(r"http error (\d{3})")


def page_error(message: str, status: int, pause: float) -> FetchError:
    """Return the error that a message of yt-dlp stands for.

    Args:
        message: what it said.
        status: of the server's answer, if that is why; 0: unknown.
        pause: seconds for which a platform is left alone that asks for it.
    """
    text = " ".join(message.split()).removeprefix("ERROR: ")
    # Addresses and ids may have any word in them.
    small = _BEGINNING.sub("", _ADDRESS.sub("", text)).lower()
    found = _STATUS.search(small)
    status = status or (int(found[1]) if found else 0)
    cause = next((cause for pattern, cause in KNOWN if re.search(pattern, small)), "")
    if status == 429:
        cause = "http 429"
    elif status >= 400 and cause in ("", "video gone", "no video on the page", "cut off"):
        cause = f"http {status}"
    cause = cause or "page failed"
    if cause in ("http 429", "bot check"):
        # To the hosts' bookkeeping both are the same: the platform wants to be left alone.
        return FetchError(cause, text[:400], again=True, after=pause, status=429)
    return FetchError(cause, text[:400], again=cause in AGAIN or status >= 500, status=status)
