"""SOHO from raw files to weights: pre-training on its own JSON files, resumed bit for bit."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from diptych.cli.main import run
from diptych.data.prepare import load_card, make_miniature, prepare

pytestmark = pytest.mark.slow

RECIPE = {
    "name": "whole",
    "system": {
        "name": "soho",
        "backbone": {"depth": 18, "stem_channels": 4, "base_channels": 4, "frozen_stages": 1},
        "width": 16,
        "layers": 1,
        "heads": 2,
        "hidden": 24,
        "vocab_size": 80,
        "max_text_tokens": 16,
        "neck": "gated",
        "dictionary": {"codes": 8},
    },
    "task": {"name": "soho_pretrain", "visual_mask_ratio": 0.5},
    "data": {
        "path": "data",
        "split": "train",
        "image": {"resize": "fit", "long": 96, "short": 96, "train_short": [64, 96]},
        "text": {"per_picture": 4, "pick": "random", "max_tokens": 16, "vocab_size": 80},
        "loader": {"batch_size": 2, "bucket": "shape"},
    },
    "train": {"steps": 6, "log_every": 1, "checkpoint_every": 3},
}


def test_a_resumed_run_continues_its_dictionary_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    card = load_card("soho-pretrain")
    make_miniature(card, tmp_path / "raw")
    prepare(card, tmp_path / "raw", tmp_path / "data")
    (tmp_path / "soho.yaml").write_text(yaml.safe_dump(RECIPE))
    assert run(["train", "soho.yaml"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "runs/whole/metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "loss" in row]
    assert len(rows) == 6
    assert all(0 <= row["padding"] < 1 for row in rows)
    assert any(row["loss/mvm"] > 0 for row in rows)

    # As if it had been stopped behind its third step.
    half = tmp_path / "runs/half"
    shutil.copytree(tmp_path / "runs/whole", half)
    shutil.rmtree(half / "export")
    shutil.rmtree(half / "checkpoints/step_00000006")
    (half / "checkpoints/latest").write_text("step_00000003\n")
    assert run(["train", "soho.yaml", "name=half"]) == 0

    whole, resumed = (
        load_file(next((tmp_path / "runs" / name / "export").glob("*.safetensors")))
        for name in ("whole", "half")
    )
    dictionary = {name for name in whole if ".dictionary." in name}
    assert len(dictionary) == 4
    assert float(whole["model.neck.dictionary.totals"].sum()) > 0
    assert whole.keys() == resumed.keys()
    for name, tensor in whole.items():
        assert torch.equal(resumed[name], tensor), name
