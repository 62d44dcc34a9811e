from pathlib import Path

import pytest
from config_example import Big, Optim, Pair, Run
from hypothesis import given
from hypothesis import strategies as st

from diptych.config.layers import dump_yaml, parse_arguments, resolve
from diptych.errors import ConfigError


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """`my.yaml` in the working directory, which extends `below/base.yaml`."""
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "base.yaml").write_text(
        "data:\n  path: shards\n  image: {size: 32}\noptim:\n  lr: 3e-5\nsystem:\n  name: big\n  experts: 8\n"
    )
    (tmp_path / "my.yaml").write_text("extends: below/base.yaml\nname: mine\noptim:\n  betas: [0.5, 0.6]\n")
    monkeypatch.chdir(tmp_path)
    return "my.yaml"


def errors(*arguments: str, recipe: object = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        resolve(Run, {"data": {"path": "x"}} if recipe is None else recipe, arguments)
    assert caught.value.exit_status == 2
    return str(caught.value).splitlines()


def test_later_layers_win_and_every_value_knows_its_layer(recipe: str) -> None:
    found = resolve(Run, recipe, ["optim.lr=1e-4", "train.steps=7", "--", "train.steps=9"])
    assert found.config.name == "mine"
    assert found.config.data.path == "shards"
    assert found.config.system == Big(width=96, experts=8)
    assert found.config.optim == Optim(lr=1e-4, betas=(0.5, 0.6))
    assert found.config.train.steps == 9
    assert dict(found.sources) == {
        "name": "my.yaml:2",
        "data.path": "below/base.yaml:2",
        "data.split": "default",
        "data.where": "default",
        "data.image.size": "below/base.yaml:3",
        "data.image.scale": "default",
        "data.image.colour": "default",
        "data.weights": "default",
        "system.name": "below/base.yaml:7",
        "system.width": "default",
        "system.experts": "below/base.yaml:8",
        "optim.lr": "script",
        "optim.betas": "my.yaml:4",
        "optim.warmup": "default",
        "optim.nesterov": "default",
        "train.steps": "command line",
        "train.precision": "default",
    }


def test_defaults_alone_and_defaults_of_a_field_over_those_of_its_class() -> None:
    found = resolve(Run, None, ["data.path=x"])
    assert found.config == Run(data={"path": "x"})
    assert found.config.data.image.size == 64  # Image says 224, the field in Data says 64
    # One value of a section set: the field's other defaults stay.
    assert resolve(Run, None, ["data.path=x", "data.image.colour=black"]).config.data.image.size == 64


@pytest.mark.parametrize(
    ("arguments", "script", "command_line"),
    [
        ([], [], []),
        (["a=1", "b=2"], ["a=1", "b=2"], []),
        (["a=1", "--", "b=2"], ["a=1"], ["b=2"]),
        (["--", "b=2"], [], ["b=2"]),
        (["a=1", "--"], ["a=1"], []),
    ],
)
def test_arguments_split_at_the_dashes(
    arguments: list[str], script: list[str], command_line: list[str]
) -> None:
    assert parse_arguments(arguments) == (script, command_line)


@pytest.mark.parametrize(
    ("argument", "path", "value"),
    [
        ("name=007", "name", "007"),
        ("name=", "name", ""),
        ("name=null", "name", "null"),
        ("name='x'", "name", "'x'"),
        ("data.where=a = '#1'  # b", "data.where", "a = '#1'  # b"),
        ("data.where=[x", "data.where", "[x"),
        ("data.split=null", "data.split", None),
        ("data.split=", "data.split", ""),
        ("optim.lr=1", "optim.lr", 1.0),
        ("optim.warmup=5", "optim.warmup", 5),
        ("optim.warmup=5.0", "optim.warmup", 5.0),
        ("optim.nesterov=true", "optim.nesterov", True),
        ("optim.betas=[0.1, 1]", "optim.betas", (0.1, 1.0)),
        ("data.image={size: 5, colour: black}", "data.image.size", 5),
        ("data.weights={a: 1, b: 0.5}", "data.weights", {"a": 1.0, "b": 0.5}),
    ],
)
def test_arguments_take_the_type_of_their_field(argument: str, path: str, value: object) -> None:
    found: object = resolve(Run, {"data": {"path": "x"}}, [argument]).config
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value)


def test_of_equal_keys_in_one_layer_the_last_wins() -> None:
    assert resolve(Run, None, ["data.path=x", "data.path=y"]).config.data.path == "y"


