"""Questions about one clip: it is decoded once where clips are remembered, and looks the same where not."""

from pathlib import Path
from typing import Any

import pytest
import torch

import diptych.data.clips
from diptych.data.config import DataConfig
from diptych.data.examples import expand
from diptych.data.index import ShardDataset
from diptych.data.loader import Loader
from diptych.data.prepare import load_card, prepare


@pytest.mark.parametrize("cache", [0, 8])
def test_a_clip_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: int) -> None:
    options = {"size": "2", "resolution": "32", "frames": "5", "kinds": "12"}
    prepare(load_card("emoji-clips"), None, tmp_path, options=options, shard_size=10, progress=None)
    rows = expand(ShardDataset.open(tmp_path).select(), "questions")
    decode, decoded = diptych.data.clips._decode_clip, []

    def counted(sample: Any, *rest: Any) -> None:
        decoded.append(sample.key)
        decode(sample, *rest)

    monkeypatch.setattr(diptych.data.clips, "_decode_clip", counted)
    config = DataConfig.model_validate(
        {
            "image": {"size": 32},
            "video": {"frames": 3, "random": False},
            "loader": {"batch_size": len(rows), "cache_mb": cache, "shuffle": False},
        }
    )
    batch = next(iter(Loader(rows, config, None, seed=0)))
    assert len(set(batch.keys)) == 2 < len(rows)
    assert len(decoded) == (2 if cache else len(rows))
    first = {key: batch.keys.index(key) for key in batch.keys}
    assert batch.images is not None
    for row, key in enumerate(batch.keys):
        assert torch.equal(batch.images[row], batch.images[first[key]])
    assert not torch.equal(*(batch.images[row] for row in first.values()))
