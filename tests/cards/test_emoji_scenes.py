"""emoji-scenes: truth of every text, disjoint splits, balance, purity, pixels."""

import io
import re
from collections import Counter, defaultdict

import numpy as np
import pytest
from emoji_fixture import ORDINARY, make_raw
from PIL import Image
from scene_judge import answer, check_captions, truth

from diptych.data.cards.emoji_scenes import CARD, load_sprites, spread
from diptych.data.cards.scenes_draw import BACKGROUND, Painter
from diptych.data.cards.scenes_layout import (
    COLORS,
    SPLITS,
    Draws,
    Group,
    Item,
    draw_pair,
    relations,
    split_of_combination,
)
from diptych.data.cards.scenes_nouns import NOUNS, article
from diptych.data.cards.scenes_text import captions, questions
from diptych.data.cards.sprites import STYLES, shipped
from diptych.errors import DataError, UsageError


@pytest.fixture(scope="module")
def samples():
    return list(CARD.convert(None, {"size": "600", "resolution": "48"}))


@pytest.fixture(scope="module")
def sprites():
    return load_sprites(shipped())


def objects(sample):
    return sample.meta["layout"]["objects"]


@pytest.mark.slow
def test_every_answer_is_right(samples):
    asked = 0
    for sample in samples:
        for row in sample.meta["questions"]:
            assert answer(row["question"], objects(sample)) == row["answer"], (sample.key, row)
            asked += 1
    assert asked > 6 * len(samples)


def test_every_statement_is_as_true_as_its_label(samples):
    judged = 0
    for left, right in zip(samples[::2], samples[1::2], strict=True):
        assert right.meta["statements"] == []
        for row in left.meta["statements"]:
            assert truth(row["statement"], objects(left), objects(right)) is row["label"], (left.key, row)
            judged += 1
    assert judged == 4 * len(samples) // 2


def test_every_caption_is_true_and_complete(samples):
    for sample in samples:
        check_captions(sample.captions, objects(sample))


def test_the_judge_can_say_no(samples):
    """The oracle above is worth something: it rejects the texts of other scenes."""
    wrong = 0
    for sample, other in zip(samples, samples[2:], strict=False):
        try:
            check_captions(other.captions, objects(sample))
        except (AssertionError, KeyError):
            wrong += 1
    assert wrong == len(samples) - 2


def test_layouts_are_sound(samples):
    for sample in samples:
        cells = [(o["row"], o["column"]) for o in objects(sample)]
        assert len(set(cells)) == len(cells) == sample.meta["objects"]
        assert 2 <= len(cells) <= 5
        assert all(0 <= row < 3 and 0 <= column < 3 for row, column in cells)
        concepts = {o["concept"] for o in objects(sample)}
        assert sample.meta["combination"] == "+".join(sorted(concepts))
        assert sample.meta["kinds"] == len(concepts) >= 2


def test_splits_share_no_combination_whatever_the_seed(sprites):
    owners = defaultdict(set)
    for seed in (0, 1, 99):
        for pair in range(300):
            for scene in draw_pair(seed, pair, sprites.items, STYLES):
                owners[scene.combination].add(SPLITS[pair % 10])
    assert Counter(len(splits) for splits in owners.values()) == {1: len(owners)}
    assert all(split_of_combination(text) in splits for text, splits in owners.items())


def test_split_sizes_and_pairs(samples):
    assert Counter(s.split for s in samples) == {"train": 480, "val": 60, "test": 60}
    for left, right in zip(samples[::2], samples[1::2], strict=True):
        assert (left.meta["pair_side"], right.meta["pair_side"]) == ("left", "right")
        assert (left.meta["pair_other"], right.meta["pair_other"]) == (right.key, left.key)
        assert left.split == right.split
        assert left.meta["pair"] == right.meta["pair"]


@pytest.fixture(scope="module")
def asked(sprites):
    """Kind -> answers of 3000 scenes."""
    found = defaultdict(Counter)
    for pair in range(1500):
        scenes = draw_pair(3, pair, sprites.items, STYLES)
        draws = Draws(f"test {pair}")
        for scene, other in (scenes, scenes[::-1]):
            for row in questions(scene, sprites.items, other, draws):
                found[row["kind"]][row["answer"]] += 1
    return found


# A count that should be n has a standard deviation below sqrt(n): four of them are allowed.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "answers"),
    [
        ("presence", 2),
        ("color_check", 2),
        ("relation", 2),
        ("count", 5),
        ("color", len(COLORS)),
        ("position", 9),
    ],
)
def test_answers_are_balanced(asked, kind, answers):
    counts = asked[kind]
    assert len(counts) == answers
    even = counts.total() / answers
    assert max(abs(count - even) for count in counts.values()) <= 4 * even**0.5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["object_on_color", "object_beside"])
