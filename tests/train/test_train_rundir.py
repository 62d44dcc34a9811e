import json

import pytest
import yaml
from train_toy import settings

from diptych.errors import ConfigError, RunError
from diptych.train.config import resolve_run
from diptych.train.engine import train
from diptych.train.rundir import RunDirectory, free


def start(recipe, run_dir, *arguments, **options):
    return train(resolve_run(recipe, arguments), run_dir, progress=False, **options)


@pytest.fixture
def stopped(dataset, tmp_path):
    """A run that stopped at step 8 with a checkpoint at step 6."""
    run = tmp_path / "run"
    with pytest.raises(RunError, match="step 8"):
        start(settings(dataset, task__explode_at=7), run)
    return run


def test_config_yaml_is_a_recipe_of_the_same_run(dataset, tmp_path):
    resolved = resolve_run(settings(dataset), ["optim.lr=0.5", "--", "train.steps=3"])
    with RunDirectory.opened(tmp_path / "run", resolved, resume=True):
        pass
    again = resolve_run(tmp_path / "run" / "config.yaml")
    assert again.config == resolved.config
    sources = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert sources["optim.lr"] == "script"
    assert sources["train.steps"] == "command line"
    assert sources["optim.eps"] == "default"


def test_environment_names_versions_and_machine(stopped, dataset):
    facts = json.loads((stopped / "environment.json").read_text())
    assert {"diptych", "python", "packages", "cpu", "cpus", "threads", "commit"} <= facts.keys()
    assert facts["threads"] == 1
    assert facts["resumes"] == []
    with pytest.raises(RunError):
        start(settings(dataset, task__explode_at=7), stopped)
    resumes = json.loads((stopped / "environment.json").read_text())["resumes"]
    assert resumes == [{"step": 6, "changed": {}}]


def test_another_recipe_in_the_directory_is_refused_with_the_differences(stopped, dataset):
    before = {p: p.read_bytes() for p in stopped.rglob("*") if p.is_file()}
    with pytest.raises(RunError) as caught:
        start(settings(dataset, optim__lr=0.02, train__steps=20), stopped)
    message = str(caught.value)
    for part in (
        "optim.lr: 0.01 -> 0.02",
        "train.steps: 12 -> 20",
        "task.explode_at: 7 -> -1",
        "name=",
        "delete",
    ):
        assert part in message
    assert {p: p.read_bytes() for p in stopped.rglob("*") if p.is_file()} == before


def test_settings_outside_the_mathematics_may_change(stopped, dataset):
    changed = {
        "data__loader__workers": 1,
        "train__log_every": 5,
        "train__keep": 1,
        "train__checkpoint_every": 4,
        "evaluate": {"batch_size": 3},
        "name": "other",
    }
    with pytest.raises(RunError, match="step 8"):
        start(settings(dataset, task__explode_at=7, **changed), stopped)
    assert yaml.safe_load((stopped / "config.yaml").read_text())["train"]["log_every"] == 5
    assert "going on from step_00000006" in (stopped / "log.txt").read_text()


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("evaluate.split", True),
        ("data.loader.workers", True),
        ("data.loader.batch_size", False),
        ("seed", False),
        ("train.steps", False),
        ("train.precision", False),
        ("train.keep", True),
        ("train.keeper", False),
        ("init_from.path", False),
    ],
)
def test_which_settings_may_change(key, expected):
    assert free(key) is expected


def test_a_run_without_a_checkpoint_may_start_anew_with_other_settings(dataset, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(RunError, match="step 2"):
        start(settings(dataset, task__explode_at=1), run)
    assert start(settings(dataset, train__steps=2, train__log_every=1), run).trained
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [1, 2]


def test_a_directory_that_is_no_run_is_refused(dataset, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"holds no run \(notes.txt; config.yaml is missing\)"):
        start(settings(dataset), tmp_path)


def test_never_resume(stopped, dataset):
    with pytest.raises(RunError, match="holds a run already"):
        start(settings(dataset, task__explode_at=7), stopped, resume="never")


def test_rows_after_the_checkpoint_are_cut_and_broken_lines_dropped(tmp_path, dataset):
    run = RunDirectory(tmp_path, resolve_run(settings(dataset)).config)
    rows = [{"step": step} for step in (1, 5, 6, 7)]
    text = "\n".join(json.dumps(row) for row in rows) + '\n{"step": 8, "lo'
    (tmp_path / "metrics.jsonl").write_text(text)
    run.cut_metrics(6)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 5}\n{"step": 6}\n'


def test_a_changed_dataset_is_noticed_on_resume(stopped, tmp_path):
    from train_toy import write_dataset

    from diptych.errors import CheckpointError

    other = write_dataset(tmp_path / "other", samples=23)
    with pytest.raises(CheckpointError, match="fingerprint"):
        start(settings(other, task__explode_at=7), stopped)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__image__size": 16}, r"data\.image\.size = 16, but system\.image_size = 8"),
        ({"data__text__max_tokens": 9}, r"data\.text\.max_tokens = 9 .*system\.max_text_tokens = 6"),
        ({"task": {"name": "toy_fused"}}, "needs fuse, which system.name = toy does not offer"),
        (
            {"task": {"name": "retrieval"}},
            "task.name = retrieval .*toy can do .it does: toy_fused, toy_pairs",
        ),
        ({"data__path": ""}, r"data\.path: no dataset"),
    ],
)
def test_sections_that_do_not_fit_are_refused_before_anything_is_written(dataset, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        start(settings(dataset, **changes), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_word_table_smaller_than_the_tokenizer_is_refused(dataset, tmp_path):
    with pytest.raises(ConfigError, match=r"has \d+ tokens, but system\.vocab_size = 20"):
        start(settings(dataset, system__vocab_size=20), tmp_path / "run")
