"""The dictionary shown: the nearest patches of an evaluation, the section of the report."""

import base64
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from diptych.blocks.dictionary import DictionaryConfig
from diptych.blocks.resnet import ResNetConfig
from diptych.data.batch import Batch
from diptych.data.draws import Draws
from diptych.data.sample import Sample
from diptych.data.shards import ShardWriter
from diptych.data.text import Tokenizer
from diptych.report.collect import read_run
from diptych.report.dictionary import cut, seen_part, visual_dictionary
from diptych.report.run import write_run_report
from diptych.systems.soho.config import SohoConfig
from diptych.systems.soho.masking import hide_visual_words, show
from diptych.systems.soho.model import SohoModel
from diptych.systems.soho.patches import PATCHES, NearestPatches, Patch
from diptych.systems.soho.pretrain import SohoPretrainTask
from diptych.systems.soho.pretrain_config import SohoPretrainConfig
from diptych.systems.task import EvalData, StepContext

TOKENIZER = Tokenizer.from_vocabulary(["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", *"abcdefgh"])


def test_patches_by_hand() -> None:
    near = NearestPatches(2, cell=32)
    words = torch.tensor([[0, 1, 0, 0, -100, 0]])
    distances = torch.tensor([[3.0, 1.0, 2.0, 2.5, 0.0, 9.0]])
    near.add(["a"], words, distances, columns=3, sizes=torch.tensor([[50, 96]]))
    assert near.found[1] == {"a": Patch(1.0, "a", (0, 1), (32, 0, 64, 32), (96, 50))}
    # One patch of each picture: the nearest; the picture ends where its frame does not.
    assert near.found[0] == {"a": Patch(2.0, "a", (0, 2), (64, 0, 96, 32), (96, 50))}
    near.add(["b"], torch.tensor([[-1, -1, -1, 0, -1, -1]]), torch.zeros(1, 6), 3, torch.tensor([[50, 96]]))
    told = near.told(torch.tensor([4, 0]))
    assert [word["word"] for word in told] == [0]
    assert told[0]["count"] == 4
    assert [patch["key"] for patch in told[0]["patches"]] == ["b", "a"]
    assert told[0]["patches"][0] | {"distance": 0} == {
        "key": "b",
        "cell": [1, 0],
        "box": [0, 32, 32, 50],
        "size": [96, 50],
        "distance": 0,
    }


def test_only_the_nearest_patches_are_kept() -> None:
    near, generator = NearestPatches(3, cell=8), torch.Generator().manual_seed(3)
    seen: list[tuple[float, str, int]] = []
    for batch in range(12):
        words = torch.randint(-1, 3, (5, 4), generator=generator)
        distances = torch.rand(5, 4, generator=generator)
        keys = [f"{batch}-{row}" for row in range(5)]
        near.add(keys, words, distances, 2, torch.full((5, 2), 16))
        seen += [
            (float(distances[row, place]), keys[row], int(words[row, place]))
            for row in range(5)
            for place in range(4)
        ]
    for word in range(3):
        nearest: dict[str, float] = {}
        for distance, key, found in sorted(seen):
            if found == word:
                nearest.setdefault(key, distance)
        expected = sorted((distance, key) for key, distance in nearest.items())[:PATCHES]
        assert sorted((p.distance, p.key) for p in near.found[word].values()) == expected


def make_task(neck: str = "gated") -> SohoPretrainTask:
    torch.manual_seed(1)
    config = SohoConfig.model_validate(
        {
            "backbone": ResNetConfig(stem_channels=4, base_channels=2),
            "width": 16,
            "layers": 2,
            "heads": 2,
            "hidden": 24,
            "vocab_size": TOKENIZER.vocab_size,
            "max_text_tokens": 8,
            "dropout": 0.0,
            "attention_dropout": 0.0,
            "neck": neck,
            "dictionary": DictionaryConfig(codes=6),
        }
    )
    rates = SohoPretrainConfig(mvm_weight=float(neck != "plain"), visual_mask_ratio=0.7)
    return SohoPretrainTask(SohoModel(config), rates, TOKENIZER)


