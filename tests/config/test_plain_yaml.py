import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from diptych.config.plain_yaml import Dumper, Given, Loader, from_mapping, read, read_argument
from diptych.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-5", 3e-5),
        ("1.", 1.0),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("5", 5),
        ("-1_000", -1000),
        ("010", 10),
        ("true", True),
        ("yes", "yes"),
        ("off", "off"),
        ("null", None),
        ("~", None),
        ("2024-01-02", "2024-01-02"),
        ("1:30", "1:30"),
        ("0x10", "0x10"),
        (".inf", math.inf),
        ("[1, a, 2.5]", [1, "a", 2.5]),
        ("'5'", "5"),
    ],
)
def test_scalars_follow_the_core_schema(text: str, value: object) -> None:
    found = read_argument(text, "script")
    assert found.value == value
    assert type(found.value) is type(value)
    assert (found.source, found.text) == ("script", text)


def test_every_value_has_the_line_of_its_key() -> None:
    values = read("# a comment\na: 1\nb:\n  c: [1,\n    2]\n\n  d: {e: x}\n", "r.yaml")
    assert values["a"] == Given(1, "r.yaml:2")
    assert values["b"].source == "r.yaml:3"
    assert values["b"].value["c"] == Given([1, 2], "r.yaml:4")
    assert values["b"].value["d"].value["e"] == Given("x", "r.yaml:7")
    assert values["b"].plain() == {"c": [1, 2], "d": {"e": "x"}}


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "null\n"])
def test_an_empty_recipe_has_no_values(text: str) -> None:
    assert read(text, "r.yaml") == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "r.yaml:3: 'a' is given twice (first at r.yaml:1)"),
        ("a: {b: 1, b: 2}\n", "r.yaml:1: 'b' is given twice"),
        ("a: [1\n", "r.yaml:2: not valid YAML"),
        ("a: &x 1\nb: *x\n", "r.yaml:2: not valid YAML: aliases"),
        ("- 1\n- 2\n", "r.yaml: expected 'key: value' lines"),
        ("just text\n", "r.yaml: expected 'key: value' lines"),
        ("? [1, 2]\n: 3\n", "r.yaml:1: not valid YAML: a key must be a plain word"),
        (
            "a: !!python/object/apply:os.getcwd []\n",
            "r.yaml:1: not valid YAML: could not determine a constructor",
        ),
        ("a: 1\n---\nb: 2\n", "r.yaml:2: not valid YAML"),
        ("a: \x00\n", "r.yaml: not valid YAML"),
        ("[" * 5000, "r.yaml"),
    ],
)
def test_what_is_no_recipe_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(text, "r.yaml")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_argument_that_is_no_yaml_is_text() -> None:
    assert read_argument("[broken", "script").value == "[broken"
    assert read_argument("*", "script").value == "*"


def test_a_mapping_gets_one_source() -> None:
    assert from_mapping({"a": {"b": 1}}, "script") == {"a": Given({"b": Given(1, "script")}, "script")}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(VALUES)
def test_what_is_written_reads_back(value: object) -> None:
    text = yaml.dump(value, Dumper=Dumper, allow_unicode=True)
    assert yaml.load(text, Loader=Loader) == value


@given(st.from_regex(r"[-+.0-9eE_:xo~a-fn]{1,8}", fullmatch=True))
def test_text_that_looks_like_another_type_is_quoted(text: str) -> None:
    assert yaml.load(yaml.dump(text, Dumper=Dumper), Loader=Loader) == text
