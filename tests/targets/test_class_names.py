"""The lists of classes that ship with Diptych."""

import pytest

from diptych.data.targets.names import (
    ALIASES,
    LISTS,
    SHORT,
    canonical,
    class_ids,
    class_names,
    class_synonyms,
)
from diptych.errors import UsageError


def test_counts_and_order() -> None:
    counts = {name: (len(class_names(name)), len(set(class_names(name)))) for name in LISTS}
    assert counts == {
        "imagenet-1k": (1000, 998),
        "imagenet-21k": (21_842, 20_127),
        "kinetics-400": (400, 400),
        "kinetics-700": (700, 700),
        "moments-in-time": (339, 339),
    }
    for name in LISTS[2:]:
        names = class_names(name)
        # Sorted with blanks, underscores and plus signs alike: folders on a disk sort as the list does.
        for mark in " _+":
            marked = [n.replace(" ", mark) for n in names]
            assert marked == sorted(marked)
        assert not any("," in n or n != " ".join(n.split()) for n in names)


def test_imagenet() -> None:
    names, ids = class_names("imagenet-1k"), class_ids("imagenet-1k")
    assert (ids[0], names[0], ids[-1], names[-1]) == ("n01440764", "tench", "n15075141", "toilet paper")
    assert list(ids) == sorted(set(ids))
    assert [i for i, name in enumerate(names) if name == "missile"] == [657, 744]
    assert [i for i, name in enumerate(names) if name == "sunglasses"] == [836, 837]
    assert names[21] == "kite (bird of prey)"
    all_ids = class_ids("imagenet-21k")
    assert all_ids[:1000] == ids
    assert list(all_ids[1000:]) == sorted(set(all_ids) - set(ids))
    assert class_names("imagenet-21k")[:1000] == names
    synonyms = dict(zip(all_ids, class_synonyms("imagenet-21k"), strict=True))
    assert synonyms["n00004475"] == ("organism", "being")
    assert all(name.strip() == name != "" for names in synonyms.values() for name in names)


def test_names_that_published_folders_spell_oddly() -> None:
    for name in (
        "massaging person's head",
        "passing American football (in game)",
        "punching person (boxing)",
    ):
        assert name in class_names("kinetics-400")
        assert name in class_names("k700")
    assert "adult female singing" in class_names("mit")


def test_words_of_glue() -> None:
    assert class_names("SST-2") == ("bad", "wonderful")
    assert class_names("glue-mnli") == ("no", "maybe", "yes")
    assert class_synonyms("cola") == (("incorrect",), ("correct",))
    assert all(canonical(alias) in (*LISTS, *SHORT) for alias in ALIASES)


def test_unknown_names() -> None:
    with pytest.raises(UsageError, match="no list of classes 'kinetics'; did you mean 'kinetics-"):
        class_names("kinetics")
    with pytest.raises(UsageError, match="'k400' have no WordNet ids"):
        class_ids("k400")
