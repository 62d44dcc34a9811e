"""Shards of videos survive the kills that shards of pictures do; clips are read out of them afterwards."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from toy_card import tree
from video_card import SAMPLES, SHARD_SIZE, video_card, write_raw

from diptych.data.config import DataConfig
from diptych.data.index import ShardDataset
from diptych.data.loader import evaluation_batches
from diptych.data.prepare import prepare
from diptych.data.verify import verify

HERE = Path(__file__).parent
LEFT_OUT = {"truncated video": 1, "unreadable video": 1}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos") / "raw"
    write_raw(folder)
    return folder


def brightness(folder: Path) -> list[list[int]]:
    """First and last frame of each clip, as grey levels."""
    config = DataConfig.model_validate({"image": {"size": 16}, "video": {"frames": 2, "policy": "uniform"}})
    selection = ShardDataset.open(folder).select()
    levels = []
    for batch in evaluation_batches(selection, config, 5):
        assert batch.images is not None
        assert not batch.skipped
        levels += batch.images[:, :, 0, 8, 8].tolist()
    return levels


def killed(raw: Path, tmp_path: Path, steps: list[int]) -> None:
    reference = tmp_path / "reference"
    assert prepare(video_card(), raw, reference, shard_size=SHARD_SIZE).problems == LEFT_OUT
    wanted = []
    for i in range(SAMPLES):
        # 4 levels a frame; a clip has the frames from i / 10 on, for 0.4 seconds: 2.5 frames a tenth.
        first, last = (0, 59) if i % 3 == 0 else (-(-5 * i // 2), -(-5 * i // 2) + 9)
        wanted.append([4 * first, 4 * last])
    assert np.abs(np.array(brightness(reference)) - np.array(wanted)).max() <= 4
    program = [sys.executable, "video_card.py", str(raw), str(tmp_path), *map(str, steps)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        program, capture_output=True, text=True, timeout=120, check=True, env=environment, cwd=HERE
    )
    lines = done.stdout.split("\n")[:-1]
    assert lines == [f"{step} 9" for step in steps]  # 9: ended by SIGKILL
    for step in steps:
        out = tmp_path / str(step)
        assert prepare(video_card(), raw, out, shard_size=SHARD_SIZE).problems == LEFT_OUT, step
        assert tree(out) == tree(reference), step
    assert brightness(tmp_path / str(steps[-1])) == brightness(reference)
    assert verify(tmp_path / str(steps[0]), decode=True).sound


@pytest.mark.slow
def test_killed_at_some_steps(raw: Path, tmp_path: Path) -> None:
    killed(raw, tmp_path, [5, 20, 41])


@pytest.mark.slow
def test_killed_at_every_third_step(raw: Path, tmp_path: Path) -> None:
    killed(raw, tmp_path, list(range(0, 81, 3)))