def test_no_object_is_the_answer_too_often(asked, kind):
    assert asked[kind].total() > 1000
    assert asked[kind].most_common(1)[0][1] <= 0.02 * asked[kind].total()


def test_statement_labels_are_balanced_in_each_kind(samples):
    labels = defaultdict(Counter)
    for sample in samples:
        for row in sample.meta["statements"]:
            labels["all"][row["label"]] += 1
            labels[row["kind"]][row["label"]] += 1
    assert labels["all"][True] == labels["all"][False]
    assert len(labels) == 9
    for kind, counts in labels.items():
        assert 0.3 < counts[True] / counts.total() < 0.7, (kind, counts)


def test_scene_i_depends_on_seed_and_i_only(sprites):
    order = [draw_pair(7, pair, sprites.items, STYLES) for pair in range(20)]
    assert [draw_pair(7, pair, sprites.items, STYLES) for pair in reversed(range(20))] == order[::-1]
    assert draw_pair(8, 0, sprites.items, STYLES) != order[0]


def test_more_scenes_begin_with_the_fewer(samples):
    assert list(CARD.convert(None, {"size": "12", "resolution": "48"})) == samples[:12]


def test_the_resolution_does_not_change_the_content(samples):
    large = list(CARD.convert(None, {"size": "6", "resolution": "200"}))
    assert [s.meta for s in large] == [s.meta for s in samples[:6]]
    assert Image.open(io.BytesIO(large[0].media["webp"])).size == (200, 200)


def test_an_odd_number_leaves_the_last_scene_without_statements(samples):
    last = list(CARD.convert(None, {"size": "5", "resolution": "48"}))[-1]
    assert last.key == samples[4].key
    assert (last.meta["pair_other"], last.meta["statements"]) == ("", [])
    assert last.media == samples[4].media


def test_style_option():
    chosen = {s.meta["style"] for s in CARD.convert(None, {"size": "20", "style": "twemoji, noto"})}
    assert chosen == {"twemoji", "noto"}


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [10, 12])
def test_kinds_option(kinds):
    """Few kinds: other pictures of the same form, every combination in its own split, statements in full."""
    some = list(CARD.convert(None, {"size": "600", "resolution": "48", "kinds": str(kinds)}))
    assert len({o["concept"] for s in some for o in objects(s)}) == kinds
    assert all(split_of_combination(s.meta["combination"]) == s.split for s in some)
    assert sum(len(s.meta["statements"]) for s in some) == 4 * 300
    again = list(CARD.convert(None, {"size": "20", "resolution": "48", "kinds": str(kinds)}))
    assert [s.meta for s in again] == [s.meta for s in some[:20]]


def test_kinds_are_spread_over_the_list(sprites):
    items = sprites.items
    assert spread(items, len(items)) == spread(items, 10_000) == items
    assert spread(items[:10], 4) == (items[0], items[2], items[5], items[7])


