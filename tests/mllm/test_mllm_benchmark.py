"""The benchmark of tiles runs at a toy size and writes the rows that it is asked for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "mllm.py"


@pytest.mark.slow
def test_tiles_are_measured(tmp_path: Path) -> None:
    options = "--size toy --tiles 1 --parts cut train decode --rounds 1 --threads 1 --words 2 --device cpu"
    command = [sys.executable, str(SCRIPT), *options.split(), "--json", str(tmp_path / "rows.json")]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [(row["name"], row["unit"]) for row in rows] == [
        ("cut, 1 tiles", "ms"),
        ("train, 1 tiles", "tokens/s"),
        ("train, 1 tiles: memory", "MB"),
        ("decode, 1 tiles", "tokens/s"),
        ("decode, 1 tiles: memory", "MB"),
    ]
    assert all(row["value"] > 0 for row in rows)
