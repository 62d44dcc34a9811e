"""The demo as a user runs it, with a few steps a stage; interrupted, it goes on where it was."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diptych.demo import job
from diptych.demo.companion import Companion
from diptych.demo.plan import BASELINE, EVALUATED, OURS, STAGES
from diptych.errors import RunError

SHORT = (
    "train.cpu_seconds=0",
    "train.steps=3",
    "train.log_every=1",
    "data.loader.batch_size=64",
)
RECALLS = {"R@1", "R@5", "R@10"}


@pytest.mark.slow
def test_demo_end_to_end_goes_on_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "demo"
    real_train = job.train

    def interrupted(*args: object, **keywords: object) -> object:
        if "finetune" in str(args[1]):
            raise KeyboardInterrupt
        return real_train(*args, **keywords)  # type: ignore[arg-type]

    def run() -> tuple[Path, list[str]]:
        said: list[str] = []
        return job.run_demo(out, seed=3, overrides=SHORT, announce=said.append), said

    with monkeypatch.context() as patch:
        patch.setattr(job, "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run()
    exported = out / "pretrain" / "export" / "model.safetensors"
    before = exported.stat().st_mtime_ns
    assert not (out / "summary.json").exists()

    page, said = run()
    assert exported.stat().st_mtime_ns == before, "a finished stage is not trained again"
    assert not any(line.startswith("Data:") for line in said), "the data were there"
    assert page == out / "report.html"
    text = page.read_text(encoding="utf-8")
    for heading in ("What it finds", "Which experts serve what", "Worst confusions", "two towers"):
        assert heading in text

    summary = json.loads((out / "summary.json").read_text())
    for scores in (summary, summary["baseline"]):
        for direction in ("image_to_text", "text_to_image"):
            assert set(scores[direction]) == RECALLS
            assert all(0 <= value <= 1 for value in scores[direction].values())
    assert summary["chance"] == pytest.approx(1 / summary["texts"])
    parts = {"prepare", *(s.name for s in STAGES), *(f"evaluate_{n}" for n in EVALUATED)}
    assert set(summary["cpu_seconds"]) == parts

    page.unlink()
    _, said = run()
    assert page.exists(), "only what is missing is made again"
    assert not any(line.startswith("Evaluation:") for line in said)


def test_both_sides_have_the_same_budget_and_one_thread(tmp_path: Path) -> None:
    assert BASELINE.cpu_seconds == sum(stage.cpu_seconds for stage in OURS)
    settings = job.stage_settings(OURS[1], tmp_path, tmp_path / "data", 4, ["seed=5"])
    assert f"train.cpu_seconds={OURS[1].cpu_seconds}" in settings
    assert "train.threads=1" in settings
    assert f"init_from.path={tmp_path / OURS[0].name}" in settings
    assert settings[-1] == "seed=5", "what the user says comes last and wins"


def test_one_core_trains_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []
    monkeypatch.setattr(job, "usable_cores", lambda: 1)
    monkeypatch.setattr(job, "train", lambda resolved, run: trained.append(run.name))
    job.train_stages(tmp_path, tmp_path / "data", 0, [], lambda line: None)
    assert trained == [stage.name for stage in STAGES]


def test_cpu_seconds_come_from_the_last_row(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 1, "cpu_seconds": 2.0}\n{"step": 2, "cpu_seconds": 3.5}\n'
    )
    assert job.trained_cpu_seconds(tmp_path) == 3.5


@pytest.mark.slow
def test_a_failing_companion_says_why(tmp_path: Path) -> None:
    companion = Companion(
        "two_tower/pretrain/emoji_tiny", ["optim.lrr=1"], tmp_path / "run", tmp_path / "log"
    )
    with pytest.raises(RunError, match=r"status 2.*optim\.lrr: unknown key"):
        companion.finish()
    companion.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux ends the child")
def test_a_companion_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time\n"
        "from diptych.demo import companion\n"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'],"
        " preexec_fn=companion._end_with_parent)\n"
        "print(p.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    for _ in range(100):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        state = Path(f"/proc/{child}/stat")
        if state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z":
            return  # ended; whoever adopted it has not asked yet
        time.sleep(0.1)
    pytest.fail("the child is still running")
