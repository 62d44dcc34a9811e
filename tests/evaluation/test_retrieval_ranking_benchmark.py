"""The benchmark of re-ranking: its peer does what the published experts do, and it runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diptych.blocks.moe import Mixture
from diptych.blocks.router import RouterConfig

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("measured", [1, 2, 3])
def test_the_peer_gives_what_dropping_experts_give(monkeypatch: pytest.MonkeyPatch, measured: int) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    from retrieval_eval import CapacityEinsum

    torch.manual_seed(0)
    published = RouterConfig(drop_tokens=True, padding="published", noise="never")
    mixture = Mixture(8, 16, 3, "quick_gelu", published).eval()
    for parameter in mixture.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 9, 8)
    with torch.no_grad():
        expected = mixture(x, 5, None).output
        peer = CapacityEinsum(mixture, "quick_gelu", measured)
        found = peer(x, 5, None).output
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert peer.products > 0


@pytest.mark.slow
def test_it_runs_small(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    sizes = "--pictures 12 --k-split 3 --k 4 --image-size 32 --width 16 --heads 2 --hidden 32 --layers 3 "
    sizes += "--experts 4 --threads 1 --repeats 1"
    command = [sys.executable, FOLDER / "retrieval_eval.py", *sizes.split(), "--json", file]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=120)
    rows = {row["name"]: row for row in json.loads(file.read_text())}
    assert rows["retrieval eval 12x60 k=3 same ranks"]["value"] == 1
    assert rows["retrieval eval 12x60 k=3 fused forwards"]["ratio"] > 1
    assert {row["peer"] for row in rows.values()} == {"per-query-loop", "capacity-einsum-loop"}
