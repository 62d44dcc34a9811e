"""Regenerate the pages and lists that come from the code: `make docs`, or `python docs/generate.py`.

With `--check` nothing is written: it names what is out of date and ends with status 1.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from diptych.config.keys import Key, description, walk
from diptych.config.surface import default_text, surface
from diptych.config.values import type_name
from diptych.data.cards import render_markdown
from diptych.train.config import RunConfig

ROOT = Path(__file__).resolve().parent.parent


def configuration_keys() -> str:
    """Return the page of all settings: one table a section, and one a variant of it."""
    parts = [
        "# All settings\n",
        "Made from the configuration classes by `make docs`; change their fields, not this page.\n",
        "Each setting has a dotted key. Write it into a recipe, or behind it on the command line "
        "(`optim.lr=1e-4`); [configuration.md](configuration.md) explains how the two combine. "
        "`diptych config keys` prints this list.\n",
    ]
    tables: dict[str, list[Key]] = {}
    for key in walk(RunConfig):
        tables.setdefault(_heading(key.path), []).append(key)
    for heading, keys in tables.items():
        parts.append(f"## {heading}\n")
        about = _about(heading, keys[0].condition)
        if about:
            parts.append(about + "\n")
        rows = ["| key | type | default | meaning |", "|---|---|---|---|", *(_row(key) for key in keys)]
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def _heading(path: str) -> str:
    section, dot, _ = path.partition(".")
    return section if dot else "Run"


def _about(heading: str, condition: str) -> str:
    field = RunConfig.model_fields.get(heading.partition("[")[0])
    text = (field.description or "") if field else ""
    return f"{text} With `{condition}`." if condition else text


def _row(key: Key) -> str:
    cells = [
        f"`{key.plain}`",
        f"`{type_name(key.field)}`",
        f"`{default_text(key)}`",
        description(key),
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


GENERATED: dict[str, Callable[[], str]] = {
    "docs/configuration-keys.md": configuration_keys,
    "docs/datasets.md": render_markdown,
    "tests/config/surface.txt": lambda: "\n".join(surface(RunConfig)) + "\n",
}
"""File of the project -> function that returns its text."""


def outdated() -> list[str]:
    """Return the generated files whose text is not what the code says."""
    return [name for name, make in GENERATED.items() if not _holds(ROOT / name, make())]


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


def main() -> int:
    """Write what is out of date, or only name it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="write nothing; status 1 if something is out of date"
    )
    check = parser.parse_args().check
    names = outdated()
    for name in names:
        if not check:
            (ROOT / name).write_text(GENERATED[name](), encoding="utf-8")
        sys.stdout.write(f"{name}: {'out of date; run `make docs`' if check else 'written'}\n")
    return int(check and bool(names))


if __name__ == "__main__":
    sys.exit(main())