def test_another_name_drops_what_lower_layers_said_of_the_section(recipe: str) -> None:
    found = resolve(Run, recipe, ["--", "system.name=pair"])
    assert found.config.system == Pair()  # neither width 96 nor experts 8
    assert found.sources["system.width"] == "default"
    same = resolve(Run, recipe, ["--", "system.name=big"])
    assert same.config.system == Big(width=96, experts=8)
    # What the layer with the new name says itself counts, in any order, and so do layers above it.
    assert resolve(
        Run, recipe, ["system.width=5", "system.name=pair", "--", "system.towers=[a]"]
    ).config.system == Pair(width=5, towers=("a",))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("optim.lrr=1", "optim.lrr: unknown key (script); did you mean 'optim.lr'?"),
        ("lr=1", "lr: unknown key (script); did you mean 'optim.lr'?"),
        ("train.lr=1", "train.lr: unknown key (script); did you mean 'optim.lr'?"),
        ("optimizer.lr=1", "optimizer.lr: unknown key (script); did you mean 'optim.lr'?"),
        ("size=1", "size: unknown key (script); did you mean 'data.image.size'?"),
        ("system.widht=1", "system.widht: unknown key (script); did you mean 'system.width'?"),
        ("system.towers=[a]", "system.towers: unknown key (script); it goes with system.name=pair"),
        (
            "train.steps.x=1",
            "train.steps.x: unknown key (script); 'train.steps' is a value without keys below it",
        ),
        ("train.zzz=1", "train.zzz: unknown key (script); `diptych config keys train` lists the known ones"),
        ("zzz.zzz=1", "zzz.zzz: unknown key (script); `diptych config keys` lists the known ones"),
        ("train.steps=many", "train.steps: expected an integer >= 1, got 'many' (script)"),
        ("train.steps=0", "train.steps: expected an integer >= 1, got 0 (script)"),
        ("train.steps=1.5", "train.steps: expected an integer >= 1, got 1.5 (script)"),
        ("train.steps=true", "train.steps: expected an integer >= 1, got true (script)"),
        ("train.steps=", "train.steps: expected an integer >= 1, got null (script)"),
        ("train.precision=fp8", "train.precision: expected one of 'fp32', 'bf16', got 'fp8' (script)"),
        ("optim.nesterov=yes", "optim.nesterov: expected true or false, got 'yes' (script)"),
        ("optim.betas=[1]", "optim.betas: expected [float, float], got [1] (script)"),
        ("optim.warmup=a", "optim.warmup: expected an integer or a number, got 'a' (script)"),
        ("data.weights={a: x}", "data.weights: expected a mapping of str to float, got {a: x} (script)"),
        ("data.image.colour=red", "data.image.colour: expected a colour, got 'red' (script)"),
        (
            "data.image.scale=[1, 0.5]",
            "data.image.scale: expected smallest <= largest, got (1.0, 0.5) (script)",
        ),
        ("train=5", "train: expected a section (train.<key>), got 5 (script)"),
        (
            "system.name=bigg",
            "system.name: unknown system 'bigg'; did you mean 'big'? (known: big, pair) (script)",
        ),
        ("system.name=5", "system.name: expected one of big, pair, got 5 (script)"),
        ("oops", "'oops': expected key=value, for example optim.lr=1e-4 (script)"),
        ("a..b=1", "'a..b=1': expected key=value, for example optim.lr=1e-4 (script)"),
    ],
)
def test_a_wrong_argument_is_one_line_that_says_what_to_do(argument: str, message: str) -> None:
    assert errors(argument) == [message]


def test_all_errors_are_told_with_their_layers(recipe: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("extends: my.yaml\ntrain:\n  steps: many\n  rate: 3\nname: 5\n")
    assert errors("oops", "--", "optim.lr=0", recipe="bad.yaml") == [
        "'oops': expected key=value, for example optim.lr=1e-4 (script)",
        "name: expected text, got 5; write it in quotes (recipe bad.yaml:5)",
        "optim.lr: expected a number > 0, got 0 (command line)",
        "train.rate: unknown key (recipe bad.yaml:4); `diptych config keys train` lists the known ones",
        "train.steps: expected an integer >= 1, got 'many' (recipe bad.yaml:3)",
    ]


def test_a_required_value_that_nobody_sets() -> None:
    assert errors(recipe={}) == [
        "data.path: no value and no default; set it in the recipe or with data.path=..."
    ]


def test_a_wrong_value_below_another_layer_does_not_matter() -> None:
    found = resolve(Run, None, ["data.path=x", "train.steps=many", "--", "train.steps=3"])
    assert found.config.train.steps == 3


def test_an_empty_section_and_paths_in_a_mapping(tmp_path: Path) -> None:
    found = resolve(Run, {"data": {"path": tmp_path}, "train": None})
    assert found.config == Run(data={"path": str(tmp_path)})


RUNS = st.builds(
    lambda name, where, system, lr, betas, warmup: Run(
        name=name,
        data={"path": "x", "where": where, "weights": {"a": lr}},
        system=system,
        optim={"lr": lr, "betas": betas, "warmup": warmup},
    ),
    name=st.text(),
    where=st.none() | st.text(),
    system=st.builds(Pair, towers=st.lists(st.text()).map(tuple))
    | st.builds(Big, width=st.integers(1, 10**9)),
    lr=st.floats(1e-300, 1e300),
    betas=st.tuples(st.floats(allow_nan=False), st.floats(allow_nan=False)),
    warmup=st.integers() | st.floats(allow_nan=False),
)


@pytest.mark.slow
@given(RUNS)
def test_a_dumped_configuration_resolves_to_itself(
    tmp_path_factory: pytest.TempPathFactory, run: Run
) -> None:
    path = tmp_path_factory.getbasetemp() / "dumped.yaml"
    path.write_text(dump_yaml(run), encoding="utf-8")
    found = resolve(Run, path)
    assert found.config == run
    assert type(found.config.optim.warmup) is type(run.optim.warmup)
