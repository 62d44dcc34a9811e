"""The tiny recipes on sentences about emoji: prepared, trained a few steps, evaluated, by the commands."""

import json
from pathlib import Path

import pytest

from diptych.cli.main import run

TINY = ["system.width=32", "system.hidden=48", "system.layers=1", "train.steps=4", "train.device=cpu"]


SLOW = pytest.mark.slow


@pytest.mark.slow
@pytest.mark.parametrize(
    "task", ["group", pytest.param("same", marks=SLOW), pytest.param("similarity", marks=SLOW)]
)
def test_a_recipe_trains_and_is_evaluated(task: str, tmp_path: Path) -> None:
    data, out = tmp_path / "emoji-glue", tmp_path / "run"
    assert run(["data", "prepare", "emoji-glue", "--out", str(data), "-o", f"tasks=emoji-{task}"]) == 0
    settings = [f"data.path={data}", "data.loader.batch_size=8", *TINY, "--run-dir", str(out)]
    assert run(["train", f"uniperceiver/finetune/glue_emoji_{task}_tiny", *settings]) == 0
    assert json.loads((out / "assets.json").read_text())["glue"]["task"] == f"emoji-{task}"
    split = f"emoji-{task}_val"
    assert run(["eval", str(out), f"evaluate.split={split}"]) == 0
    folder = out / "eval" / f"glue_emoji-glue_{split}"
    metrics = json.loads((folder / "metrics.json").read_text())
    wanted = {"same": "f1", "group": "accuracy", "similarity": "mean"}[task]
    assert metrics["headline"] == wanted
    assert wanted in metrics["figures"]
    assert all(-1 <= metrics[name] <= 1 for name in metrics["figures"])
    lines = (folder / f"emoji-{task}.tsv").read_text().splitlines()
    assert lines[0] == "index\tprediction"
    assert len(lines) == 1 + metrics["examples"] == 1 + metrics["scored"]
