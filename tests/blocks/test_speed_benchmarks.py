"""The benchmarks of mixtures and of steps run at small sizes and write the rows that they are asked for."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


def rows_of(script: str, switches: str, file: Path) -> list[dict[str, Any]]:
    """Run a benchmark for one round; return its rows."""
    command = [sys.executable, str(FOLDER / script), *switches.split(), "--rounds", "1", "--threads", "1"]
    subprocess.run([*command, "--json", str(file)], check=True, capture_output=True, timeout=300)
    rows: list[dict[str, Any]] = json.loads(file.read_text())
    return rows


@pytest.mark.slow
def test_mixtures_are_compared_with_both_peers(tmp_path: Path) -> None:
    rows = rows_of("moe.py", "--tokens 64 --experts 2 --width 16 --hidden 32 --memory", tmp_path / "rows")
    assert [(row["name"], row["peer"]) for row in rows] == [
        (f"moe {what} tokens=64 width=16 experts=2", peer)
        for what in ("fwd+bwd", "memory")
        for peer in ("dense-top2-limit", "capacity-einsum")
    ]
    assert all(row["value"] > 0 and row["ratio"] > 0 for row in rows[:2])


@pytest.mark.slow
def test_steps_are_compared_in_both_precisions(tmp_path: Path) -> None:
    small = "--batch 2 --width 32 --layers 2 --heads 2 --experts 2 --size 32 --text 8"
    rows = rows_of("step.py", small, tmp_path / "rows")
    compared = [row for row in rows if row["ratio"] is not None]
    assert [row["name"].split()[-1] for row in compared] == ["fp32", "bf16", "bf16"]
    assert {row["peer"].rpartition("-")[0] for row in compared} <= {"vilt", "torch-encoder"}
    assert all(row["value"] > 0 for row in rows)


@pytest.mark.slow
def test_soho_is_compared_with_the_straightforward_computation(tmp_path: Path) -> None:
    rows = rows_of("soho.py", "--quick", tmp_path / "rows")
    step = [(row["name"], row["peer"]) for row in rows if row["name"].startswith("soho step")]
    assert step == [
        (f"{name}{what}", peer)
        for what in ("", " of the whole CNN")
        for peer in ("straightforward", "published")
        for name in ("soho step", "soho step counted")
    ]
    for what in ("", " of the whole CNN"):
        counted = [row["ratio"] for row in rows if row["name"] == f"soho step counted{what}"]
        assert 1 < counted[0] < counted[1]
    assert {"soho 600 x 1000, neck", "soho 600 x 1000, joint"} <= {row["name"] for row in rows}
    assert all(row["value"] > 0 for row in rows)


@pytest.mark.slow
def test_captions_are_written_in_three_ways(tmp_path: Path) -> None:
    rows = rows_of("generate.py", "--size mini --pictures 1 --steps 3 --experts", tmp_path / "rows")
    assert [(row["name"], row["peer"]) for row in rows] == [
        ("generate mini experts, 1 pictures", peer) for peer in ("inputs (published)", "plain")
    ]
    assert all(row["value"] > 0 and row["ratio"] > 0 for row in rows)
