"""A target set: what a model chooses from, as names and, for one tokenizer, as tokens; its files.

N rows of tokens: every class has one for each of its names and prompts.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from diptych.data.files import written_whole
from diptych.data.targets.tokens import TargetTokenizer
from diptych.errors import DataError

FORMAT = 1
NAMES_FILE = "targets.json"
TOKENS_FILE = "tokens.safetensors"
PLAIN = ("{}",)
"""The prompts of a set whose names stand for themselves."""


@dataclass(frozen=True)
class TokenizerFacts:
    """Which tokenizer made the tokens of a set."""

    name: str
    sha256: str
    """Fingerprint of its content; empty where it is not known (imported sets)."""
    size: int
    """Number of its tokens; 0 where it is not known."""
    end: str
    """The token behind each text; empty where it is not known."""
    end_id: int

    @classmethod
    def of(cls, tokenizer: TargetTokenizer) -> Self:
        """Return the facts of a tokenizer."""
        return cls(tokenizer.name, tokenizer.fingerprint, tokenizer.size, tokenizer.end, tokenizer.end_id)


@dataclass(frozen=True)
class Tokens:
    """The rows of a set as token ids, one behind another."""

    tokenizer: TokenizerFacts
    ids: np.ndarray
    """int32: all rows, one behind another."""
    lengths: np.ndarray
    """[N] int32: tokens of each row."""
    classes: np.ndarray
    """[N] int32: class of each row, ascending."""

    def rows(self) -> list[np.ndarray]:
        """Return the ids of each row."""
        return np.split(self.ids, np.cumsum(self.lengths)[:-1]) if len(self.lengths) else []

    def padded(self, pad: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return ids [N, longest row] int64, filled with `pad`, and a mask, True at real tokens."""
        mask = np.arange(self.lengths.max(initial=0))[None, :] < self.lengths[:, None]
        ids = np.full(mask.shape, pad, np.int64)
        ids[mask] = self.ids
        return ids, mask


@dataclass(frozen=True)
class TargetSet:
    """What a model chooses from."""

    name: str
    classes: tuple[tuple[str, ...], ...]
    """Names of each class, the principal one first. Two classes may share a name; a name may be empty."""
    source: str
    """Where the names are from, for people."""
    prompts: tuple[str, ...] = PLAIN
    """Texts with a place `{}` for the name."""
    tokens: Tokens | None = None

    def texts(self) -> list[tuple[int, str]]:
        """Return class and text of each row, in the order of the rows."""
        return [
            (number, prompt.replace("{}", name))
            for number, names in enumerate(self.classes)
            for name in names
            for prompt in self.prompts
        ]

    def check_tokenizer(self, fingerprint: str) -> None:
        """Refuse to be read with another tokenizer than the one that made the tokens.

        Raises:
            DataError: the fingerprints differ, or the set has no tokens.
        """
        if self.tokens is None:
            raise DataError(f"target set '{self.name}' has no tokens; build it with --tokenizer")
        known = self.tokens.tokenizer
        if known.sha256 and known.sha256 != fingerprint:
            raise DataError(
                f"target set '{self.name}' was made with the tokenizer {known.name} ({known.sha256[:12]}), "
                f"the model has another ({fingerprint[:12]}); build the set with the model's tokenizer"
            )

    def save(self, folder: Path) -> None:
        """Write the set into a folder, made if missing: `targets.json` and `tokens.safetensors`.

        Raises:
            DataError: it cannot be written.
        """
        tokens = self.tokens
        content = {
            "format": FORMAT,
            "name": self.name,
            "source": self.source,
            "prompts": self.prompts,
            "tokenizer": None if tokens is None else asdict(tokens.tokenizer),
            "rows": None if tokens is None else len(tokens.lengths),
            "classes": self.classes,
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # The names come last: a folder with `targets.json` is complete.
            (folder / NAMES_FILE).unlink(missing_ok=True)
            (folder / TOKENS_FILE).unlink(missing_ok=True)
        except OSError as error:
            raise DataError(f"{folder} cannot be written: {error.strerror or error}") from error
        if tokens is not None:
            arrays = {"ids": tokens.ids, "lengths": tokens.lengths, "classes": tokens.classes}
            with written_whole(folder / TOKENS_FILE) as partial:
                partial.write_bytes(save({name: array.astype(np.int32) for name, array in arrays.items()}))
        with written_whole(folder / NAMES_FILE) as partial:
            partial.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            DataError: there is no target set in the folder, or it contradicts itself.
        """
        path = folder / NAMES_FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path}: cannot be read ({error}); expected a target set (diptych targets build)"
            ) from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise DataError(f"{path}: expected a target set of format {FORMAT}")
        try:
            facts = content["tokenizer"]
            classes = tuple(tuple(str(name) for name in names) for names in content["classes"])
            about = (str(content["name"]), classes, str(content["source"]), tuple(content["prompts"]))
            tokenizer = None if facts is None else TokenizerFacts(**facts)
        except (KeyError, TypeError) as error:
            raise DataError(f"{path}: is no complete target set ({error}); build it anew") from error
        tokens = None if tokenizer is None else _read_tokens(folder / TOKENS_FILE, tokenizer, len(classes))
        return cls(*about, tokens)


def _read_tokens(path: Path, tokenizer: TokenizerFacts, classes: int) -> Tokens:
    try:
        found = load_file(path)
        tokens = Tokens(tokenizer, found["ids"], found["lengths"], found["classes"])
    except (OSError, SafetensorError, KeyError) as error:
        raise DataError(f"{path}: cannot be read ({error}); build the target set anew") from error
    flat = all(array.ndim == 1 for array in (tokens.ids, tokens.lengths, tokens.classes))
    if not flat or len(tokens.lengths) != len(tokens.classes) or tokens.lengths.sum() != len(tokens.ids):
        raise DataError(f"{path}: lengths and ids contradict each other; build the target set anew")
    if len(tokens.classes) and not 0 <= tokens.classes.min() <= tokens.classes.max() < classes:
        raise DataError(f"{path}: has rows of classes that are not in {NAMES_FILE}; build it anew")
    return tokens


def make_tokens(tokenizer: TokenizerFacts, rows: Sequence[Sequence[int]], classes: Sequence[int]) -> Tokens:
    """Return rows of ids as tokens; `classes` names the class of each row."""
    lengths = np.array([len(row) for row in rows], np.int32)
    ids = np.fromiter((i for row in rows for i in row), np.int32, int(lengths.sum()))
    return Tokens(tokenizer, ids, lengths, np.array(classes, np.int32))


def summary(targets: TargetSet) -> dict[str, Any]:
    """Return the figures of a set for people: classes, names, rows, tokens."""
    names = [names[0] for names in targets.classes if names]
    facts: dict[str, Any] = {
        "classes": len(targets.classes),
        "different names": len(set(names)),
        "names with synonyms": sum(len(names) for names in targets.classes),
        "prompts": " | ".join(targets.prompts),
        "from": targets.source,
    }
    if targets.tokens is not None:
        made = targets.tokens.tokenizer
        lengths = targets.tokens.lengths
        facts["tokenizer"] = f"{made.name} {made.sha256[:12] or '(unknown)'}, {made.size or 'unknown'} tokens"
        facts["rows of tokens"] = len(lengths)
        facts["longest row"] = int(lengths.max(initial=0))
        facts["ends with"] = f"{made.end or 'token'} {made.end_id}"
    return facts
