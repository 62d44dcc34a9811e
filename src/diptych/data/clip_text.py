"""Texts as CLIP's tokenizer reads them: what it repairs first, the words it finds, the pieces of a word."""

import html
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from tokenizers import Regex, Tokenizer, pre_tokenizers

from diptych.data.targets.tokens import (
    END_OF_TEXT,
    PERCEIVER_TOKENS,
    WORDS,
    clip_tokenizer,
    packaged_merges,
)

START_OF_TEXT = "<|startoftext|>"
MASK, GENERATE, SLOT = PERCEIVER_TOKENS
KEPT_WHOLE = (START_OF_TEXT, END_OF_TEXT, GENERATE, SLOT)
"""Tokens that a text may hold. `<|mask|>` falls into pieces, as published."""

_CACHED_WORDS = 1 << 16
_TERMINAL = re.compile("\x1b\\[[\\d;]*[A-Za-z]")
_CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\u206a-\u206f\ufeff\ufff9-\ufffc]")
_WIDE = re.compile("[\u3000\uff01-\uffef]")
_LIGATURES = re.compile("[ĳĲŉǄ-ǌǱ-ǳﬀ-ﬆ]")
_MARKS = str.maketrans(
    {
        **dict.fromkeys("ʼ‘’‚‛", "'"),
        **dict.fromkeys("“”„‟", '"'),
        **dict.fromkeys("\u2028\u2029", "\n"),
    }
)
_BLANKS = re.compile(r"\s+")


def _windows(byte: int) -> str:
    """Return the letter that a byte is in Windows-1252; the five that it lacks are control letters."""
    try:
        return bytes([byte]).decode("cp1252")
    except UnicodeDecodeError:
        return chr(byte)


_BYTES = {_windows(byte): byte for byte in range(128, 256)} | {chr(byte): byte for byte in range(128, 160)}
_TAIL = "[" + "".join(re.escape(letter) for letter, byte in _BYTES.items() if byte < 192) + "]"
_GARBLED = re.compile(f"[ÂÃ]{_TAIL}|[âï]{_TAIL}{{2}}|ð{_TAIL}{{3}}")
"""UTF-8 that was read as Windows-1252."""


def clean_clip(text: str) -> str:
    """Return a text as CLIP counts letters: repaired, HTML escapes read twice, single blanks, lower case.

    The repairs are the common ones of ftfy, which the published code calls: UTF-8 read as Windows-1252
    (letters of Western languages, punctuation, emoji), curly quotes, ligatures, wide letters, control
    letters and NFC. Other garbled texts stay as they are.
    """
    if "<" not in text:
        text = html.unescape(text)
    text = _CONTROL.sub("", _TERMINAL.sub("", _GARBLED.sub(_read_again, text)))
    text = "".join(_windows(ord(sign)) if "\x80" <= sign <= "\x9f" else sign for sign in text)
    for signs in (_WIDE, _LIGATURES):
        text = signs.sub(lambda found: unicodedata.normalize("NFKC", found[0]), text)
    text = unicodedata.normalize("NFC", text.translate(_MARKS))
    return _BLANKS.sub(" ", html.unescape(html.unescape(text))).strip().lower()


def _read_again(found: re.Match[str]) -> str:
    try:
        return bytes(_BYTES[sign] for sign in found[0]).decode()
    except UnicodeDecodeError:
        return found[0]


class ClipWords:
    """Texts to words, and words to ids of CLIP's vocabulary and, behind it, Uni-Perceiver's three tokens.

    Args:
        merges: pairs of pieces to join, the first to be joined first; None: those of CLIP.
        raw: the tokenizer itself, where there is one already.
    """

    def __init__(self, merges: Sequence[tuple[str, str]] | None = None, raw: Tokenizer | None = None) -> None:
        self._merges = merges
        if raw is None:
            raw = clip_tokenizer(packaged_merges() if merges is None else merges, PERCEIVER_TOKENS)
        self._raw = raw
        kept = "|".join(re.escape(token) for token in KEPT_WHOLE)
        self._split = pre_tokenizers.Split(Regex(f"{kept}|{WORDS}"), behavior="removed", invert=True)
        self.size = int(self._raw.get_vocab_size(with_added_tokens=True))
        self.end_id, self.slot_id = self.id_of(END_OF_TEXT), self.id_of(SLOT)
        self.pieces = lru_cache(_CACHED_WORDS)(self._pieces)
        """Ids of a word that `words` returned."""

    def __reduce__(self) -> tuple[type["ClipWords"], tuple[Sequence[tuple[str, str]] | None]]:
        return type(self), (self._merges,)

    def id_of(self, token: str) -> int:
        """Return the id of a token of the vocabulary; `</w>` ends those that end a word.

        Raises:
            KeyError: there is no such token.
        """
        found = self._raw.token_to_id(token)
        if found is None:
            raise KeyError(token)
        return int(found)

    def words(self, text: str) -> list[str]:
        """Return the words of a cleaned text: runs of letters, single digits, runs of signs, `'s`."""
        return [word for word, _ in self._split.pre_tokenize_str(clean_clip(text))]

    def _pieces(self, word: str) -> tuple[int, ...]:
        return tuple(self._raw.encode(word, add_special_tokens=False).ids)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, with no token in front or behind."""
        return [i for word in self.words(text) for i in self.pieces(word)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids: words with a blank behind each, as published."""
        return str(self._raw.decode(list(ids), skip_special_tokens=False))
