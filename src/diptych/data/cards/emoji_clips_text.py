"""Captions of a clip."""

from diptych.data.cards.emoji_clips_plan import Clip, State, Thing
from diptych.data.cards.scenes_text import enumerate_words, tiles


def captions(clip: Clip) -> tuple[str, str, str]:
    """Describe a clip: in order; the same told the other way round; without the tiles of what stays still."""
    return caption(clip), _other_way(clip), caption(clip, all_tiles=False)


def caption(clip: Clip, all_tiles: bool = True) -> str:
    """Return everything that happens, in order, and what stays still."""
    words = _Words(clip, all_tiles)
    joint = ", then " if clip.form == "two" else " while "
    return joint.join(words.clauses()) + words.rest(", and ")


def _other_way(clip: Clip) -> str:
    words = _Words(clip, all_tiles=True)
    clauses = words.clauses()
    if clip.form == "one":
        still = words.rest("")
        return f"{still}, and {clauses[0]}" if still else clauses[0]
    if clip.form == "together":
        return f"{clauses[1]} while {clauses[0]}{words.rest(', and ')}"
    if len(actors(clip)) == 2:
        return f"{clauses[1]} after {clauses[0]}{words.rest(', and ')}"
    return f"first {clauses[0]}, after that it {clauses[1]}{words.rest(', and ')}"


def actors(clip: Clip) -> list[Thing]:
    """Return the things that do something, what acts first in front."""
    acting = [thing for thing in clip.things if thing.acts]
    return sorted(acting, key=lambda thing: next(i for i, event in enumerate(thing.events) if event))


class _Words:
    def __init__(self, clip: Clip, all_tiles: bool) -> None:
        self._clip, self._all_tiles = clip, all_tiles
        acting = actors(clip)
        self._passed = [other for thing in acting for other in clip.passed(thing)]

    def clauses(self) -> list[str]:
        """One for each event, in order; the second event of the same thing has no subject."""
        acting, told = actors(self._clip), list[str]()
        for thing in acting:
            for part, event in enumerate(thing.events):
                if event:
                    happens = self._predicate(thing, part, event)
                    again = len(acting) == 1 and told
                    told.append(happens if again else f"{self._name(thing, thing.states[part])} {happens}")
        return told

    def rest(self, before: str) -> str:
        """What stays still and has not been named yet; empty if there is nothing."""
        others = [thing for thing in self._clip.still if thing not in self._passed]
        if not others:
            return ""
        verb = "stays" if len(others) == 1 else "stay"
        return f"{before}{enumerate_words([self._name(o, o.states[0]) for o in others])} {verb} still"

    def _predicate(self, thing: Thing, part: int, event: str) -> str:
        if event == "changes":
            return f"changes into {thing.states[part + 1].item.noun.counted(1)}"
        passed = self._clip.passed(thing) if event.startswith("moves") else []
        if not passed:
            return event
        return f"{event} past {enumerate_words([self._name(o, o.states[0]) for o in passed])}"

    def _name(self, thing: Thing, state: State) -> str:
        noun = state.item.noun.counted(1)
        return f"{noun} on {tiles(thing.color, 1)}" if self._all_tiles or thing.acts else noun
