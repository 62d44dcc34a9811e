"""Keys, classes and draws of the cards of classes and videos, against plain statements of what they are."""

from hypothesis import given
from hypothesis import strategies as st

from diptych.data.cards.class_sets import Classes, MediaKeys, draw_order, ending, fold, squeezed, stem
from diptych.data.cards.class_videos import clip_meta as kinetics_meta
from diptych.data.cards.msvd import clip_meta, number_of
from diptych.data.members import is_key

YOUTUBE = st.text("abcXYZ019_-", min_size=11, max_size=11)
SECONDS = st.integers(0, 999_999)


@given(st.lists(st.tuples(st.text(max_size=300), st.sampled_from(["", "a", "b"])), unique=True, max_size=20))
def test_keys_are_keys_and_differ_for_different_places(media: list[tuple[str, str]]) -> None:
    keys = MediaKeys()
    made = [keys.make(name, f"{place}/{i}") for i, (name, place) in enumerate(media)]
    assert all(map(is_key, made))
    assert len(set(made)) == len(made)


@given(st.lists(st.text(max_size=200), unique=True, max_size=20))
def test_keys_of_different_names_differ(names: list[str]) -> None:
    keys = MediaKeys()
    assert len({keys.make(name) for name in names}) == len(names)


@given(YOUTUBE, SECONDS, SECONDS)
def test_names_of_clips_are_taken_apart_as_they_were_put_together(video: str, start: int, end: int) -> None:
    told = {"youtube_id": video, "start": start, "end": end}
    assert clip_meta(f"{video}_{start}_{end}") == told
    assert kinetics_meta(f"{video}_{start:06d}_{end:06d}") == told
    assert kinetics_meta(video) == {"youtube_id": video}


@given(st.text(max_size=30))
def test_no_name_breaks_the_parsers(text: str) -> None:
    assert set(clip_meta(text)) in (set(), {"youtube_id", "start", "end"})
    assert set(kinetics_meta(text)) in (set(), {"youtube_id"}, {"youtube_id", "start", "end"})
    number = number_of(text)
    assert number is None or text == f"vid{number}" or text.startswith("vid0")
    assert isinstance(fold(text) + squeezed(text) + stem(text) + ending(text), str)


@given(st.lists(st.text(max_size=8), unique=True, min_size=1, max_size=30), st.integers(0, 5), st.data())
def test_a_draw_is_an_order_that_other_names_do_not_change(
    names: list[str], seed: int, data: st.DataObject
) -> None:
    full = draw_order(names, "c", seed)
    assert sorted(full(name)["draw"] for name in names) == list(range(len(names)))
    some = data.draw(st.lists(st.sampled_from(names), unique=True, min_size=1))
    part = draw_order(some, "c", seed)
    assert sorted(some, key=lambda n: full(n)["draw"]) == sorted(some, key=lambda n: part(n)["draw"])


def test_exact_names_win_over_those_without_marks() -> None:
    classes = Classes("toy", ["a b", "c", "C++"], {"see": 1})
    assert [classes.find(name) for name in ("a b", "A_B", "a+b", "c", "C++", "see", "d")] == [
        0,
        0,
        0,
        1,
        2,
        1,
        None,
    ]
