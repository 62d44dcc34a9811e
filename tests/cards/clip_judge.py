"""Reads the English of emoji-clips and judges it on the stored layout: shares no code with the generator.

Only the table of words is the generator's (and has its own test).
"""

import re
from itertools import pairwise

from diptych.data.cards.scenes_nouns import NOUNS

WORDS = {noun.singular for noun in NOUNS}
ARTICLE = {noun.counted(1): noun.singular for noun in NOUNS}
PLACES = [
    ["top left", "top center", "top right"],
    ["middle left", "center", "middle right"],
    ["bottom left", "bottom center", "bottom right"],
]
_EVENT = r"moves \w+|grows|shrinks|appears|vanishes|spins \w+|changes into an? .+?"


def event(before, after):
    """Return what leads from one stored state to the next."""
    found = []
    if after["name"] != before["name"]:
        found.append(f"changes into {_a(after['name'])}")
    for field, less, more in (
        ("row", "moves up", "moves down"),
        ("column", "moves left", "moves right"),
        ("size", "shrinks", "grows"),
        ("opacity", "vanishes", "appears"),
        ("angle", "spins counterclockwise", "spins clockwise"),
    ):
        if after[field] != before[field]:
            found.append(more if after[field] > before[field] else less)
    assert len(found) <= 1, "two things at once"
    return found[0] if found else ""


def _a(name):
    return next(words for words, singular in ARTICLE.items() if singular == name)


def events(thing):
    states = thing["states"]
    return [event(a, b) for a, b in pairwise(states)]


def still(things):
    return [thing for thing in things if not any(events(thing))]


def named(things, name):
    """The only thing that is ever called so."""
    (found,) = (t for t in things if any(state["name"] == name for state in t["states"]))
    return found


def _on(things, color):
    (found,) = (t for t in things if t["color"] == color)
    return found


def _name(thing):
    (name,) = {state["name"] for state in thing["states"]}
    return name


def _moved(thing):
    return [e for e in events(thing) if e.startswith("moves")]


def _part(thing):
    """The parts in which it acts."""
    return [part for part, e in enumerate(events(thing)) if e]


def answer(question, layout):
    """Return the answer to a question, from the layout alone."""
    things = layout["things"]
    yes = {True: "yes", False: "no"}
    if m := re.fullmatch(r"In which direction does the (.+) move\?", question):
        (moves,) = _moved(named(things, m[1]))
        return moves.split()[1]
    if m := re.fullmatch(r"Which way does the (.+) spin\?", question):
        (spins,) = (e for e in events(named(things, m[1])) if e.startswith("spins"))
        return spins.split()[1]
    if m := re.fullmatch(r"Does the (.+) (grow|appear) or (shrink|vanish)\?", question):
        done = events(named(things, m[1]))
        told = {"grows": "grow", "shrinks": "shrink", "appears": "appear", "vanishes": "vanish"}
        (found,) = (told[e] for e in done if told.get(e) in m.groups())
        return found
    if m := re.fullmatch(r"What is on the (\w+) tile at the (start|end)\?", question):
        return _on(things, m[1])["states"][0 if m[2] == "start" else -1]["name"]
    if m := re.fullmatch(r"Where is the (.+) at the (start|end)\?", question):
        state = named(things, m[1])["states"][0 if m[2] == "start" else -1]
        assert state["opacity"] == 1
        return PLACES[state["row"]][state["column"]]
    if m := re.fullmatch(r"Which acts (first|last), the (.+) or the (.+)\?", question):
        parts = {_part(named(things, name))[0]: name for name in (m[2], m[3])}
        assert sorted(parts) == [0, 1]
        return parts[0 if m[1] == "first" else 1]
    if m := re.fullmatch(r"Does the (.+) act before the (.+)\?", question):
        first, second = (_part(named(things, name)) for name in m.groups())
        assert first != second
        return yes[first < second]
    if m := re.fullmatch(r"What does the (.+) do (first|last)\?", question):
        done = events(named(things, m[1]))
        assert all(done)
        return done[0 if m[2] == "first" else -1]
    if m := re.fullmatch(r"Does the (.+) stay still\?", question):
        return yes[not any(events(named(things, m[1])))]
    if m := re.fullmatch(r"Is there (an? .+) in the video\?", question):
        return yes[any(state["name"] == ARTICLE[m[1]] for t in things for state in t["states"])]
    if m := re.fullmatch(r"What color is the tile under the (.+)\?", question):
        return named(things, m[1])["color"]
    if m := re.fullmatch(r"What is on the (\w+) tile\?", question):
        return _name(_on(things, m[1]))
    if question == "What stays still?":
        (found,) = still(things)
        return _name(found)
    if question == "How many tiles are there?":
        return str(len(things))
    if question == "How many things stay still?":
        return str(len(still(things)))
    for words, verbs in {
        "moves": ("moves",),
        "spins": ("spins",),
        "changes its size": ("grows", "shrinks"),
        "is not always there": ("appears", "vanishes"),
    }.items():
        if question == f"What {words}?":
            (found,) = (t for t in things if any(e.startswith(verbs) for e in events(t)))
            return _name(found)
    if m := re.fullmatch(rf"What ({_EVENT})\?", question):
        (found,) = (t for t in things if m[1] in events(t))
        return _name(found)
    if m := re.fullmatch(r"Does the (.+?) (move \w+|grow|shrink|appear|vanish|spin \w+)\?", question):
        verb, _, way = m[2].partition(" ")
        said = f"{verb}{'es' if verb == 'vanish' else 's'} {way}".strip()
        return yes[said in events(named(things, m[1]))]
    raise AssertionError(f"question not understood: {question}")


