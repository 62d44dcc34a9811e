"""Imports point downwards: the contracts of pyproject.toml hold, cover every package, and can fail."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONTRACTS = PROJECT["tool"]["importlinter"]["contracts"]


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts of this project against the package `diptych` in `folder`."""
    command = [
        sys.executable,
        "-c",
        "import sys; from importlinter.cli import lint_imports_command as c; sys.exit(c())",
    ]
    options = ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(folder), "NO_COLOR": "1"}
    return subprocess.run(
        [*command, *options], cwd=folder, env=environment, text=True, capture_output=True, check=False
    )


def test_imports_point_downwards() -> None:
    result = lint(ROOT / "src")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "2 kept, 0 broken" in result.stdout


@pytest.mark.parametrize(
    ("module", "statement", "broken"),
    [
        ("config/schema.py", "import diptych.train", "diptych.config.schema -> diptych.train"),
        ("errors.py", "def f():\n    import diptych.resolve", "diptych.errors -> diptych.resolve"),
        (
            "systems/eve/__init__.py",
            "import diptych.systems.two_tower",
            "diptych.systems.eve -> diptych.systems.two_tower",
        ),
    ],
)
def test_an_upward_or_sideways_import_is_found(
    tmp_path: Path, module: str, statement: str, broken: str
) -> None:
    shutil.copytree(
        ROOT / "src" / "diptych", tmp_path / "diptych", ignore=shutil.ignore_patterns("__pycache__", "*.npz")
    )
    with (tmp_path / "diptych" / module).open("a") as file:
        file.write(f"\n\n{statement}\n")
    result = lint(tmp_path)
    assert result.returncode == 1
    assert broken in result.stdout


def test_the_layers_name_every_part_of_the_package() -> None:
    layers = next(contract["layers"] for contract in CONTRACTS if contract["type"] == "layers")
    named = {part.strip() for layer in layers for part in layer.split(":")}
    package = ROOT / "src" / "diptych"
    there = {
        f"diptych.{path.stem}"
        for path in package.iterdir()
        if (path.suffix == ".py" and path.stem != "__init__") or (path / "__init__.py").exists()
    }
    assert there == named


def test_the_systems_that_must_stay_apart_are_all_named() -> None:
    apart = next(contract["modules"] for contract in CONTRACTS if contract["type"] == "independence")
    folders = (ROOT / "src" / "diptych" / "systems").iterdir()
    assert set(apart) == {
        f"diptych.systems.{path.name}" for path in folders if (path / "__init__.py").exists()
    }
