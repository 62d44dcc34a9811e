"""Reads the English of emoji-scenes and judges it on the stored layout: shares no code with the generator.

Only the table of words is the generator's (and has its own test).
"""

import re

from diptych.data.cards.scenes_nouns import NOUNS

SINGULAR = {noun.singular: noun.singular for noun in NOUNS} | {noun.plural: noun.singular for noun in NOUNS}
PLURAL_LIKE_SINGULAR = {noun.singular for noun in NOUNS if noun.singular == noun.plural}
_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBER = {word: i for i, word in enumerate(_WORDS)}
NUMBER |= {"a": 1, "an": 1}

SIDES = {
    "to the left of": lambda a, b: a["column"] < b["column"],
    "to the right of": lambda a, b: a["column"] > b["column"],
    "above": lambda a, b: a["row"] < b["row"],
    "below": lambda a, b: a["row"] > b["row"],
}
PLACES = [
    ["top left", "top center", "top right"],
    ["middle left", "center", "middle right"],
    ["bottom left", "bottom center", "bottom right"],
]
_SIDE = "|".join(SIDES)


def named(objects, words):
    return [o for o in objects if o["name"] == SINGULAR[words]]


def _the(objects, words):
    """Objects that "the cat" or "the cats" speaks of; grammar and number have to agree."""
    found = named(objects, words)
    assert found, f"'the {words}' presupposes something that is not there"
    if len(found) > 1:
        assert words != SINGULAR[words] or words in PLURAL_LIKE_SINGULAR
    else:
        assert words == found[0]["name"]
    return found


def _all_beside(some, others, side):
    return all(SIDES[side](a, b) for a in some for b in others)


def _on(objects, color):
    return all(o["color"] == color for o in objects)


def answer(question, objects):
    """Return the answer to a question, from the layout alone."""
    yes = {True: "yes", False: "no"}
    if m := re.fullmatch(r"How many (.+) are there\?", question):
        return str(len(named(objects, m[1])))
    if m := re.fullmatch(r"Is there (an?) (.+) in the picture\?", question):
        return yes[bool(named(objects, m[2]))]
    if m := re.fullmatch(r"What color (?:is|are) the tiles? under the (.+)\?", question):
        colors = {o["color"] for o in _the(objects, m[1])}
        assert len(colors) == 1
        return colors.pop()
    if m := re.fullmatch(r"(?:Is|Are) the (.+) on (?:an? )?(\w+) tiles?\?", question):
        return yes[_on(_the(objects, m[1]), m[2])]
    if m := re.fullmatch(r"Where in the picture is the (.+)\?", question):
        (only,) = _the(objects, m[1])
        return PLACES[only["row"]][only["column"]]
    if m := re.fullmatch(r"What is on the (\w+) (tiles?)\?", question):
        there = [o for o in objects if o["color"] == m[1]]
        assert (len(there) == 1) == (m[2] == "tile")
        return _only_name(there)
    if m := re.fullmatch(rf"What is ({_SIDE}) the (.+)\?", question):
        others = _the(objects, m[2])
        return _only_name([o for o in objects if any(SIDES[m[1]](o, b) for b in others) and o not in others])
    if m := re.fullmatch(rf"(?:Is|Are) the (.+) ({_SIDE}) the (.+)\?", question):
        return yes[_all_beside(_the(objects, m[1]), _the(objects, m[3]), m[2])]
    raise AssertionError(f"question not understood: {question}")


def _only_name(objects):
    names = {o["name"] for o in objects}
    assert len(names) == 1, "more than one right answer"
    return names.pop()


def truth(statement, left, right):
    """Return whether a statement about two layouts is true."""
    both = {"left": left, "right": right}
    if m := re.fullmatch(
        r"There (is|are) (?:exactly )?(?!more)(\w+) (.+) in the (left|right) image\.", statement
    ):
        assert (NUMBER[m[2]] == 1) == (m[1] == "is")
        return len(named(both[m[4]], m[3])) == NUMBER[m[2]]
    if m := re.fullmatch(r"There (is|are) (\w+) (.+) in the two images together\.", statement):
        assert (NUMBER[m[2]] == 1) == (m[1] == "is")
        return len(named(left, m[3])) + len(named(right, m[3])) == NUMBER[m[2]]
    if m := re.fullmatch(r"Both images show an? (.+)\.", statement):
        return all(named(objects, m[1]) for objects in (left, right))
    if m := re.fullmatch(r"Only one of the images shows an? (.+)\.", statement):
        return sum(bool(named(objects, m[1])) for objects in (left, right)) == 1
    if m := re.fullmatch(
        r"There are more (.+) in the (left|right) image than in the (left|right) image\.", statement
    ):
        assert m[2] != m[3]
        return len(named(both[m[2]], m[1])) > len(named(both[m[3]], m[1]))
    if m := re.fullmatch(
        r"In the (left|right) image, the (.+) (?:is|are) on (?:an? )?(\w+) tiles?\.", statement
    ):
        return _on(_the(both[m[1]], m[2]), m[3])
    if m := re.fullmatch(r"The (.+) in both images are on tiles of the same color\.", statement):
        objects = named(left, m[1]) + named(right, m[1])
        assert named(left, m[1])
        assert named(right, m[1])
        return len({o["color"] for o in objects}) == 1
    if m := re.fullmatch(rf"In the (left|right) image, the (.+) (?:is|are) ({_SIDE}) the (.+)\.", statement):
        objects = both[m[1]]
        return _all_beside(_the(objects, m[2]), _the(objects, m[4]), m[3])
    raise AssertionError(f"statement not understood: {statement}")


def check_captions(captions, objects):
    """Fail unless every caption is true and the first two leave nothing out."""
    full, plain, *more = captions
    groups = sorted((name, len(named(objects, name))) for name in {o["name"] for o in objects})
    described = []
    for part in re.split(rf", with | (?:{_SIDE}) |, | and ", full):
        number, words, color = re.fullmatch(r"(\w+) (.+) on (?:an? )?(\w+) tiles?", part).groups()
        described.append((SINGULAR[words], NUMBER[number]))
        assert _on(named(objects, words), color)
    assert sorted(described) == groups
    counted = [part.split(" ", 1) for part in re.split(r", | and ", plain)]
    assert sorted((SINGULAR[words], NUMBER[number]) for number, words in counted) == groups
    relation = re.match(rf"\w+ (.+) on (?:an? )?\w+ tiles? ({_SIDE}) \w+ (.+?) on ", full)
    assert (relation is not None) == bool(more)
    for some, side, others in ([relation.groups()] if relation else []) + [_short(text) for text in more]:
        assert _all_beside(_the(objects, some), _the(objects, others), side)


def _short(text):
    return re.fullmatch(rf"\w+ (.+) ({_SIDE}) \w+ (.+)", text).groups()
