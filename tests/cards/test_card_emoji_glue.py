"""emoji-glue: what its rows say is true, splits are apart, halves are even, and it prepares as text."""

from collections import Counter, defaultdict
from pathlib import Path

import pytest

from diptych.data.cards.emoji_glue import GROUPS, TASKS, convert
from diptych.data.cards.sprites import shipped
from diptych.data.index import ShardDataset
from diptych.data.prepare import load_card, prepare
from diptych.data.sample import Sample
from diptych.errors import UsageError

CONCEPTS = {concept.name: concept for concept in shipped()}
BY_CODE = {concept.hexcode: concept for concept in shipped()}


@pytest.fixture(scope="module")
def rows() -> dict[str, list[Sample]]:
    found = defaultdict(list)
    for sample in convert(None, {}):
        found[sample.meta["task"]].append(sample)
    return found


@pytest.mark.slow
def test_pairs_are_the_same_or_not(rows: dict[str, list[Sample]]) -> None:
    for sample in rows["emoji-same"]:
        name, tag = sample.captions
        concept = CONCEPTS[name]
        assert (tag in concept.tags) == bool(sample.meta["label"])
        assert sample.meta["class_name"] == ("yes" if sample.meta["label"] else "no")
        assert sample.meta["label"] or tag not in name.split()
    labels = Counter((s.split, s.meta["label"]) for s in rows["emoji-same"])
    assert all(labels[split, 0] == labels[split, 1] > 400 for split in ("train", "val", "test"))


@pytest.mark.slow
def test_groups_are_those_of_the_names(rows: dict[str, list[Sample]]) -> None:
    assert len(rows["emoji-group"]) == 2 * len(CONCEPTS)
    for sample in rows["emoji-group"]:
        (text,) = sample.captions
        concept = BY_CODE[sample.meta["concept"]]
        assert text in (concept.name, ", ".join(concept.tags))
        assert sample.meta["class_name"] == GROUPS[concept.group]
        assert TASKS["emoji-group"]["classes"][sample.meta["label"]] == GROUPS[concept.group]


@pytest.mark.slow
def test_scores_are_shared_tags(rows: dict[str, list[Sample]]) -> None:
    for sample in rows["emoji-similarity"]:
        a, b = (set(CONCEPTS[name].tags) for name in sample.captions)
        assert sample.meta["score"] == pytest.approx(10 * len(a & b) / (len(a) + len(b)), abs=0.0051)
        assert sample.meta["target"] == pytest.approx(sample.meta["score"] / 5, abs=0.001)
    scores = [sample.meta["score"] for sample in rows["emoji-similarity"]]
    assert 0.3 < sum(score > 0 for score in scores) / len(scores) < 0.7


def test_no_name_is_in_two_splits(rows: dict[str, list[Sample]]) -> None:
    splits: dict[str, set[str]] = defaultdict(set)
    for sample in rows["emoji-same"]:
        splits[sample.captions[0]].add(sample.split)
    for sample in rows["emoji-similarity"]:
        for name in sample.captions:
            splits[name].add(sample.split)
    assert set(splits) == set(CONCEPTS)
    assert all(len(found) == 1 for found in splits.values())
    assert {name for name, found in splits.items() if found == {"test"}} == {
        name for name, concept in CONCEPTS.items() if concept.held_out
    }


def test_numbers_count_the_rows_of_a_split(rows: dict[str, list[Sample]]) -> None:
    for task, samples in rows.items():
        seen: dict[str, int] = defaultdict(int)
        for sample in samples:
            assert sample.key == f"{task}-{sample.split}-{seen[sample.split]}"
            assert sample.meta["index"] == seen[sample.split]
            seen[sample.split] += 1


def test_seeds_and_tasks() -> None:
    def texts(**options: str) -> list[tuple[str, ...]]:
        return [sample.captions for sample in convert(None, {"tasks": "emoji-same", **options})]

    assert texts() == texts(seed="0") != texts(seed="1")
    assert len(texts()) == len(texts(seed="1"))
    with pytest.raises(UsageError, match="made of what ships with Diptych"):
        next(convert(Path("raw"), {}))
    with pytest.raises(UsageError, match=r"emoji-glue', option tasks: unknown 'emoji-sim'"):
        next(convert(None, {"tasks": "emoji-sim"}))


@pytest.mark.slow
def test_it_prepares_with_the_counts_it_says(tmp_path: Path) -> None:
    summary = prepare(load_card("emoji-glue"), None, tmp_path, progress=None)
    assert not summary.problems
    dataset = ShardDataset.open(tmp_path)
    for name, split in load_card("emoji-glue").splits.items():
        assert len(dataset.select(name)) == split.expected
    assert dataset.info["facts"] == {"glue": TASKS}
    assert dataset.extensions == ["json", "txt"]
