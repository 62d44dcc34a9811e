"""What must be cheap imports nothing heavy (how long it takes: benchmarks/startup.py)."""

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "duckdb", "pyarrow", "matplotlib", "tensorboard", "tokenizers", "PIL")


def imported(code: str) -> set[str]:
    """Return the top-level modules that are loaded after running `code` in a new process."""
    report = "import sys, json; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True
    )
    return set(json.loads(result.stdout.splitlines()[-1]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        "import diptych",
        "from diptych.cli.main import build_app; import typer.main; typer.main.get_command(build_app())",
        "from diptych.cli.main import run; assert run(['--help']) == 0",
        "import diptych.config.layers, diptych.config.surface",
    ],
    ids=["package", "commands", "help", "configuration"],
)
def test_nothing_heavy_is_imported(code: str) -> None:
    assert imported(code) & set(HEAVY) == set()


def test_the_package_alone_imports_next_to_nothing() -> None:
    assert imported("import diptych") - imported("pass") == {"diptych"}


def test_the_check_sees_what_is_imported() -> None:
    assert "PIL" in imported("import PIL.Image")
