"""The demo as a user runs it, with a few steps a stage; interrupted, it goes on where it was."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from diptych.demo import job
from diptych.demo.plan import EVALUATED, STAGES

SHORT = ("train.steps=3", "train.log_every=1", "data.loader.batch_size=64", "task.itm_from=0")
RECALLS = {"R@1", "R@5", "R@10"}


def short_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few steps, and for the baseline a budget of one CPU second instead of what the others used."""
    monkeypatch.setattr(job, "trained_cpu_seconds", lambda run: 0.5)


@pytest.mark.slow
def test_demo_end_to_end_goes_on_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "demo"
    real_train = job.train

    def interrupted(*args: object, **keywords: object) -> object:
        if "baseline" in str(args[1]):
            raise KeyboardInterrupt
        return real_train(*args, **keywords)  # type: ignore[arg-type]

    def run(train: Callable[..., object]) -> tuple[Path, list[str]]:
        said: list[str] = []
        with monkeypatch.context() as patch:
            patch.setattr(job, "train", train)
            short_settings(patch)
            return job.run_demo(out, seed=3, overrides=SHORT, announce=said.append), said

    with pytest.raises(KeyboardInterrupt):
        run(interrupted)
    exported = out / "finetune" / "export" / "model.safetensors"
    before = exported.stat().st_mtime_ns
    assert not (out / "summary.json").exists()

    page, said = run(real_train)
    assert exported.stat().st_mtime_ns == before, "a finished stage is not trained again"
    assert not any(line.startswith("Data:") for line in said), "the data were there"
    assert page == out / "report.html"
    text = page.read_text(encoding="utf-8")
    assert "What it finds" in text
    assert "Which experts serve what" in text
    assert "Worst confusions" in text

    summary = json.loads((out / "summary.json").read_text())
    for scores in (summary, summary["baseline"]):
        for direction in ("image_to_text", "text_to_image"):
            assert set(scores[direction]) == RECALLS
            assert all(0 <= value <= 1 for value in scores[direction].values())
    assert summary["chance"] == pytest.approx(1 / summary["texts"])
    assert set(summary["cpu_seconds"]) == {
        "prepare",
        *(s.name for s in STAGES),
        *(f"evaluate_{n}" for n in EVALUATED),
    }

    page.unlink()
    _, said = run(lambda *args, **keywords: real_train(*args, **keywords))
    assert page.exists(), "only what is missing is made again"
    assert not any(line.startswith("Evaluation:") for line in said)


def test_the_baseline_gets_the_cpu_seconds_of_both_eve_stages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[list[str]] = []
    monkeypatch.setattr(job, "resolve_run", lambda recipe, settings: given.append(settings))
    monkeypatch.setattr(job, "train", lambda resolved, run: None)
    monkeypatch.setattr(
        job, "trained_cpu_seconds", lambda run: {"pretrain": 20.0, "finetune": 90.5}[run.name]
    )
    baseline = next(stage for stage in STAGES if stage.name == "baseline")
    job.train_stage(baseline, tmp_path, tmp_path / "data", 1, [], lambda line: None)
    assert "train.cpu_seconds=110.5" in given[0]


def test_cpu_seconds_come_from_the_last_row(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 1, "cpu_seconds": 2.0}\n{"step": 2, "cpu_seconds": 3.5}\n'
    )
    assert job.trained_cpu_seconds(tmp_path) == 3.5
