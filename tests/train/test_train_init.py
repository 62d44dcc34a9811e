import pytest
import torch
import yaml
from train_toy import exported, settings

from diptych.errors import CheckpointError, RunError
from diptych.train.build import load_task
from diptych.train.checkpoint import Checkpoints
from diptych.train.config import resolve_run
from diptych.train.engine import train


def start(recipe, run_dir):
    return train(resolve_run(recipe), run_dir, progress=False)


@pytest.fixture(scope="module")
def source(dataset, tmp_path_factory):
    import train_toy

    from diptych.systems import SYSTEMS
    from diptych.tasks import TASKS

    run = tmp_path_factory.mktemp("source") / "pretrained"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SYSTEMS, "toy", "train_toy:SYSTEM")
        patch.setitem(TASKS, "toy_pairs", "train_toy:PairsTask")
        start(train_toy.settings(dataset, train__steps=3), run)
    return run


def test_weights_and_tokenizer_carry_over_and_fresh_parameters_learn_faster(source, dataset, tmp_path):
    run = tmp_path / "run"
    recipe = settings(
        dataset,
        task__head=True,
        init_from={"path": str(source), "allow_missing": ["head.*"]},
        train__steps=1,
        optim__lr=1e-3,
        optim__lr_mult=10,
        optim__weight_decay=0.0,
        schedule={"name": "constant", "warmup": 0},
        data__text={"max_tokens": 6, "vocab_size": 9},
    )
    start(recipe, run)
    assert (run / "tokenizer" / "tokenizer.json").read_bytes() == (
        source / "export" / "tokenizer" / "tokenizer.json"
    ).read_bytes()
    log = (run / "log.txt").read_text()
    assert "init_from: 5 of 7 tensors from" in log
    assert "(step 3)" in log
    assert "fresh, not in the source: head.weight, head.bias" in log
    trainer = Checkpoints(run / "checkpoints").load(run / "checkpoints" / "step_00000001").trainer
    assert trainer["fresh"] == ["head.weight", "head.bias"]
    # The first step of Adam moves every weight with a gradient by its learning rate.
    moved = (exported(run)["model.norm.bias"] - exported(source)["model.norm.bias"]).abs().max()
    assert moved == pytest.approx(1e-3, rel=1e-2)
    torch.manual_seed(0)
    _, task = load_task(run)
    fresh = type(task)(type(task.model)(resolve_run(recipe).config.system), task.config, task.tokenizer)
    torch.manual_seed(0)
    fresh = type(task)(type(task.model)(resolve_run(recipe).config.system), task.config, task.tokenizer)
    assert (task.head.bias - fresh.head.bias).abs().item() == pytest.approx(1e-2, rel=1e-2)


def test_the_rates_survive_a_resume_without_the_source(source, dataset, tmp_path):
    """The names of fresh parameters are in the checkpoint, so the source may be gone by then."""
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    recipe = settings(
        dataset, task__head=True, init_from={"path": str(copy), "allow_missing": ["head.*"]}, optim__lr_mult=3
    )
    start(recipe, tmp_path / "whole")
    recipe["task"]["explode_at"] = 7
    with pytest.raises(RunError, match="step 8"):
        start(recipe, tmp_path / "run")
    shutil.rmtree(copy)
    with pytest.raises(RunError, match="step 8"):
        start(recipe, tmp_path / "run")
    assert "going on from step_00000006" in (tmp_path / "run" / "log.txt").read_text()


def test_names_that_do_not_match_are_listed_both_ways(source, dataset, tmp_path):
    with_head = tmp_path / "with_head"
    start(settings(dataset, task__head=True, train__steps=1), with_head)
    with pytest.raises(
        CheckpointError, match=r"no place for head\.bias, head\.weight.*allow_unexpected=\['head\.\*'\]"
    ):
        start(settings(dataset, init_from={"path": str(with_head)}), tmp_path / "a")
    with pytest.raises(
        CheckpointError, match=r"source lacks head\.weight, head\.bias.*allow_missing=\['head\.\*'\]"
    ):
        start(settings(dataset, task__head=True, init_from={"path": str(source)}), tmp_path / "b")
    allowed = {"path": str(with_head), "allow_unexpected": ["head.*"]}
    start(settings(dataset, init_from=allowed, train__steps=1), tmp_path / "a")
    assert "dropped, not in the task: head.bias, head.weight" in (tmp_path / "a" / "log.txt").read_text()


def test_other_shapes_are_refused_unless_they_may_stay_fresh(source, dataset, tmp_path):
    with pytest.raises(
        CheckpointError, match=r"model\.words\.weight is \[64, 16\] there and \[70, 16\] here"
    ):
        start(settings(dataset, system__vocab_size=70, init_from={"path": str(source)}), tmp_path / "a")
    allowed = {"path": str(source), "allow_missing": ["model.words.*"]}
    start(settings(dataset, system__vocab_size=70, init_from=allowed, train__steps=1), tmp_path / "a")
    assert "init_from: 4 of 5" in (tmp_path / "a" / "log.txt").read_text()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pretraind", "no such directory.*did you mean 'pretrained'"),
        ("pretrained/tokenizer", "no weights there; looked for model.safetensors"),
    ],
)
def test_a_missing_source_names_what_was_looked_for(source, dataset, tmp_path, name, message):
    with pytest.raises(CheckpointError, match=f"init_from.path = .*{message}"):
        start(settings(dataset, init_from={"path": str(source.parent / name)}), tmp_path / "run")


def test_an_export_stands_alone(source, tmp_path):
    import shutil

    alone = tmp_path / "alone"
    shutil.copytree(source / "export", alone)
    config, task = load_task(alone)
    assert config.system.name == "toy"
    assert config.data.image.size == 8
    facts = yaml.safe_load((alone / "model.yaml").read_text())
    assert facts["step"] == 3
    assert "optim" not in facts
    assert torch.equal(task.state_dict()["model.words.weight"], exported(source)["model.words.weight"])


def test_a_damaged_export_is_named(source, tmp_path):
    import shutil

    alone = tmp_path / "alone"
    shutil.copytree(source / "export", alone)
    (alone / "model.safetensors").write_bytes((alone / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged"):
        load_task(alone)
    shutil.copy(source / "export" / "model.safetensors", alone)
    (alone / "model.yaml").write_text("step: 3\n")
    with pytest.raises(CheckpointError, match="section `system`"):
        load_task(alone)
