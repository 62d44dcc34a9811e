import hashlib
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import models, pre_tokenizers

from diptych.data.text import Tokenizer, clean, clean_caption, clean_question
from diptych.errors import DataError

GOLDEN = Path(__file__).parents[1] / "parity" / "golden" / "eve"
TEXTS = ["a red circle above a blue square", "two green circles", "the red square, the Blue circle"] * 2


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((GOLDEN / "text_normalise.json").read_text())
    return content


def words_tokenizer(*tokens: str) -> Tokenizer:
    """A tokenizer with one token a word, numbered as given."""
    raw = RawTokenizer(models.WordLevel({t: i for i, t in enumerate(tokens)}, unk_token=tokens[1]))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return Tokenizer(raw)


def test_cleaning_matches_the_published_code(golden: dict[str, Any]) -> None:
    assert [clean_caption(text, 30) for text, _ in golden["pre_caption_30"]] == [
        wanted for _, wanted in golden["pre_caption_30"]
    ]
    for words in (30, 50):
        for text, wanted in golden[f"pre_question_{words}"]:
            assert clean_question(text, words) == wanted
    for text in golden["pre_caption_raises"]:
        with pytest.raises(DataError, match="no words left"):
            clean_caption(text, 30)


def test_clean_by_name() -> None:
    assert clean("  A man, riding. ", "none") == "A man, riding."
    assert clean("one two  three four", "none", 3) == "one two three"
    assert clean("A man, riding a horse.", "caption", 2) == "a man"
    assert clean("Is  it?", "question") == "is  it"
    for rules in ("none", "caption", "question"):
        with pytest.raises(DataError):
            clean(" ", rules)  # type: ignore[arg-type]


def test_encode_by_hand() -> None:
    tokenizer = words_tokenizer("<pad>", "<unk>", "<s>", "</s>", "<mask>", "red", "dog")
    ids, mask = tokenizer.encode(["red dog", "", "dog dog red dog", "cat red"], 5)
    assert ids.tolist() == [[2, 5, 6, 3, 0], [2, 3, 0, 0, 0], [2, 6, 6, 5, 3], [2, 1, 5, 3, 0]]
    assert mask.tolist() == [
        [True, True, True, True, False],
        [True, True, False, False, False],
        [True] * 5,
        [True, True, True, True, False],
    ]
    assert str(ids.dtype) == "torch.int64"
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id) == (
        0, 1, 2, 3, 4,
    )  # fmt: skip
    assert tokenizer.special_ids == {0, 1, 2, 3, 4}
    assert tokenizer.vocab_size == 7


def test_no_texts_encode_to_no_rows() -> None:
    ids, mask = Tokenizer.train(TEXTS, 60).encode([], 7)
    assert ids.shape == mask.shape == (0, 7)


def test_trained_tokenizer_lowers_and_restores_text() -> None:
    tokenizer = Tokenizer.train(TEXTS, 100)
    assert tokenizer.vocab_size <= 100
    ids, _ = tokenizer.encode(["A RED circle above"], 20)
    assert tokenizer.decode(ids[0]) == "a red circle above"
    assert tokenizer.tokens("Square") == tokenizer.tokens("square")
    assert tokenizer.unk_id in tokenizer.tokens("red Ω")


def test_vocabulary_limit_holds() -> None:
    # 19 different letters, signs and the space mark, and 5 specials, and merges up to the limit.
    assert Tokenizer.train(TEXTS, 40).vocab_size == 40


@pytest.mark.slow
def test_training_is_the_same_in_every_process_and_order() -> None:
    program = (
        "import sys, json, hashlib\nfrom diptych.data.text import Tokenizer\n"
        "texts = json.loads(sys.argv[1])\n"
        "print(hashlib.sha256(Tokenizer.train(texts, 90).to_json().encode()).hexdigest())"
    )
    words = [f"{a}{b} {b}{c}ing {c}{a}s" for a in "bdfgk" for b in "aeiou" for c in "lmnrst"]
    command = [sys.executable, "-c", program, json.dumps(words[::-1])]
    there = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert there == hashlib.sha256(Tokenizer.train(words, 90).to_json().encode()).hexdigest()


def test_saved_file_is_a_standard_tokenizer(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train(TEXTS, 80)
    file = tokenizer.save(tmp_path / "new")
    assert file == tmp_path / "new" / "tokenizer.json"
    raw = RawTokenizer.from_file(str(file))
    assert raw.encode("two green circles").ids == tokenizer.tokens("two green circles")
    for again in (
        Tokenizer.from_file(file),
        Tokenizer.from_file(tmp_path / "new"),
        Tokenizer.from_bytes(file.read_bytes()),
        pickle.loads(pickle.dumps(tokenizer)),
    ):
        assert again.to_json() == tokenizer.to_json()
        assert again.mask_id == tokenizer.mask_id


def test_a_file_with_its_own_padding_and_cutting_is_read_without() -> None:
    tokenizer = Tokenizer.train(TEXTS, 80)
    raw = RawTokenizer.from_str(tokenizer.to_json())
    raw.enable_padding(length=50)
    raw.enable_truncation(1)
    again = Tokenizer.from_bytes(raw.to_str().encode())
    assert again.tokens("two green circles") == tokenizer.tokens("two green circles")


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read the tokenizer"):
        Tokenizer.from_file(tmp_path / "none.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"tokenizer\.json: not a tokenizers JSON file"):
        Tokenizer.from_file(tmp_path)
    with pytest.raises(
        DataError, match=r"no mask token in the vocabulary \(expected one of \[MASK\], <mask>\)"
    ):
        words_tokenizer("<pad>", "<unk>", "<s>", "</s>", "dog")


def test_training_without_texts_is_refused() -> None:
    with pytest.raises(DataError, match="no captions"):
        Tokenizer.train([], 100)
