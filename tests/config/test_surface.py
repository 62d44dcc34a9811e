import pytest
from config_example import Run

from diptych.config.keys import matching
from diptych.config.layers import resolve
from diptych.config.surface import diff, flatten, outline, surface
from diptych.errors import ConfigError


def test_surface_has_one_line_a_setting_and_all_variants() -> None:
    assert surface(Run) == [
        "name: str = run",
        "data.path: str (required)",
        "data.split: str | null = train",
        "data.where: str | null = null",
        "data.image.size: int >= 1 = 64",
        "data.image.scale: [float, float] = [0.5, 1.0]",
        "data.image.colour: str = white",
        "data.weights: mapping of str to float = {}",
        "system[big].name: 'big' = big",
        "system[big].width: int >= 1 = 96",
        "system[big].experts: int = 4",
        "system[pair].name: 'pair' = pair",
        "system[pair].width: int >= 1 = 512",
        "system[pair].towers: list of str = [image, text]",
        "optim.lr: float > 0 = 0.001",
        "optim.betas: [float, float] = [0.9, 0.98]",
        "optim.warmup: int | float = 0.1",
        "optim.nesterov: bool = false",
        "train.steps: int >= 1 = 1000",
        "train.precision: 'fp32' | 'bf16' = fp32",
    ]


def test_every_key_of_the_surface_can_be_set() -> None:
    """What a user reads in the list works as an argument: each default is accepted back as text."""
    for text in surface(Run):
        head, _, default = text.partition(" = ")
        path = head.partition(":")[0]
        if default:
            section, _, rest = path.partition("[")
            variant, _, key = rest.partition("].")
            arguments = (
                [f"{path}={default}"]
                if not rest
                else [f"{section}.name={variant}", f"{section}.{key}={default}"]
            )
            resolve(Run, {"data": {"path": "x"}}, arguments)


@pytest.mark.parametrize(
    ("prefix", "paths"),
    [
        ("train", ["train.steps", "train.precision"]),
        ("data.image.size", ["data.image.size"]),
        ("system.width", ["system[big].width", "system[pair].width"]),
        ("system[pair]", ["system[pair].name", "system[pair].width", "system[pair].towers"]),
    ],
)
def test_keys_below_a_prefix(prefix: str, paths: list[str]) -> None:
    assert [key.path for key in matching(Run, prefix)] == paths


@pytest.mark.parametrize(
    ("prefix", "hint"), [("trian", "train"), ("lr", "optim.lr"), ("data.imge", "data.image")]
)
def test_a_prefix_that_is_not_there(prefix: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=f"{prefix}: no such key or section; did you mean '{hint}'"):
        matching(Run, prefix)


def test_diff_names_each_changed_value_beside_its_section() -> None:
    a = resolve(Run, None, ["data.path=x", "optim.lr=1e-3"]).config
    b = resolve(Run, None, ["data.path=x", "optim.lr=5e-4", "system.name=pair", "data.split=null"]).config
    assert diff(a, a) == []
    assert diff(a, b) == [
        "data.split: train -> null",
        "system.name: big -> pair",
        "system.width: 96 -> 512",
        "system.experts: 4 -> (none)",
        "system.towers: (none) -> [image, text]",
        "optim.lr: 0.001 -> 0.0005",
    ]


def test_outline_is_the_yaml_of_the_values_with_notes_behind(tmp_path: object) -> None:
    values = {"a": "1", "b.c": "x", "b.d.e": "[1, 2]", "b.d.f": "''", "b.g": "2", "h.d.e": "3"}
    assert outline(values, {"a": "r.yaml:1", "b.d.e": "script"}) == [
        "a: 1           # r.yaml:1",
        "b:",
        "  c: x",
        "  d:",
        "    e: [1, 2]  # script",
        "    f: ''",
        "  g: 2",
        "h:",
        "  d:",
        "    e: 3",
    ]


def test_the_outline_of_a_configuration_resolves_to_it(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    found = resolve(Run, None, ["data.path=x", "name=1: '#2'", "--", "system.name=pair", "optim.lr=3e-5"])
    path = tmp_path / "shown.yaml"
    path.write_text("\n".join(outline(dict(flatten(found.config)), found.sources)))
    assert resolve(Run, path).config == found.config
