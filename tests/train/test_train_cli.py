import pytest
import yaml
from train_toy import settings

from diptych.cli.main import run


@pytest.fixture
def recipe(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(settings(dataset, train__steps=2)))
    return "my.yaml"


def test_the_run_goes_to_its_name_and_settings_have_layers(recipe, tmp_path, capsys):
    assert run(["train", recipe, "name=other", "train.steps=9", "--", "train.steps=3"]) == 0
    config = yaml.safe_load((tmp_path / "runs" / "other" / "config.yaml").read_text())
    assert config["train"]["steps"] == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "step 3/3  loss" in captured.err
    assert "finished at step 3" in captured.err.splitlines()[-1]
    assert run(["train", recipe, "name=other", "train.steps=3"]) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert run(["train", recipe, "name=other", "train.steps=4"]) == 1
    assert "train.steps: 3 -> 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.stepz=3"], "train.stepz"),
        (["train.steps=many"], "train.steps: expected"),
        (["data.image.size=16"], "data.image.size = 16, but system.image_size = 8"),
        (["data.image.resize=fit"], "data.image.resize = fit gives pictures of any shape, but"),
        (["data.text.per_picture=2"], "data.text.per_picture = 2, but task.name = "),
        (["schedule.warmup=1.5"], "schedule.warmup: expected a fraction below 1"),
    ],
)
def test_wrong_settings_are_one_line_and_status_2(recipe, tmp_path, capsys, arguments, message):
    assert run(["train", recipe, *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "runs").exists()


def test_a_missing_dataset_is_one_line_and_status_1(recipe, capsys):
    assert run(["train", recipe, "data.path=nowhere"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: nowhere")


def test_run_dir(recipe, tmp_path):
    assert run(["train", recipe, "--run-dir", "elsewhere/deep"]) == 0
    assert (tmp_path / "elsewhere" / "deep" / "export" / "model.yaml").exists()
