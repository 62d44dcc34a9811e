"""Finding recipes by path or packaged name, and reading them with what they extend."""

import os
from pathlib import Path

import diptych
from diptych.config.plain_yaml import Given, read
from diptych.errors import ConfigError
from diptych.resolve import nearest

PACKAGED = Path(diptych.__file__).parent / "recipes"
EXTENDS = "extends"
"""The key of a recipe's top level that names the recipe below it."""


def packaged_recipes() -> list[str]:
    """Return the names of the recipes that ship with Diptych, without ".yaml", sorted.

    Files whose name starts with "_" are parts that recipes extend, and no recipes by themselves.
    """
    files = (path for path in PACKAGED.rglob("*.yaml") if not path.name.startswith("_"))
    return sorted(path.relative_to(PACKAGED).with_suffix("").as_posix() for path in files)


def find_recipe(name: str | Path, beside: Path | None = None) -> Path:
    """Return the file of a recipe: an existing path, else a packaged recipe; ".yaml" may be left out.

    Args:
        name: path or packaged name.
        beside: folder that relative paths start from; default: the working directory.

    Raises:
        ConfigError: there is no such file; names the nearest packaged recipe.
    """
    for folder in (beside or Path(), PACKAGED):
        for path in (folder / name, folder / f"{name}.yaml"):
            if path.is_file():
                return path
    known = packaged_recipes()
    guess = nearest(str(name).removesuffix(".yaml"), known) or f" (packaged: {', '.join(known) or 'none'})"
    raise ConfigError(f"recipe '{name}': no such file and no packaged recipe{guess}")


def read_recipe(name: str | Path) -> list[dict[str, Given]]:
    """Return the values of a recipe and of all it extends, the one that everything extends first.

    Raises:
        ConfigError: a file is missing or no valid recipe, or recipes extend each other in a circle.
    """
    layers: list[dict[str, Given]] = []
    seen: list[Path] = []
    path: Path | None = find_recipe(name)
    while path is not None:
        if path.resolve() in seen:
            raise ConfigError(f"{label(path)}: recipes extend each other in a circle")
        seen.append(path.resolve())
        values = read(_text(path), label(path))
        below = values.pop(EXTENDS, None)
        layers.insert(0, values)
        path = None if below is None else _extended(below, path)
    return layers


def label(path: Path) -> str:
    """Return how sources name a recipe: packaged name, or path from the working directory if below it."""
    resolved = path.resolve()
    for folder in (PACKAGED.resolve(), Path.cwd()):
        if resolved.is_relative_to(folder):
            return resolved.relative_to(folder).as_posix()
    return os.fspath(path)


def _extended(below: Given, path: Path) -> Path:
    if not isinstance(below.value, str):
        raise ConfigError(
            f"{EXTENDS}: expected the path or name of one recipe, got {below.value!r} ({below.source})"
        )
    try:
        return find_recipe(below.value, path.parent)
    except ConfigError as error:
        raise ConfigError(f"{EXTENDS}: {error} ({below.source})") from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a recipe: {error}") from None
