"""Named sub-sections: `dict[str, SomeSection]` fields."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml
from pydantic import Field

from diptych.config.keys import matching
from diptych.config.layers import dump_yaml, resolve
from diptych.config.schema import Section, Variants
from diptych.config.surface import diff, surface
from diptych.errors import ConfigError


class Source(Section):
    path: str = Field(description="Where it is.")
    weight: float = Field(1.0, gt=0, description="How often it is drawn.")


class Step(Section):
    name: str


class Scale(Step):
    name: Literal["scale"] = "scale"
    factor: float = Field(1.0, description="By how much.")


class Turn(Step):
    name: Literal["turn"] = "turn"
    degrees: float = Field(0.0, description="How far.")


STEPS = {"scale": f"{__name__}:Scale", "turn": f"{__name__}:Turn"}


class Data(Section):
    sources: dict[str, Source] = Field({}, description="What to read.")
    steps: dict[str, Annotated[Step, Variants("step", STEPS)]] = Field({}, description="What to do.")


class Root(Section):
    data: Data = Data()


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_entries_merge_over_layers_and_remember_who_set_them(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "data:\n  sources:\n    coco: {path: a}\n    sbu: {path: b, weight: 2}\n")
    recipe = write(tmp_path, "r.yaml", "extends: base.yaml\ndata:\n  sources:\n    coco: {weight: 3}\n")
    found = resolve(Root, recipe, ["data.sources.vg.path=c", "--", "data.sources.coco.weight=4"])
    assert found.config.data.sources == {
        "coco": Source(path="a", weight=4),
        "sbu": Source(path="b", weight=2),
        "vg": Source(path="c"),
    }
    assert found.sources["data.sources.coco.weight"] == "command line"
    assert found.sources["data.sources.vg.path"] == "script"
    assert found.sources["data.sources.vg.weight"] == "default"
    assert found.sources["data.sources.sbu.weight"].endswith("base.yaml:4")


def test_null_takes_an_entry_away_and_it_can_come_back(tmp_path: Path) -> None:
    recipe = write(tmp_path, "r.yaml", "data:\n  sources:\n    coco: {path: a, weight: 2}\n")
    assert resolve(Root, recipe, ["data.sources.coco=null"]).config.data.sources == {}
    again = resolve(Root, recipe, ["data.sources.coco=null", "--", "data.sources.coco.path=z"])
    assert again.config.data.sources == {"coco": Source(path="z", weight=1)}


def test_no_entries_is_the_default() -> None:
    found = resolve(Root)
    assert found.config.data.sources == {}
    assert found.sources["data.sources"] == "default"


def test_dumps_read_back_equal() -> None:
    config = resolve(Root, None, ["data.sources.coco.path=a", "data.sources.coco.weight=0.5"]).config
    assert resolve(Root, {"data": {"sources": {"coco": {"path": "a", "weight": 0.5}}}}).config == config
    assert resolve(Root, yaml.safe_load(dump_yaml(config))).config == config


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("data.sources.coco.wieght=2", "did you mean 'data.sources.coco.weight'?"),
        ("data.sources.coco.weight=-1", "data.sources.coco.weight: "),
        ("data.sources.coco.weight=2", "data.sources.coco.path: no value and no default"),
        ("data.sources.coco=3", "data.sources.coco: expected a section"),
    ],
)
def test_wrong_entries_are_refused_with_their_path(argument: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(Root, None, [argument])
    assert message in str(caught.value)


def test_keys_show_a_placeholder() -> None:
    assert surface(Root) == [
        "data.sources.<name>.path: str (required)",
        "data.sources.<name>.weight: float > 0 = 1.0",
        "data.steps.<name>[scale].name: 'scale' = scale",
        "data.steps.<name>[scale].factor: float = 1.0",
        "data.steps.<name>[turn].name: 'turn' = turn",
        "data.steps.<name>[turn].degrees: float = 0.0",
    ]
    assert [key.path for key in matching(Root, "data.sources")] == [
        "data.sources.<name>.path",
        "data.sources.<name>.weight",
    ]


def test_entries_may_choose_their_class() -> None:
    recipe = {"data": {"steps": {"a": {"name": "turn", "degrees": 90}, "b": {"name": "scale"}}}}
    found = resolve(Root, recipe, ["data.steps.b.factor=2", "data.steps.a.name=scale"])
    assert found.config.data.steps == {"a": Scale(), "b": Scale(factor=2)}
    assert resolve(Root, yaml.safe_load(dump_yaml(found.config))).config == found.config
    with pytest.raises(ConfigError, match=r"data\.steps\.c\.name: expected one of scale, turn"):
        resolve(Root, None, ["data.steps.c.factor=2"])
    with pytest.raises(ConfigError, match=r"did you mean 'data\.steps\.b\.factor'"):
        resolve(Root, recipe, ["data.steps.b.facter=2"])


def test_differences_name_the_entry() -> None:
    one = resolve(Root, None, ["data.sources.coco.path=a"]).config
    two = resolve(Root, None, ["data.sources.coco.path=b"]).config
    assert diff(one, two) == ["data.sources.coco.path: a -> b"]
