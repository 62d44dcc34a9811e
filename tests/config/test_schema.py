import pytest
from config_example import Big, Image, Pair, Run, Train
from pydantic import ValidationError

from diptych.config.schema import section_of, variants_of
from diptych.errors import UsageError

DATA = {"path": "x"}


def test_the_name_chooses_the_class_and_dumps_hold_all_its_fields() -> None:
    run = Run(data=DATA, system={"name": "pair", "towers": ["a"]})
    assert run.system == Pair(towers=("a",))
    assert run.model_dump()["system"] == {"name": "pair", "width": 512, "towers": ("a",)}


def test_the_default_of_a_variant_section_is_validated() -> None:
    assert Run(data=DATA).system == Big(width=96, experts=4)


@pytest.mark.parametrize("system", [{"name": "small"}, {"width": 3}, 5, Train()])
def test_a_variant_section_without_a_known_name_is_refused(system: object) -> None:
    with pytest.raises(ValidationError, match="name out of big, pair"):
        Run(data=DATA, system=system)


def test_with_changes_a_validated_copy() -> None:
    run = Run(data=DATA, system=Pair(width=7))
    changed = run.with_(name="b", train={"steps": 5})
    assert (changed.name, changed.train.steps, changed.system) == ("b", 5, Pair(width=7))
    assert run.name == "run"
    with pytest.raises(ValidationError):
        run.with_(nmae="c")
    with pytest.raises(ValidationError):
        Image().with_(size=0)


def test_fields_tell_sections_variants_and_values_apart() -> None:
    fields = Run.model_fields
    assert section_of(fields["train"]) is Train
    assert section_of(fields["name"]) is None
    assert variants_of(fields["train"]) is None
    marks = variants_of(fields["system"])
    assert marks is not None
    assert marks.section("pair") is Pair
    with pytest.raises(UsageError, match="unknown system 'pari'; did you mean 'pair'"):
        marks.section("pari")
