"""The profile switch leaves a trace and a table of the steps that were asked for."""

import gzip
import json

import torch

from diptych.train.profile import SKIPPED, StepProfiler

CPU = torch.device("cpu")


def run(folder, steps, asked):
    said = []
    with StepProfiler(folder, asked, CPU, said.append) as profiler:
        for number in range(steps):
            torch.ones(2 + number, 7) @ torch.ones(7, 7)
            profiler.step()
    return said


def shapes_of_products(folder):
    events = json.loads(gzip.decompress((folder / "trace.json.gz").read_bytes()))["traceEvents"]
    found = [e["args"]["Input Dims"][0] for e in events if e.get("name") == "aten::mm"]
    return sorted(rows for rows, _ in found)


def test_the_steps_behind_the_first_ones_are_traced(tmp_path):
    said = run(tmp_path / "rank0", SKIPPED + 5, 2)
    assert shapes_of_products(tmp_path / "rank0") == [2 + SKIPPED, 3 + SKIPPED]
    assert "aten::mm" in (tmp_path / "rank0" / "table.txt").read_text()
    assert len(said) == 1
    assert "trace.json.gz" in said[0]


def test_a_run_that_ends_early_leaves_what_it_has(tmp_path):
    run(tmp_path / "rank0", SKIPPED + 1, 5)
    assert shapes_of_products(tmp_path / "rank0") == [2 + SKIPPED]


def test_nothing_happens_unless_it_is_asked_for(tmp_path):
    assert run(tmp_path / "rank0", SKIPPED + 5, 0) == []
    assert not list(tmp_path.iterdir())
