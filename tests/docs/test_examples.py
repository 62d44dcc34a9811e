"""What README.md and docs/*.md tell a reader to type works (see doc_blocks.py for the marks)."""

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main
from doc_blocks import Block, command_lines, read_blocks

from diptych.cli.main import build_app
from diptych.train.config import resolve_run

ROOT = Path(__file__).parent.parent.parent
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs/systems").glob("*.md")),
]
BLOCKS = {page.relative_to(ROOT).as_posix(): read_blocks(page.read_text(encoding="utf-8")) for page in PAGES}
COMMANDS = [
    pytest.param(name, arguments, id=f"{name}:{block.line} {' '.join(arguments[:3])}")
    for name, blocks in BLOCKS.items()
    for block in blocks
    if block.language in ("bash", "sh", "console")
    for arguments in command_lines(block, "diptych")
]
RUN = [name for name, blocks in BLOCKS.items() if any("test" in block.words for block in blocks)]


def write_files(blocks: list[Block], folder: Path) -> None:
    for block in blocks:
        if block.file:
            (folder / block.file).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.file).write_text(block.body, encoding="utf-8")


@cache
def application() -> Any:
    return typer.main.get_command(build_app())


def parse(arguments: list[str]) -> dict[str, object]:
    """Return the parameters of a `diptych` command line; typer raises on anything it does not know."""
    command = application()
    rest = list(arguments)
    while hasattr(command, "commands"):
        if not rest or rest[0].startswith("-"):  # diptych --help, diptych --version
            break
        assert rest[0] in command.commands, f"no command '{rest[0]}' among {sorted(command.commands)}"
        command = command.commands[rest.pop(0)]
    if {"-h", "--help", "--version"} & set(rest):
        return {}
    return dict(command.make_context("diptych", rest).params)


@pytest.mark.parametrize(("page", "arguments"), COMMANDS)
def test_command_lines_of_the_pages_parse(
    page: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(BLOCKS[page], tmp_path)
    monkeypatch.chdir(tmp_path)
    parameters = parse(arguments)
    wrong_on_purpose = any(
        "fails" in block.words and arguments in command_lines(block, "diptych") for block in BLOCKS[page]
    )
    for name, value in parameters.items():
        if name.startswith("recipe") and not wrong_on_purpose:
            resolve_run(str(value), parameters.get("settings") or [])


def test_make_targets_of_the_pages_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for name, blocks in BLOCKS.items():
        for block in blocks:
            if block.language == "bash":
                for arguments in command_lines(block, "make"):
                    assert {word for word in arguments if "=" not in word} <= targets, f"{name}:{block.line}"


def test_links_of_the_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_examples_of_the_pages_run(page: str, tmp_path: Path) -> None:
    blocks = BLOCKS[page]
    write_files(blocks, tmp_path)
    for block, behind in zip(blocks, [*blocks[1:], None], strict=True):
        if "test" not in block.words:
            continue
        result = run(block, tmp_path)
        where = f"{page}:{block.line}\n{result.stdout}"
        assert (result.returncode != 0) == ("fails" in block.words), where
        if behind is not None and "output" in behind.words:
            assert result.stdout.strip() == behind.body.strip(), where


def run(block: Block, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a bash or Python block with this environment's `diptych`; stdout and stderr come together."""
    command = {
        "bash": ["bash", "-euo", "pipefail", "-c"],
        "python": [sys.executable, "-c"],
    }[block.language]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    caches = str(folder / ".cache")
    return subprocess.run(
        [*command, block.body],
        cwd=folder,
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": caches},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=600,
    )
