"""The class names of the public datasets, in the order that fixes their class numbers.

Lists ship as `lists/<dataset>.txt`: one class a line, its name first, synonyms behind it after tabs; lists of
ImageNet begin each line with the WordNet id. ATTRIBUTION.md says where they come from.
"""

from functools import cache
from importlib.resources import files

from diptych.errors import UsageError
from diptych.resolve import nearest

LISTS = ("imagenet-1k", "imagenet-21k", "kinetics-400", "kinetics-700", "moments-in-time")
"""Datasets whose classes have a file."""

SHORT: dict[str, tuple[str, ...]] = {
    "cola": ("incorrect", "correct"),
    "sst-2": ("bad", "wonderful"),
    "mrpc": ("no", "yes"),
    "qqp": ("no", "yes"),
    "mnli": ("no", "maybe", "yes"),
    "qnli": ("no", "yes"),
    "rte": ("no", "yes"),
    # The published systems leave WNLI out; it is a question of entailment like RTE.
    "wnli": ("no", "yes"),
    "ax": ("no", "maybe", "yes"),
    "snli-ve": ("contradiction", "neutral", "entailment"),
}
"""Classes of GLUE, as words of a prompt (contradiction, neutral, entailment: no, maybe, yes); of SNLI-VE."""

ALIASES = {
    "imagenet": "imagenet-1k",
    "imagenet-22k": "imagenet-21k",
    "22k": "imagenet-21k",
    "k400": "kinetics-400",
    "k700": "kinetics-700",
    "mit": "moments-in-time",
    "sst2": "sst-2",
    **{f"glue-{task}": task for task in SHORT if task != "snli-ve"},
}

_WITH_IDS = ("imagenet-1k", "imagenet-21k")


def canonical(name: str) -> str:
    """Return the name that a list of classes goes by.

    Raises:
        UsageError: there is no such list.
    """
    known = (*LISTS, *SHORT)
    found = ALIASES.get(name.lower(), name.lower())
    if found not in known:
        near = nearest(name.lower(), (*known, *ALIASES))
        raise UsageError(f"no list of classes '{name}'{near} (known: {', '.join(known)})")
    return found


def class_names(name: str) -> tuple[str, ...]:
    """Return the names of the classes; class i is the i-th. Two classes may have the same name.

    Args:
        name: a dataset, as in `LISTS` and `SHORT`, or a short form of it.

    Raises:
        UsageError: there is no such list.
    """
    return tuple(names[0] for names in class_synonyms(name))


def class_synonyms(name: str) -> tuple[tuple[str, ...], ...]:
    """Return all names of each class, the principal one first.

    Raises:
        UsageError: there is no such list.
    """
    found = canonical(name)
    if found in SHORT:
        return tuple((word,) for word in SHORT[found])
    start = int(found in _WITH_IDS)
    return tuple(fields[start:] for fields in _fields(found))


def class_ids(name: str) -> tuple[str, ...]:
    """Return the WordNet ids of the classes, `n01440764` first.

    Raises:
        UsageError: the classes of that dataset have none.
    """
    found = canonical(name)
    if found not in _WITH_IDS:
        raise UsageError(f"the classes of '{name}' have no WordNet ids ({' and '.join(_WITH_IDS)} have)")
    return tuple(fields[0] for fields in _fields(found))


@cache
def _fields(name: str) -> tuple[tuple[str, ...], ...]:
    text = (files(__package__) / "lists" / f"{name}.txt").read_text(encoding="utf-8")
    return tuple(tuple(line.split("\t")) for line in text.splitlines())