def pictures() -> list[np.ndarray]:
    """Return five pictures of 128 x 192 pixels, every 64 pixels a square of another grey."""
    levels = np.random.default_rng(4).integers(0, 256, (5, 2, 3, 1), dtype=np.uint8)
    return list(levels.repeat(64, 1).repeat(64, 2).repeat(3, 3))


def make_batch() -> Batch:
    return Batch(
        keys=[f"p{i}" for i in range(5)],
        positions=torch.arange(5),
        match_ids=torch.arange(5),
        images=torch.from_numpy(np.stack(pictures())).permute(0, 3, 1, 2),
        image_sizes=torch.tensor([[128, 192]] * 5),
        text_ids=torch.tensor([[1, 5, 6, 7, 8, 2]] * 5),
        text_mask=torch.ones(5, 6, dtype=torch.bool),
        captions=[("a b c d",)] * 5,
    )


def evaluate(task: SohoPretrainTask):  # type: ignore[no-untyped-def]
    def batches() -> Iterator[Batch]:
        yield make_batch()

    return task.evaluate(EvalData("toy", "test", 5, batches), lambda *_: None)


def test_an_evaluation_tells_of_the_patches_nearest_to_each_word() -> None:
    task = make_task()
    found = evaluate(task).extra["visual_words"]
    assert found["cell"] == 64
    assert sum(found["usage"]) == 5 * 6
    assert [word["count"] for word in found["words"]] == sorted(filter(None, found["usage"]), reverse=True)
    task.eval()
    with torch.no_grad():
        seen = task.model.see(task.pixels(make_batch()))
    assert seen.indices is not None
    for word in found["words"]:
        for patch in word["patches"]:
            row, column = patch["cell"]
            assert patch["box"] == [64 * column, 64 * row, 64 * column + 64, 64 * row + 64]
            assert int(seen.indices[int(patch["key"][1:]), 3 * row + column]) == word["word"]


def test_pre_training_without_a_dictionary() -> None:
    task = make_task("plain").train()
    found = task.compute_loss(make_batch(), StepContext(0, 0.0, Draws(0, torch.arange(5))))
    found.total.backward()
    assert float(found.parts["mvm"].detach()) == 0
    assert "visual_words" not in found.metrics
    evaluation = evaluate(task)
    assert evaluation.extra == {}
    assert "visual_words_used" not in evaluation.metrics


def test_the_last_layer_computes_the_same_where_it_computes_anything() -> None:
    task = make_task().eval()
    model, texts = task.model, make_batch()
    assert texts.text_ids is not None
    assert texts.text_mask is not None
    with torch.no_grad():
        visual = model.embed_visual(task.pixels(texts))
        whole = model.fuse(visual, texts.text_ids, texts.text_mask)
        places = torch.tensor([[0, 3, 11], [5, 6, 7], [11, 0, 0], [2, 1, 0], [8, 9, 10]])
        some = model.fuse_at(visual, texts.text_ids, texts.text_mask, places)
    every = torch.cat([whole.text, whole.visual], 1)
    torch.testing.assert_close(some, every[torch.arange(5)[:, None], places])


