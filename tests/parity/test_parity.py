"""The parity runner: it passes the golden cases, and it fails where it should."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
ALL = Path(__file__).parent / "golden"
GOLDEN = ALL / "eve"
CASES = sorted(path.relative_to(ALL).with_suffix("").as_posix() for path in ALL.glob("*/*.json"))
LONG = ("mllm/hd_transform", "mllm/ixc_internlm2_plora")
"""Cases that take seconds."""


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """`tests` is a namespace package below the root, as `python -m tests.parity` sees it."""
    monkeypatch.syspath_prepend(str(ROOT))


def run(*arguments: str) -> int:
    from tests.parity.__main__ import main

    return main(list(arguments))


def copy_case(name: str, to: Path, new_name: str | None = None, folder: Path = GOLDEN) -> Path:
    for suffix in (".json", ".safetensors"):
        if (folder / f"{name}{suffix}").exists():  # some cases have no tensors
            shutil.copy(folder / f"{name}{suffix}", to / f"{new_name or name}{suffix}")
    return to / f"{new_name or name}.json"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in CASES]
)
def test_golden_case(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Under another name, since a case may only be known by its system and kind.
    copy_case(name, tmp_path, "case", ALL)
    assert run(str(tmp_path)) == 0, capsys.readouterr().out
    assert "1 of 1 cases pass" in capsys.readouterr().out


def test_all_kinds_are_here() -> None:
    from tests.parity.runner import KINDS

    found = [json.loads((ALL / f"{name}.json").read_text()) for name in CASES]
    assert {(case["system"], case["kind"]) for case in found} == set(KINDS)


def test_unknown_kind_is_a_miss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copy_case("pos_embed_interp", tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"kind": "telepathy"}))
    assert run(str(tmp_path)) == 1
    assert "MISS  pos_embed_interp  [eve/telepathy]  unknown kind" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("pos_embed_interp", "out.up.pos_embed"),
        ("backbone_moe", "out.vl_gumbel"),
        ("backbone_moe", "out.vl.moe1.l_aux"),
        ("backbone_moe", "grad.encoder.layers.2.mlp_moe.moe.gate.wg.weight"),
        ("moe_layer", "out.min_capacity.combine"),
        ("moe_layer", "grad.tight_capacity_train.x"),
    ],
)
def test_every_sort_of_difference_is_a_miss(
    name: str, tensor: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copy_case(name, tmp_path)
    tensors = load_file(path.with_suffix(".safetensors"))
    tensors[tensor] = tensors[tensor] * 1.001 + 0.001
    save_file(tensors, path.with_suffix(".safetensors"))
    assert run(str(tmp_path)) == 1
    out = capsys.readouterr().out
    assert "1 missed" in out
    assert tensor.removeprefix("out.").removeprefix("grad.") in out


def test_counts_must_be_equal(tmp_path: Path) -> None:
    path = copy_case("backbone_lower_moe", tmp_path)
    tensors = load_file(path.with_suffix(".safetensors"))
    tensors["out.text.moe0.exp_counts"] = tensors["out.text.moe0.exp_counts"].flip(0)
    save_file(tensors, path.with_suffix(".safetensors"))
    assert run(str(tmp_path)) == 1


def test_a_case_that_breaks_is_a_miss_and_the_others_still_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = copy_case("backbone_vlffn", tmp_path, "a_broken")
    tensors = load_file(broken.with_suffix(".safetensors"))
    del tensors["w.norm.weight"]
    save_file(tensors, broken.with_suffix(".safetensors"))
    (tmp_path / "b_garbled.json").write_text("{")
    copy_case("pos_embed_interp", tmp_path)
    assert run(str(tmp_path)) == 1
    out = capsys.readouterr().out
    assert "MISS  a_broken" in out
    assert "MISS  b_garbled" in out
    assert "pass  pos_embed_interp" in out
    assert "1 of 3 cases pass" in out


def test_tolerance_is_an_option_and_an_empty_folder_an_error(tmp_path: Path) -> None:
    copy_case("backbone_vlffn", tmp_path)
    assert run(str(tmp_path), "--tolerance", "1e-12") == 1
    assert run(str(tmp_path / "nothing")) == 2


def test_comparisons_by_hand() -> None:
    from tests.parity.runner import Tolerances, exact, gradient, loss, output

    tolerances = Tolerances()
    assert output("y", torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5])).error == pytest.approx(0.5)
    assert output("y", torch.zeros(2), torch.zeros(3)).error == float("inf")
    assert not output("y", torch.tensor(float("nan")), torch.tensor(0.0)).ok(tolerances)
    assert loss("l", 2.0002, 2.0).error == pytest.approx(1e-4, rel=1e-3)
    assert loss("l", 0.0, 1e-9).error == pytest.approx(1e-7)
    assert gradient("g", torch.tensor([0.0, 4.0]), torch.tensor([1.0, 4.0])).error == pytest.approx(0.25)
    assert gradient("g", None, torch.tensor([1.0])).error == pytest.approx(1.0)
    assert gradient("g", torch.tensor([2e-9]), torch.tensor([1e-9])).error == pytest.approx(1e-4)
    assert exact("n", 3, 3).ok(tolerances)
    assert not exact("n", 3, 4).ok(tolerances)


@pytest.mark.slow
def test_as_a_command() -> None:
    import subprocess

    command = [sys.executable, "-m", "tests.parity", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--gradient-tolerance" in done.stdout
