"""Lazy tables: name -> "module:object", imported on first use so that `import diptych` stays cheap."""

import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from diptych.errors import UsageError


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return "; did you mean ...?" for the closest choice (or those that are equally close), else nothing."""
    found = difflib.get_close_matches(name, list(choices), n=3, cutoff=0.5)
    alike = [f"'{choice}'" for choice in found if _likeness(name, choice) == _likeness(name, found[0])]
    return f"; did you mean {' or '.join(alike)}?" if alike else ""


def _likeness(name: str, choice: str) -> float:
    return difflib.SequenceMatcher(None, choice, name).ratio()


def look_up(table: Mapping[str, str], name: str, kind: str) -> Any:
    """Import and return `table[name]`.

    Raises:
        UsageError: `name` is not in the table; the message lists the choices.
    """
    if name not in table:
        raise UsageError(f"unknown {kind} '{name}'{nearest(name, table)} (known: {', '.join(sorted(table))})")
    module, _, attribute = table[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
