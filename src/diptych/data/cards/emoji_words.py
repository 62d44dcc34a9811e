"""Kinds of the words that captions of the emoji cards use, for `diptych words mine --tagger emoji`."""

from diptych.data.cards.scenes_layout import COLORS
from diptych.data.cards.scenes_nouns import NOUNS

VERBS = (
    *("moves", "move", "grows", "grow", "shrinks", "shrink", "appears", "appear", "vanishes", "vanish"),
    *("spins", "spin", "changes", "change", "stays", "stay"),
)
"""What things of `emoji-clips` do."""
_SMALL = frozenset({"of", "and", "in", "on", "with", "the", "a", "an"})


def kinds() -> dict[str, str]:
    """Return word -> kind: what emoji are called, colours of tiles, what happens. `tile` says nothing."""
    names = (part for noun in NOUNS for part in (*noun.singular.split(), *noun.plural.split()))
    found = {word.lower(): "NOUN" for word in names if word.lower() not in _SMALL}
    return found | dict.fromkeys(COLORS, "ADJ") | dict.fromkeys(VERBS, "VERB")
