"""What a user may set about fetching: the network, the pictures, the list."""

import math
from dataclasses import dataclass

import diptych
from diptych.errors import UsageError
from diptych.resolve import nearest

MODES = ("keep_ratio", "keep_ratio_largest", "center_crop", "border", "no")
FORMATS = ("jpg", "png", "webp")
ENCODING = ("needed", "always", "never")
MAX_PIXELS = 89_478_485
"""Pictures with more pixels are refused, as when they are loaded (Pillow's limit)."""
DIRECTIVES = ("noai", "noimageai", "noindex", "noimageindex")
"""What a server may say in `X-Robots-Tag` to keep its pictures out of collections."""


@dataclass(frozen=True, kw_only=True)
class NetOptions:
    """How addresses are fetched; none of this changes what is stored of a picture that came."""

    connections: int = 64
    """Requests at a time in one worker process."""
    per_host: int = 32
    """Requests at a time to one host, all workers together."""
    host_rate: float = 0.0
    """Requests a second to one host, all workers together; 0: no limit."""
    connect_timeout: float = 10.0
    """Seconds for resolving the name, connecting and TLS."""
    read_timeout: float = 10.0
    """Seconds without any byte."""
    timeout: float = 30.0
    """Seconds for one try, redirects and the whole body included."""
    row_timeout: float = 120.0
    """Seconds for all tries of a row and the pauses between them."""
    retries: int = 2
    """Further tries after failures that may pass."""
    backoff: float = 1.0
    """Seconds before the second try; twice as long before each further one."""
    min_speed: float = 1000.0
    """Bytes a second that a body must come with, on average from its fifth second on; 0: no limit."""
    max_bytes: int = 32 * 2**20
    """Bytes of a body, at most."""
    redirects: int = 5
    user_agent: str = f"Mozilla/5.0 (compatible; diptych/{diptych.__version__}; data set fetcher)"
    agent: str = "diptych"
    """The name by which servers may address this client in `X-Robots-Tag` and robots.txt."""
    directives: tuple[str, ...] = DIRECTIVES
    """Directives of `X-Robots-Tag` that are honoured; none: the header is ignored."""
    robots: bool = False
    """Ask for each host's robots.txt and honour it."""
    allow_private: bool = False
    """Also reach private, loopback and link-local addresses."""

    def __post_init__(self) -> None:
        for name in ("connections", "per_host", "max_bytes"):
            _at_least(name, getattr(self, name), 1)
        for name in ("retries", "redirects", "host_rate", "backoff", "min_speed"):
            _at_least(name, getattr(self, name), 0)
        for name in ("connect_timeout", "read_timeout", "timeout", "row_timeout"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise UsageError(f"{_option(name)}: expected seconds above 0, got {value}")


@dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """What becomes of the pictures."""

    size: int = 256
    """Pixels of the side that `mode` names."""
    mode: str = "keep_ratio"
    """`keep_ratio`: the shorter side becomes `size`; `keep_ratio_largest`: the longer one; `center_crop`: the
    middle square; `border`: the longer side, white around it to a square; `no`: the size stays."""
    enlarge: bool = False
    """Also enlarge smaller pictures (`center_crop` and `border` give squares of `size` in any case)."""
    format: str = "jpg"
    quality: int = 95
    """JPEG and WebP: 1 to 100."""
    encode: str = "needed"
    """`needed`: the bytes stay where neither size, format, orientation nor colours change; `always`; `never`:
    the bytes stay as they came (with mode `no`)."""
    min_side: int = 0
    """Pictures with a shorter side are left out."""
    max_aspect: float = 0.0
    """Pictures whose longer side is more than this many times the shorter one are left out; 0: none."""
    max_pixels: int = MAX_PIXELS
    """Pictures with more pixels are left out before they are decoded."""

    def __post_init__(self) -> None:
        _one_of("mode", self.mode, MODES)
        _one_of("format", self.format, FORMATS)
        _one_of("encode", self.encode, ENCODING)
        _at_least("size", self.size, 1)
        if not 1 <= self.quality <= 100:
            raise UsageError(f"--quality: expected 1 to 100, got {self.quality}")
        if not 1 <= self.max_pixels <= MAX_PIXELS:
            raise UsageError(f"--max-pixels: expected 1 to {MAX_PIXELS}, got {self.max_pixels}")
        if self.encode == "never" and self.mode != "no":
            raise UsageError(f"--encode never keeps bytes as they came; it needs --mode no, not {self.mode}")


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    """How the list is read."""

    format: str = ""
    """csv, tsv, txt, json, jsonl or parquet; empty: by the name of the file."""
    url: str = ""
    """Column with the addresses, by name or number from 0; empty: found by name or content."""
    caption: str = ""
    """Column with the captions; likewise."""
    id: str = ""
    """Column with names for the samples, each once in the list; empty: made of row, address and caption."""
    columns: tuple[str, ...] | None = None
    """Further columns to keep; None: all others."""
    video: bool = False
    """The list is about videos: columns with times are looked for."""
    start: str = ""
    """Videos: column with the times at which clips begin; empty: found by name."""
    end: str = ""
    """Videos: column with the times at which they end; likewise."""
    clips: str = ""
    """Videos: column with lists of [start, end]; likewise."""


def _at_least(name: str, value: float, least: float) -> None:
    if not least <= value < math.inf:
        raise UsageError(f"{_option(name)}: expected at least {least}, got {value}")


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(
            f"{_option(name)}: unknown value '{value}'{nearest(value, known)} (known: {', '.join(known)})"
        )


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
