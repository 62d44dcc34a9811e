"""The settings that users can write are held by a checked-in list."""

import subprocess
import sys
from pathlib import Path

import pytest

from diptych.config.keys import description, walk
from diptych.train.config import RunConfig

LIST = Path(__file__).parent / "surface.txt"
TELL = """
from diptych.config.surface import surface
from diptych.train.config import RunConfig
print("\\n".join(surface(RunConfig)))
"""
"""For a process of its own: other tests put systems and tasks into the tables."""


@pytest.mark.slow
def test_the_settings_are_those_of_the_checked_in_list() -> None:
    expected = LIST.read_text(encoding="utf-8").splitlines()
    told = subprocess.run([sys.executable, "-c", TELL], capture_output=True, text=True, check=True)
    found = told.stdout.splitlines()
    gone = "\n".join(f"- {line}" for line in expected if line not in found)
    new = "\n".join(f"+ {line}" for line in found if line not in expected)
    assert found == expected, (
        f"keys, types or defaults changed:\n{gone}\n{new}\n"
        f"If that is meant, run `make docs` and commit {LIST.name}."
    )


def test_every_setting_is_described() -> None:
    bare = [key.path for key in walk(RunConfig) if not description(key)]
    assert bare == []
