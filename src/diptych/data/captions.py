"""How published SOHO groups the captions of a picture."""

import random
from collections.abc import Callable, Sequence


def caption_groups(
    captions: Sequence[str], size: int, shuffles: random.Random, pick: Callable[[int], int]
) -> list[list[str]]:
    """Cut the captions of a picture into groups of `size`; the last one is filled up.

    What it lacks are captions of the same picture: the first of a shuffle where there are enough of them, and
    single picks where not. So a caption may be twice in a group.

    Args:
        captions: at least one.
        size: captions of a group.
        shuffles: the state of Python's generator, which published shuffles come from.
        pick: returns a whole number below the one it is given; published picks have a generator of their own.
    """
    groups = [list(captions[i : i + size]) for i in range(0, len(captions), size)]
    lacking = size - len(groups[-1])
    if 0 < lacking <= len(captions):
        mixed = list(captions)
        shuffles.shuffle(mixed)
        groups[-1] += mixed[:lacking]
    elif lacking:
        groups[-1] += [captions[pick(len(captions))] for _ in range(lacking)]
    return groups
