"""METEOR of captions, by its own Java program where that is installed."""

import importlib.util
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO

_JAR = Path("meteor") / "meteor-1.5.jar"
_MEMORY = "-Xmx2G"


class Unavailable(Exception):  # noqa: N818 - it says that there is no figure, which is no error
    """METEOR cannot run here; the message says why and what to install."""


def meteor(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    java: str = "java",
    jar: Path | None = None,
) -> tuple[float, list[float]]:
    """Return METEOR 1.5 (Denkowski and Lavie, 2014; English), 0 to 1: of the set, of each picture.

    Args:
        candidates: a caption a picture, words with blanks between.
        references: one or more such captions a picture.
        java: name or path of the Java program.
        jar: `meteor-1.5.jar`, with its `data` folder beside it; None: that of an installed pycocoevalcap.

    Raises:
        Unavailable: no Java, no such file, or the program fails.
    """
    program, file = shutil.which(java), jar or _installed()
    if program is None:
        raise Unavailable(f"METEOR needs Java: no program '{java}' found; install one, or name it")
    if file is None or not file.is_file():
        raise Unavailable(
            f"METEOR needs its program {_JAR.name}: {file or 'no pycocoevalcap is installed'}; install "
            "pycocoevalcap, or name the file"
        )
    command = [program, "-jar", _MEMORY, file.name, "-", "-", "-stdio", "-l", "en", "-norm"]
    try:
        with subprocess.Popen(
            command,
            cwd=file.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
        ) as running:
            try:
                return _talk(running, candidates, references)
            finally:
                running.kill()
    except (OSError, ValueError) as error:
        raise Unavailable(f"METEOR ({file.name}) failed: {error}") from error


def _installed() -> Path | None:
    found = importlib.util.find_spec("pycocoevalcap")
    for folder in (found.submodule_search_locations or ()) if found else ():
        if (path := Path(folder) / _JAR).is_file():
            return path
    return None


def _talk(
    running: "subprocess.Popen[str]", candidates: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[float, list[float]]:
    """Ask for the counts of each picture, then for the figures of all counts."""
    asked, answers = running.stdin, running.stdout
    assert asked is not None
    assert answers is not None
    counts = [
        _ask(asked, answers, " ||| ".join(["SCORE", *map(_plain, several), _plain(candidate)]))
        for candidate, several in zip(candidates, references, strict=True)
    ]
    each = [float(_ask(asked, answers, " ||| ".join(["EVAL", *counts])))]
    each += [float(_line(answers)) for _ in counts[1:]]
    return float(_line(answers)), each


def _plain(caption: str) -> str:
    """Return a caption without what separates captions in a line."""
    return " ".join(caption.replace("|||", "").split())


def _ask(asked: IO[str], answers: IO[str], line: str) -> str:
    asked.write(f"{line}\n")
    asked.flush()
    return _line(answers)


def _line(answers: IO[str]) -> str:
    line = answers.readline()
    if not line:
        raise ValueError("the program ended without an answer")
    return line.strip()
