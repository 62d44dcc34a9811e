from pathlib import Path

import pytest
from config_example import Run

from diptych.config import recipes
from diptych.config.layers import find_recipe, resolve
from diptych.errors import ConfigError


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "packaged"
    (folder / "eve").mkdir(parents=True)
    (folder / "eve" / "coco.yaml").write_text("extends: _shared\nname: packaged\n")
    (folder / "eve" / "_shared.yaml").write_text("data: {path: x}\n")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(recipes, "PACKAGED", folder)
    return folder


@pytest.mark.parametrize("name", ["eve/coco", "eve/coco.yaml"])
def test_a_packaged_recipe_by_name(packaged: Path, name: str) -> None:
    assert find_recipe(name) == packaged / "eve" / "coco.yaml"
    assert resolve(Run, name).sources["name"] == "eve/coco.yaml:2"
    assert resolve(Run, name).sources["data.path"] == "eve/_shared.yaml:1"
    assert recipes.packaged_recipes() == ["eve/coco"]


def test_a_file_of_the_user_goes_first(packaged: Path) -> None:
    Path("eve").mkdir()
    Path("eve/coco.yaml").write_text("name: own\ndata: {path: x}\n")
    assert resolve(Run, "eve/coco").config.name == "own"


def test_extends_looks_beside_the_recipe_and_then_among_the_packaged(packaged: Path) -> None:
    Path("sub").mkdir()
    Path("sub/low.yaml").write_text("extends: eve/coco\ntrain: {steps: 3}\n")
    Path("sub/high.yaml").write_text("extends: low.yaml\ntrain: {precision: bf16}\n")
    found = resolve(Run, "sub/high.yaml")
    assert (found.config.name, found.config.train.steps, found.config.train.precision) == (
        "packaged",
        3,
        "bf16",
    )
    assert found.sources["train.steps"] == "sub/low.yaml:2"


def test_a_recipe_outside_the_working_directory_is_named_by_its_path(packaged: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    path.write_text("data: {path: x}\n")
    assert resolve(Run, path).sources["data.path"] == f"{path}:1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "extends: nowhere\n",
            "extends: recipe 'nowhere': no such file and no packaged recipe (packaged: eve/coco) (a.yaml:1)",
        ),
        (
            "extends: eve/cocoo\n",
            "extends: recipe 'eve/cocoo': no such file and no packaged recipe; "
            "did you mean 'eve/coco'? (a.yaml:1)",
        ),
        ("\nextends: [x]\n", "extends: expected the path or name of one recipe, got ['x'] (a.yaml:2)"),
        ("extends: a.yaml\n", "a.yaml: recipes extend each other in a circle"),
    ],
)
def test_wrong_extends(packaged: Path, text: str, message: str) -> None:
    Path("a.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        resolve(Run, "a.yaml")
    assert str(error.value) == message


def test_a_recipe_that_is_not_there_or_not_text(packaged: Path) -> None:
    with pytest.raises(ConfigError, match="recipe 'eve': no such file and no packaged recipe"):
        find_recipe("eve")
    Path("binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary\.yaml: cannot be read as a recipe"):
        resolve(Run, "binary.yaml")