@pytest.mark.parametrize("neck", ["gated", "plain"])
def test_training_scores_what_the_whole_sequence_gives(neck: str) -> None:
    batch = make_batch()
    assert batch.text_ids is not None
    assert batch.text_mask is not None
    # Three texts a picture; some are shorter.
    lengths = torch.tensor([6, 4, 3])
    mask = (torch.arange(6) < lengths[:, None]).expand(5, 3, 6)
    batch = replace(batch, text_ids=batch.text_ids[:, None].expand(5, 3, 6), text_mask=mask)
    whole, short = make_task(neck).train(), make_task(neck).train()
    draws = Draws(0, batch.positions)
    assert batch.text_ids is not None
    shown = show(batch.text_ids, mask, batch.match_ids, TOKENIZER, whole.config, draws)

    def hide(words: Tensor) -> Tensor:
        return hide_visual_words(words, 3, whole.config, draws)

    read = whole.read(whole.pixels(batch), batch.image_sizes, shown, hide)
    assert bool(read.hidden.any()) == (neck == "gated")
    expected = whole.losses(whole.score(read, shown), shown)
    found = short.compute_loss(batch, StepContext(0, 0.0, Draws(0, batch.positions)))
    for name, part in expected.parts.items():
        torch.testing.assert_close(found.parts[name], part)
    for name, metric in expected.metrics.items():
        torch.testing.assert_close(found.metrics[name], metric)
    expected.total.backward()
    found.total.backward()
    others = dict(whole.named_parameters())
    for name, parameter in short.named_parameters():
        wanted = others[name].grad
        assert (parameter.grad is None) == (wanted is None), name
        if wanted is not None:
            torch.testing.assert_close(parameter.grad, wanted, atol=1e-5, rtol=1e-3)


def test_what_the_model_saw_of_a_picture() -> None:
    assert seen_part(30, 20, "fit") == seen_part(30, 20, "squash") == (0, 0, 30, 20)
    assert seen_part(30, 20, "crop") == (5, 0, 20, 20)
    assert seen_part(30, 20, "pad") == (0, -5, 30, 30)


def write_dataset(path: Path) -> Path:
    with ShardWriter(path, "toy", shard_size=10) as writer:
        for i, pixels in enumerate(pictures()):
            out = io.BytesIO()
            Image.fromarray(pixels).save(out, "PNG")
            writer.write(Sample(f"p{i}", {"png": out.getvalue()}, ("a b",)))
    return path


def grey(uri: str) -> int:
    kind, _, data = uri.partition(",")
    assert kind == "data:image/webp;base64"
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("L"))
    assert pixels.std() < 3
    return int(pixels.mean().round())


def test_patches_are_cut_from_the_right_place(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "toy")
    # The model saw the pictures at half their size.
    wanted = {(f"p{i}", (32 * x, 32 * y, 32 * x + 32, 32 * y + 32), (96, 64))
              for i, y, x in ((0, 0, 0), (0, 1, 2), (3, 1, 1))}  # fmt: skip
    uris = cut(data, wanted | {("gone", (0, 0, 1, 1), (96, 64))}, "squash")
    assert uris.keys() == wanted
    for key, box, size in wanted:
        expected = pictures()[int(key[1])][box[1] * 2 + 10, box[0] * 2 + 10, 0]
        assert grey(uris[key, box, size]) == pytest.approx(int(expected), abs=3)
    assert cut(tmp_path / "elsewhere", wanted, "squash") == {}


@pytest.mark.slow
def test_the_report_shows_the_dictionary(tmp_path: Path) -> None:
    run, data = tmp_path / "run", write_dataset(tmp_path / "toy")
    found = evaluate(make_task())
    folder = run / "eval" / "soho_pretrain_toy_test"
    folder.mkdir(parents=True)
    (run / "config.yaml").write_text(
        f"name: small\nsystem: {{name: soho}}\ntask: {{name: soho_pretrain}}\ndata: {{path: {data}}}\n"
    )
    rows = [{"step": i, "loss": 2.0, "metric/visual_words": 3.0 + i} for i in range(3)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "metrics.json").write_text(json.dumps(found.metrics))
    (folder / "visual_words.json").write_text(json.dumps(found.extra["visual_words"]))
    view = visual_dictionary([read_run(run)])
    assert view is not None
    assert view.codes == 6
    assert sum(word.share for word in view.words) == pytest.approx(1)
    assert [chart.title for chart in view.charts] == [
        "share of the image tokens, %",
        "visual words in use (perplexity)",
    ]
    assert all(uri for word in view.words for uri, _, _ in word.patches)
    page = write_run_report([run], tmp_path / "report.html").read_text()
    assert page.count("data:image/webp") == sum(len(word.patches) for word in view.words)
    assert 'src="http' not in page
    assert "<link" not in page
