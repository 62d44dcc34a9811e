"""Text: tokenizers as standard `tokenizers` JSON files, and the published cleaning rules."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
import torch
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from diptych.errors import DataError

if TYPE_CHECKING:
    from diptych.data.clip_text import ClipWords

_SPECIALS: dict[str, tuple[str, ...]] = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<s>", "<cls>"),
    "sep": ("[SEP]", "</s>", "<sep>"),
    "mask": ("[MASK]", "<mask>"),
}
_WORD_STARTS = ("\u2581", "\u0120")
"""Marks at the start of words: of SentencePiece and Metaspace, of byte-level BPE."""
FILE_NAME = "tokenizer.json"
UNIPERCEIVER = "uniperceiver"
"""In the place of a path: the packaged vocabulary of CLIP with Uni-Perceiver's three tokens."""
_SLOT, _END, _START = "<|spe|>", "<|endoftext|>", "<|startoftext|>"
"""Uni-Perceiver's slot, its end of texts, and the token that tells CLIP's vocabulary from a trained one."""
Specials = Literal["bert", "uniperceiver"]


class Tokenizer:
    """Texts to token ids of a fixed length: a start token first, an end token last, padding on the right.

    Special tokens are found by name, as BERT (`[CLS]`) or RoBERTa (`<s>`) writes them; or as Uni-Perceiver
    does (`<|spe|>`), whose texts have an end token and none in front. Can be pickled.

    Attributes:
        opens: whether sequences begin with a start token.
    """

    def __init__(self, raw: RawTokenizer, origin: str = "tokenizer") -> None:
        raw.no_padding()
        raw.no_truncation()
        self._raw = raw
        self.opens = raw.token_to_id(_SLOT) is None
        self._clip: ClipWords | None = None
        if not self.opens:
            self._find_slots(origin)
            return
        self.pad_id = self._special("pad", origin)
        self.unk_id = self._special("unk", origin)
        self.cls_id = self._special("cls", origin)
        self.sep_id = self._special("sep", origin)
        self.mask_id = self._special("mask", origin)

    def _special(self, role: str, origin: str) -> int:
        for token in _SPECIALS[role]:
            found = self._raw.token_to_id(token)
            if found is not None:
                return int(found)
        raise DataError(
            f"{origin}: no {role} token in the vocabulary (expected one of {', '.join(_SPECIALS[role])})"
        )

    def _find_slots(self, origin: str) -> None:
        """Take the special tokens of Uni-Perceiver; CLIP's vocabulary has none for padding (published: 0)."""
        end, slot = self._raw.token_to_id(_END), self._raw.token_to_id(_SLOT)
        if end is None or slot is None:
            raise DataError(f"{origin}: has {_SLOT}, but no {_END} to end a text")
        self.cls_id = self.sep_id = int(end)
        self.mask_id = int(slot)
        self.pad_id = int(self._raw.token_to_id("[PAD]") or 0)
        self.unk_id = int(self._raw.token_to_id("[UNK]") or end)
        if self._raw.token_to_id(_START) is not None:
            from diptych.data.clip_text import ClipWords

            self._clip = ClipWords(raw=self._raw)

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read a `tokenizer.json`, the one in a folder, or BERT's vocabulary (`*.txt`, a token a line).

        `uniperceiver` is the packaged vocabulary of CLIP with Uni-Perceiver's tokens.

        Raises:
            DataError: no such file, not a tokenizer, or a special token is missing.
        """
        if str(path) == UNIPERCEIVER and not Path(path).exists():
            return cls.uniperceiver()
        file = Path(path)
        file = file / FILE_NAME if file.is_dir() else file
        if cls is Tokenizer and file.with_name("chat_template.jinja").exists():
            from diptych.data.chat import ChatTokenizer

            return ChatTokenizer.from_folder(file.parent)  # type: ignore[return-value]
        try:
            if file.suffix == ".txt":
                return cls.from_vocabulary(file.read_text(encoding="utf-8").splitlines(), str(file))
            return cls.from_bytes(file.read_bytes(), str(file))
        except OSError as error:
            raise DataError(f"{file}: cannot read the tokenizer ({error.strerror})") from error

    @classmethod
    def from_bytes(cls, data: bytes, origin: str = "tokenizer") -> Self:
        """Read the content of a `tokenizer.json`; `origin` names it in errors."""
        try:
            raw = RawTokenizer.from_str(data.decode())
        except Exception as error:  # the Rust parser raises plain Exception for every kind of wrong content
            raise DataError(f"{origin}: not a tokenizers JSON file ({error})") from error
        return cls(raw, origin)

    @classmethod
    def from_vocabulary(cls, tokens: Sequence[str], origin: str = "vocabulary") -> Self:
        """Make BERT's lower-casing WordPiece tokenizer of its tokens, in the order of their ids.

        Raises:
            DataError: a token comes twice, or a special one is missing.
        """
        words = [token.rstrip("\n") for token in tokens]
        table = {token: i for i, token in enumerate(words)}
        if len(table) < len(words):
            twice = next(token for i, token in enumerate(words) if table[token] != i)
            raise DataError(
                f"{origin}: the token {twice!r} is there twice; expected every token once, a line"
            )
        raw = RawTokenizer(models.WordPiece(table, unk_token=_SPECIALS["unk"][0]))
        raw.normalizer = normalizers.BertNormalizer(lowercase=True)
        raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        raw.decoder = decoders.WordPiece()
        raw.add_special_tokens([names[0] for names in _SPECIALS.values() if names[0] in table])
        return cls(raw, origin)

    @classmethod
    def uniperceiver(cls) -> Self:
        """Return the packaged tokenizer of the published Uni-Perceiver models, of 49411 tokens."""
        from diptych.data.targets.tokens import PERCEIVER_TOKENS, clip_tokenizer, packaged_merges

        return cls(clip_tokenizer(packaged_merges(), PERCEIVER_TOKENS), UNIPERCEIVER)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, specials: Specials = "bert") -> Self:
        """Learn a lower-casing BPE vocabulary of at most `vocab_size` tokens.

        The same texts in any order give the same tokenizer, byte for byte. (BPE rather than WordPiece: the
        WordPiece trainer numbers its `##` letters in hash order, which changes from process to process.)
        `specials`: with BERT's special tokens, or with padding, unknown, end and slot of Uni-Perceiver.

        Raises:
            DataError: there are no texts.
        """
        raw = RawTokenizer(models.BPE(unk_token="[UNK]"))
        raw.normalizer = normalizers.BertNormalizer(lowercase=True)
        # A space mark at the start of each word lets `decode` restore the spaces.
        words = pre_tokenizers.Sequence([pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Metaspace()])
        raw.pre_tokenizer = words
        raw.decoder = decoders.Metaspace()
        tokens = [names[0] for names in _SPECIALS.values()]
        if specials == "uniperceiver":
            tokens = ["[PAD]", "[UNK]", _END, _SLOT]
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size, min_frequency=2, special_tokens=tokens, show_progress=False
        )
        raw.train_from_iterator(texts, trainer)
        if raw.get_vocab_size() == len(tokens):
            raise DataError(
                "cannot train a tokenizer: the selection has no captions; set data.text.tokenizer to a file"
            )
        return cls(raw)

    def save(self, folder: str | Path) -> Path:
        """Write `tokenizer.json` into `folder` (made if needed) and return its path."""
        file = Path(folder) / FILE_NAME
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(self.to_json(), encoding="utf-8")
        return file

    def to_json(self) -> str:
        """Return what `save` writes."""
        return str(self._raw.to_str(pretty=True))

    @property
    def vocab_size(self) -> int:
        """Number of tokens, specials included."""
        return int(self._raw.get_vocab_size(with_added_tokens=True))

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that stand for no text."""
        return frozenset((self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id))

    def vocabulary(self) -> list[str]:
        """Return every token in the order of the ids, as BERT writes them: pieces inside words with `##`.

        Tokenizers that mark the start of words instead have their mark taken off.

        Raises:
            DataError: an id has no token.
        """
        found: list[str] = []
        for i in range(self.vocab_size):
            token = self._raw.id_to_token(i)
            if token is None:
                raise DataError(f"tokenizer: the id {i} has no token; expected ids without gaps")
            found.append(token)
        mark = next((m for m in _WORD_STARTS if any(len(t) > 1 and t[0] == m for t in found)), None)
        if mark is None:
            return found
        special = {found[i] for i in self.special_ids}
        return [
            token if token in special else token[1:] if token[0] == mark and token != mark else f"##{token}"
            for token in found
        ]

    def tokens(self, text: str) -> list[int]:
        """Return the ids of `text` alone: no specials, no limit."""
        if self._clip is not None:
            return self._clip.encode(text)
        # One text at a time: encode_batch starts threads that do not survive the fork of loader workers.
        return list(self._raw.encode(text, add_special_tokens=False).ids)

    def words(self, text: str) -> list[tuple[int, ...]]:
        """Return the ids of each word of `text`: no specials, no limit."""
        if self._clip is not None:
            return [self._clip.pieces(word) for word in self._clip.words(text)]
        encoded = self._raw.encode(text, add_special_tokens=False)
        found: dict[int, list[int]] = {}
        for token, word in zip(encoded.ids, encoded.word_ids, strict=True):
            found.setdefault(-1 - len(found) if word is None else word, []).append(token)
        return [tuple(pieces) for pieces in found.values()]

    def sequence(self, text: str, max_tokens: int) -> list[int]:
        """Return the ids of `text` between start (where there is one) and end token, at most `max_tokens`.

        Long texts lose their end, never the end token. `max_tokens` is at least 2.
        """
        if not self.opens:
            return [*self.tokens(text)[: max_tokens - 1], self.sep_id]
        return [self.cls_id, *self.tokens(text)[: max_tokens - 2], self.sep_id]

    def pad(self, sequences: Sequence[Sequence[int]], max_tokens: int) -> tuple[Tensor, Tensor]:
        """Return ids [B, max_tokens] int64 and mask [B, max_tokens] bool, True at real tokens."""
        ids = np.full((len(sequences), max_tokens), self.pad_id, dtype=np.int64)
        mask = np.zeros((len(sequences), max_tokens), dtype=np.bool_)
        for row, found in enumerate(sequences):
            ids[row, : len(found)] = found
            mask[row, : len(found)] = True
        return torch.from_numpy(ids), torch.from_numpy(mask)

    def encode(self, texts: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
        """Return the padded `sequence` of each text: ids [B, max_tokens] int64, mask [B, max_tokens] bool."""
        return self.pad([self.sequence(text, max_tokens) for text in texts], max_tokens)

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """Return the text of one row of ids, special tokens left out."""
        return str(self._raw.decode([int(i) for i in ids], skip_special_tokens=True))

    def __getstate__(self) -> str:
        return self.to_json()

    def __setstate__(self, state: str) -> None:
        Tokenizer.__init__(self, RawTokenizer.from_str(state))


_DELETED = str.maketrans({**dict.fromkeys(",.'!?\"()*#:;~"), "-": " ", "/": " "})
_SPACES = re.compile(r"\s+")


def clean_caption(text: str, max_words: int = 0) -> str:
    """Clean a caption by EVE's published rules, keeping the first `max_words` words (0: all).

    Raises:
        DataError: nothing is left.
    """
    text = text.lower().translate(_DELETED).replace("`", "").replace("<person>", "person")
    words = _SPACES.sub(" ", text).strip().split(" ")
    if words == [""]:
        raise DataError(f"caption {text!r} has no words left after cleaning")
    return " ".join(words[:max_words] if max_words else words)


def clean_question(text: str, max_words: int = 0) -> str:
    """Clean a question by EVE's published rules: backticks and runs of spaces stay (an empty word counts)."""
    words = text.lower().translate(_DELETED).rstrip(" ").split(" ")
    return " ".join(words[:max_words] if max_words else words)


def clean(text: str, rules: Literal["none", "caption", "question"], max_words: int = 0) -> str:
    """Apply the named rules; `none` strips surrounding spaces and keeps the first `max_words` words (0: all).

    Raises:
        DataError: nothing is left.
    """
    if rules == "caption":
        return clean_caption(text, max_words)
    text = clean_question(text, max_words) if rules == "question" else text.strip()
    if rules == "none" and max_words:
        text = " ".join(text.split()[:max_words])
    if not text.strip():
        raise DataError("text is empty")
    return text
