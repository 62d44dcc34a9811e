"""`diptych.load` on SNP-S3: features of clips, and choosing among texts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.video_tasks.video_toys import FRAMES, TINY, WORDS, clips, spread, toy_model, toy_tokenizer

import diptych
from diptych.data.image import normalise
from diptych.errors import UsageError
from diptych.tasks.multiple_choice import MultipleChoiceTask
from diptych.tasks.multiple_choice_config import MultipleChoiceConfig
from diptych.tasks.vqa import VqaTask
from diptych.tasks.vqa_config import VqaConfig
from diptych.train.config import resolve_run
from diptych.train.export import exported_settings, write_export

TOKENS = toy_tokenizer()
SETTINGS = {
    "data": {"image": {"size": 32}, "video": {"frames": FRAMES}, "text": {"max_tokens": 8}},
    "system": TINY.model_dump(mode="json"),
}


def export(folder: Path, task: MultipleChoiceTask | VqaTask) -> Path:
    values = {**SETTINGS, "task": task.config.model_dump(mode="json")}
    settings = exported_settings(resolve_run(values).config)
    return write_export(folder, task.state_dict(), TOKENS, settings, assets=task.assets())


def videos() -> list[np.ndarray]:
    """Return clips as arrays of frames [N, H, W, 3]."""
    return [clip.permute(0, 2, 3, 1).numpy() for clip in clips(2)]


def test_choosing_and_features(tmp_path: Path) -> None:
    task = MultipleChoiceTask(toy_model(), MultipleChoiceConfig(dropout=0.0), TOKENS)
    spread(task, task.match)
    loaded = diptych.load("snps3", export(tmp_path / "export", task), batch_size=1, device="cpu")
    assert loaded.can("choose")
    assert loaded.can("encode")
    assert not loaded.can("match")
    found = loaded.choose(videos(), list(WORDS[:5]))
    ids, mask = TOKENS.encode(list(WORDS[:5]), 8)
    with torch.no_grad():
        frames = torch.stack([normalise(clip, task.model.image_spec) for clip in clips(2)])
        visual = task.eval().model.embed_visual(frames)
        scores = [task.match(task.model.fuse(visual[[i] * 5], ids, mask).pooled) for i in range(2)]
    torch.testing.assert_close(found, torch.stack(scores).softmax(1), rtol=1e-4, atol=1e-5)
    seen, read = loaded.encode_image(videos()), loaded.encode_text(list(WORDS[:3]))
    for vectors in (seen, read):
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))
    with pytest.raises(UsageError, match="choose"):
        loaded.match(videos()[0], "red cat runs")


def test_a_model_without_a_head_for_pairs(tmp_path: Path) -> None:
    task = VqaTask(toy_model(), VqaConfig(head="linear"), TOKENS, ["yes", "no"])
    loaded = diptych.load("snps3", export(tmp_path / "export", task), device="cpu")
    assert not loaded.can("choose")
    with pytest.raises(UsageError, match="without a matching head"):
        loaded.choose(videos(), list(WORDS[:2]))
    (answer,) = loaded.answer(videos()[0], "red cat runs", top=2)
    assert {name for name, _ in answer.ranked} == {"yes", "no"}
