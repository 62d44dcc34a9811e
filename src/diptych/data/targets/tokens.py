"""Tokenizers of target sets: any `tokenizers` JSON, or that of CLIP from its list of merges."""

import gzip
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from diptych.data.text import FILE_NAME
from diptych.errors import DataError

END_OF_TEXT = "<|endoftext|>"
ENDS = (END_OF_TEXT, "[SEP]", "</s>", "<sep>")
"""Tokens that end a text, in the order in which they are looked for."""
PERCEIVER_TOKENS = ("<|mask|>", "<|gen|>", "<|spe|>")
"""Tokens that Uni-Perceiver has behind those of CLIP."""

_USED = 49152 - 256 - 2
"""Merges of the file that CLIP uses."""
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
"""What CLIP takes for a word, as a pattern of the `tokenizers` library."""


class TargetTokenizer:
    """Texts to the tokens of a target: those of the text, then the token that ends it.

    Args:
        raw: the tokenizer.
        name: what it is called in target sets and messages.
        end: the token that ends a text; empty: the first of `ENDS` that it has.

    Raises:
        DataError: it has no such token.
    """

    def __init__(self, raw: Tokenizer, name: str, end: str = "") -> None:
        raw.no_padding()
        raw.no_truncation()
        self._raw, self.name = raw, name
        choices = (end,) if end else ENDS
        found = next(((token, i) for token in choices if (i := raw.token_to_id(token)) is not None), None)
        if found is None:
            raise DataError(
                f"tokenizer {name}: has no token {' or '.join(choices)} to end a text; name one with --end"
            )
        self.end, self.end_id = found

    @property
    def size(self) -> int:
        """Number of tokens, special ones included."""
        return int(self._raw.get_vocab_size(with_added_tokens=True))

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the tokenizer's content, however its file is laid out."""
        content = json.loads(self._raw.to_str())
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text and of the end token."""
        return [*self._raw.encode(text, add_special_tokens=False).ids, self.end_id]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, the end token and what follows it left out."""
        kept = list(ids)
        kept = kept[: kept.index(self.end_id)] if self.end_id in kept else kept
        return str(self._raw.decode(kept, skip_special_tokens=False)).strip()

    def tokens(self) -> list[str]:
        """Return every token of the vocabulary, in the order of the ids.

        Raises:
            DataError: an id has no token.
        """
        found = [self._raw.id_to_token(i) for i in range(self.size)]
        gap = next((i for i, token in enumerate(found) if token is None), None)
        if gap is not None:
            raise DataError(f"tokenizer {self.name}: the id {gap} has no token; expected ids without gaps")
        return [str(token) for token in found]


def load_tokenizer(name: str, end: str = "") -> TargetTokenizer:
    """Return the tokenizer `clip`, `uniperceiver`, or of a `tokenizers` JSON file (or a folder with one).

    Raises:
        DataError: no such file, or something else in it.
    """
    if name in ("clip", "uniperceiver"):
        specials = PERCEIVER_TOKENS if name == "uniperceiver" else ()
        return TargetTokenizer(clip_tokenizer(packaged_merges(), specials), name, end)
    path = Path(name)
    path = path / FILE_NAME if path.is_dir() else path
    try:
        raw = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"--tokenizer {name}: cannot be read ({error}); "
            "expected clip, uniperceiver, or a tokenizers JSON file"
        ) from error
    except Exception as error:  # the Rust parser raises plain Exception for every kind of wrong content
        raise DataError(f"{path}: not a tokenizers JSON file ({error})") from error
    return TargetTokenizer(raw, name, end)


@cache
def packaged_merges() -> tuple[tuple[str, str], ...]:
    """Return the merges of CLIP that ship with Diptych (ATTRIBUTION.md); see `read_merges`."""
    with as_file(files(__package__) / "merges" / "clip.txt.gz") as path:
        return tuple(read_merges(path))


def read_merges(path: Path) -> list[tuple[str, str]]:
    """Return the pairs of pieces that CLIP joins, the first to be joined first.

    Raises:
        DataError: the file cannot be read or holds no pairs.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            lines = file.read().split("\n")[1 : _USED + 1]
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); expected the gzipped merges of CLIP") from error
    pairs = [tuple(line.split()) for line in lines if line]
    if any(len(pair) != 2 for pair in pairs):
        raise DataError(f"{path}: expected two pieces a line")
    return [(pair[0], pair[1]) for pair in pairs]


def clip_tokenizer(merges: Sequence[tuple[str, str]], specials: Sequence[str] = ()) -> Tokenizer:
    """Return CLIP's byte-level BPE of lower-cased texts.

    CLIP also repairs broken encodings (ftfy) and HTML escapes; clean your texts of them first.

    Args:
        merges: what `read_merges` returns.
        specials: further tokens, behind `<|startoftext|>` and `<|endoftext|>`.
    """
    letters = _letters()
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), *(a + b for a, b in merges)]
    pieces += ["<|startoftext|>", END_OF_TEXT, *specials]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    raw = Tokenizer(
        models.BPE(
            vocabulary,
            list(merges),
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            unk_token=END_OF_TEXT,
        )
    )
    spaces: Any = normalizers.Replace(Regex(r"\s+"), " ")
    raw.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    raw.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("</w>", " ")])
    raw.add_special_tokens(
        [AddedToken(token, special=True) for token in ("<|startoftext|>", END_OF_TEXT, *specials)]
    )
    return raw


def _letters() -> list[str]:
    """Return the letters that stand for bytes: printable ones for themselves, the rest from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = 256 - len(printable)
    return [chr(code) for code in (*printable, *range(256, 256 + others))]
