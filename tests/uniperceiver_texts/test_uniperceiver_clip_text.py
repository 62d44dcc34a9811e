"""CLIP's tokenizer as published: repairs, words, ids, and the merges that ship."""

import hashlib
import pickle
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.data.clip_text import ClipWords, clean_clip
from diptych.data.targets.tokens import load_tokenizer, packaged_merges

CLIP = ClipWords()
SMALL = ClipWords([("c", "a"), ("ca", "t</w>")])


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  A \n\t B  ", "a b"),
        ("It’s “fine” ‘ok’", "it's \"fine\" 'ok'"),
        ("cafÃ© â€œhiâ€\x9d donâ€™t â€¦", 'café "hi" don\'t …'),
        ("NESCAFÉ® MAÇÃO voilà ¿é?", "nescafé® mação voilà ¿é?"),
        ("&amp;lt; &lt;b&gt; &Eacute;", "< <b> é"),
        ("ﬁne ＡＢ１　x e\u0301", "fine ab1 x é"),
        ("\ufeffa\x00b\x1b[36mc \x91d\x92", "abc 'd'"),
        ("½ ² ™ …", "½ ² ™ …"),
        ("", ""),
    ],
)
def test_repairs(text: str, cleaned: str) -> None:
    assert clean_clip(text) == cleaned


@given(st.text(st.characters(max_codepoint=0x7E, min_codepoint=0x20), max_size=30))
def test_ordinary_letters_stay(text: str) -> None:
    if "&" not in text:
        assert clean_clip(text) == " ".join(text.lower().split())


def test_merges_that_ship_are_those_of_clip() -> None:
    merges = packaged_merges()
    assert (len(merges), merges[0], merges[-1]) == (48_894, ("i", "n"), ("jeky", "ll</w>"))
    assert len(set(merges)) == len(merges)
    text = "\n".join(" ".join(pair) for pair in merges)
    assert hashlib.sha256(text.encode()).hexdigest() == MERGES_SHA
    assert (files("diptych.data.targets") / "licences" / "clip-mit.txt").is_file()


MERGES_SHA = "f61f2adf497e6f5357c347aeb4646fabe82f341e946de5bdec5d2858e41bef4a"


def test_ids_as_published() -> None:
    """The ids of the reference page; they are those of CLIP below 49,408."""
    assert (CLIP.size, CLIP.end_id, CLIP.slot_id) == (49_411, 49_407, 49_410)
    assert CLIP.encode("a photo of a dog.") == [320, 1125, 539, 320, 1929, 269]
    assert CLIP.encode("<|SPE|>") == [49_410]
    assert CLIP.encode("<|mask|>") == [27, 347, 8306, 91, 285]
    assert CLIP.decode([320, 1125]) == "a photo "
    assert CLIP.id_of("left</w>") == 1823
    with pytest.raises(KeyError):
        CLIP.id_of("no such token")


def test_target_sets_have_the_same_ids() -> None:
    targets = load_tokenizer("uniperceiver")
    for text in ("kite (bird of prey)", "abseiling", "it's 12 o'clock"):
        assert targets.encode(text) == [*CLIP.encode(text), CLIP.end_id]


def test_pieces_by_hand() -> None:
    letters = {letter: SMALL.id_of(letter) for letter in ("c", "a", "t")}
    # One merge is "ca", the second "cat" at the end of a word.
    assert SMALL.encode("cat") == [513]
    assert SMALL.encode("cats") == [512, letters["t"], SMALL.id_of("s</w>")]
    assert SMALL.words("Cat's 12, c<|spe|>a") == ["cat", "'s", "1", "2", ",", "c", "<|spe|>", "a"]
    assert SMALL.slot_id == SMALL.size - 1


def test_can_be_pickled() -> None:
    again = pickle.loads(pickle.dumps(SMALL))
    assert again.encode("cat dog") == SMALL.encode("cat dog")


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=20))
def test_words_come_back(text: str) -> None:
    """Any text is ids, words are pieces in their order, and the ids say the words again."""
    words = CLIP.words(text)
    assert [i for word in words for i in CLIP.pieces(word)] == CLIP.encode(text)
    assert CLIP.decode(CLIP.encode(text)) == "".join(f"{word} " for word in words)