def test_an_item_that_leaves_no_combination_is_given_up(sprites):
    """With ten items, two of them kept, the third may be in no combination of the split."""
    items = spread(sprites.items, 10)
    shared = Counter()
    for pair in range(0, 4000, 10):
        left, right = draw_pair(5, pair + 9, items, STYLES)
        assert {split_of_combination(scene.combination) for scene in (left, right)} == {"test"}
        shared[len({g.item for g in left.groups} & {g.item for g in right.groups})] += 1
    assert shared[2] > 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": "9"}, "kinds=9: expected a whole number from 10 to 302"),
        ({"style": "notto"}, "unknown 'notto'; did you mean 'noto'"),
        ({"size": "0"}, "size=0: expected a whole number from 1"),
        ({"resolution": "32"}, "resolution=32: expected a whole number from 48"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        next(CARD.convert(None, options))


def test_pixels_show_the_layout(sprites):
    painter = Painter(120, sprites.pictures)
    for pair in range(10):
        for scene in draw_pair(0, pair, sprites.items, STYLES):
            picture = np.asarray(painter.paint(scene))
            colors = {cell: COLORS[group.color] for group in scene.groups for cell in group.cells}
            for row in range(3):
                for column in range(3):
                    # 3 of 40 pixels below the cell's upper edge: on the tile, above the sprite.
                    seen = tuple(picture[40 * row + 3, 40 * column + 20].tolist())
                    assert seen == colors.get((row, column), BACKGROUND)


def test_pixels_show_the_sprite(sprites):
    """The middle of a tile is the sprite over the tile's colour, as Pillow composes it."""
    scene = draw_pair(0, 0, sprites.items, STYLES)[0]
    picture = np.asarray(Painter(258, sprites.pictures).paint(scene)).astype(float)
    group = scene.groups[0]
    row, column = group.cells[0]
    cell = picture[86 * row + 11 : 86 * row + 75, 86 * column + 11 : 86 * column + 75]
    data = sprites.pictures[group.item.hexcode, scene.style]
    sprite = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA")).astype(float)
    alpha = sprite[..., 3:] / 255
    expected = sprite[..., :3] * alpha + np.array(COLORS[group.color]) * (1 - alpha)
    assert np.abs(cell - expected).max() <= 2


def test_sprites_from_the_packages(tmp_path):
    raw = make_raw(tmp_path)
    samples = list(CARD.convert(raw, {"size": "20", "resolution": "300"}))
    assert len(samples) == 20
    names = {o["name"] for s in samples for o in objects(s)}
    # What scenes use of the fixture's concepts: not the face, the hands, the keycap and the sign.
    assert names <= {*ORDINARY.values(), "piñata", "telephone"}
    for sample in samples:
        check_captions(sample.captions, objects(sample))


def test_too_few_concepts(sprites):
    with pytest.raises(DataError, match=r"2 of the \d+ emoji that scenes use are in the raw packages"):
        load_sprites([c for c in shipped() if c.name in ("dog", "cat")])
    with pytest.raises(DataError, match="too few concepts"):
        draw_pair(0, 8, sprites.items[:2], STYLES)  # one combination of two, and it belongs to 'train'


def item(singular: str) -> Item:
    return next(Item("X", noun) for noun in NOUNS if noun.singular == singular)


def test_relations_by_hand():
    a = Group(item("cat"), "red", ((0, 0), (1, 0)))
    b = Group(item("dog"), "red", ((0, 1),))
    c = Group(item("fox"), "red", ((2, 0),))
    assert relations(a, b) == ["to the left of"]
    assert relations(b, a) == ["to the right of"]
    assert relations(a, c) == ["above"]
    assert relations(c, a) == ["below"]
    assert relations(c, b) == ["to the left of", "below"]
    assert relations(b, Group(item("cow"), "red", ((0, 0), (0, 2)))) == []


def test_captions_by_hand(sprites):
    scene = draw_pair(0, 0, sprites.items, STYLES)[0]
    groups = (
        Group(item("wolf"), "orange", ((0, 0), (1, 0))),
        Group(item("owl"), "blue", ((1, 2),)),
        Group(item("ear of corn"), "gray", ((2, 0), (2, 1))),
    )
    scene = type(scene)(groups, 0, "noto")
    full, plain, relation = captions(scene, Draws("any"))
    assert full == (
        "two wolves on orange tiles to the left of an owl on a blue tile, with two ears of corn on gray tiles"
    )
    assert plain == "two wolves, an owl and two ears of corn"
    assert relation in (
        "two wolves to the left of an owl",
        "an owl to the right of two wolves",
        "two wolves above two ears of corn",
        "two ears of corn below two wolves",
        "an owl above two ears of corn",
        "two ears of corn below an owl",
        "an owl to the right of two ears of corn",
        "two ears of corn to the left of an owl",
    )


def test_plurals_and_articles():
    plural = {noun.singular: noun.plural for noun in NOUNS}
    expected = {
        "cat": "cats", "fox": "foxes", "bus": "buses", "butterfly": "butterflies", "monkey": "monkeys",
        "peach": "peaches", "wolf": "wolves", "mouse": "mice", "ox": "oxen", "deer": "deer",
        "glass of milk": "glasses of milk", "tooth": "teeth", "maple leaf": "maple leaves", "key": "keys",
        "paintbrush": "paintbrushes", "tomato": "tomatoes", "scarf": "scarves", "piñata": "piñatas",
    }  # fmt: skip
    assert {word: plural[word] for word in expected} == expected
    assert len(plural) == len(NOUNS)
    words = {
        "owl": "an",
        "unicorn": "a",
        "umbrella": "an",
        "cat": "a",
        "X-ray": "a",
        "hourglass": "an",
        "eagle": "an",
    }
    assert {word: article(word) for word in words} == words


def test_every_noun_has_its_picture():
    assert {noun.name for noun in NOUNS} <= {concept.name for concept in shipped()}
