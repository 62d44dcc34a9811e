"""The settings that users can write are held by a checked-in list."""

from pathlib import Path

from diptych.config.keys import description, walk
from diptych.config.surface import surface
from diptych.train.config import RunConfig

LIST = Path(__file__).parent / "surface.txt"


def test_the_settings_are_those_of_the_checked_in_list() -> None:
    expected = LIST.read_text(encoding="utf-8").splitlines()
    found = surface(RunConfig)
    gone = "\n".join(f"- {line}" for line in expected if line not in found)
    new = "\n".join(f"+ {line}" for line in found if line not in expected)
    assert found == expected, (
        f"keys, types or defaults changed:\n{gone}\n{new}\n"
        f"If that is meant, run `make docs` and commit {LIST.name}."
    )


def test_every_setting_is_described() -> None:
    bare = [key.path for key in walk(RunConfig) if not description(key)]
    assert bare == []