def check_caption(text, layout):
    """Fail unless a caption with tiles is true and leaves nothing out."""
    things = layout["things"]
    told, rest = _told(text)
    happened = sorted((part, t["color"], e) for t in things for part, e in enumerate(events(t)) if e)
    together = {part for part, *_ in happened} == {0}
    said, mentioned = [], []
    for part, color, happens, past in told:
        thing = _on(things, color[1])
        assert thing["states"][part]["name"] == color[0]
        said.append((0 if together else part, color[1], happens))
        passed = past or []
        if not happens.startswith("moves"):
            assert not passed
            continue
        assert sorted(c for _, c in passed) == sorted(o["color"] for o in still(things) if _passes(thing, o))
        mentioned += passed
    assert sorted(said) == happened
    quiet = {(_name(t), t["color"]) for t in still(things)}
    assert {*mentioned, *rest} == quiet
    assert not set(mentioned) & set(rest)


def _passes(mover, other):
    """Whether a thing moves two cells, and the other one is beside the cell in the middle."""
    rows = {state["row"] for state in mover["states"]}
    columns = {state["column"] for state in mover["states"]}
    row, column = other["states"][0]["row"], other["states"][0]["column"]
    if rows == {0, 2}:
        return row == 1 and abs(column - min(columns)) == 1
    return columns == {0, 2} and column == 1 and abs(row - min(rows)) == 1


_THING = r"an? .+? on an? \w+ tile"
_REST_LAST = rf"(?P<told>.+), and (?P<rest>{_THING}(?:,? .+)?) stays? still"
_REST_FIRST = r"(?P<rest>.+) stays? still, and (?P<told>.+)"


def _thing(words):
    m = re.fullmatch(r"(an? .+) on an? (\w+) tile", words)
    return ARTICLE[m[1]], m[2]


def _things(words):
    return [_thing(part) for part in re.split(r", | and (?=an? )", words)]


def _told(text):
    """Return the events told, (part, (name, colour), event, passed), and what is said to be still."""
    rest = []
    for form in (_REST_LAST, _REST_FIRST):
        if m := re.fullmatch(form, text):
            text, rest = m["told"], _things(m["rest"])
            break
    if m := re.fullmatch(r"first (.+), after that it (.+)", text):
        parts = [m[1], m[2]]
    elif ", then " in text:
        parts = text.split(", then ")
    elif " while " in text:
        parts = text.split(" while ")
    else:
        parts = text.split(" after ")[::-1]
    told, subject = [], None
    for number, clause in enumerate(parts):
        m = re.fullmatch(rf"(?:({_THING}) )?({_EVENT})(?: past (.+))?", clause)
        assert m, clause
        subject = _thing(m[1]) if m[1] else subject
        part = 0 if " while " in text else number
        told.append((part, subject, m[2], _things(m[3]) if m[3] else None))
        if m[2].startswith("changes"):
            subject = ARTICLE[m[2].removeprefix("changes into ")], subject[1]
    return told, rest
