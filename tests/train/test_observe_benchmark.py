"""The benchmark of training steps runs at toy size and writes what it is asked to."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_steps_are_compared_with_the_peer(tmp_path):
    sizes = ["--batch", "4", "--steps", "1", "--rounds", "1", "--warmup", "0"]
    switches = ["--toy", "--precision", "fp32", "--device", "cpu", *sizes]
    command = [
        sys.executable,
        ROOT / "benchmarks" / "train_step.py",
        *switches,
        "--json",
        tmp_path / "rows.json",
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=300)
    rows = json.loads((tmp_path / "rows.json").read_text())
    compared = [row for row in rows if row["ratio"] is not None]
    assert {row["peer"] for row in compared} == {"torch-vit-b16-clip"}
    assert len(compared) == 4  # two steps of EVE, samples and FLOP/s each
    assert all(row["value"] > 0 and row["ratio"] > 0 for row in compared)
