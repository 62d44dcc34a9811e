"""Every packaged recipe resolves."""

import pytest

from diptych.config.layers import dump_yaml
from diptych.config.recipes import PACKAGED, packaged_recipes
from diptych.demo.plan import STAGES
from diptych.train.config import resolve_run


def test_there_are_packaged_recipes() -> None:
    assert {stage.recipe for stage in STAGES} <= set(packaged_recipes())
    assert not list(PACKAGED.rglob("*.yml")), "recipes end in .yaml"


@pytest.mark.parametrize("name", packaged_recipes())
def test_every_packaged_recipe_resolves(name: str) -> None:
    found = resolve_run(name)
    assert all(":" in source or source == "default" for source in found.sources.values())
    assert found.config.system.name in name
    dump_yaml(found.config)
