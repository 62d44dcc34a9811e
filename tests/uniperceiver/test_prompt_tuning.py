"""Prompts: where they stand, that nothing else trains, and exports that hold only what changed."""

import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from diptych.errors import CheckpointError, ConfigError, UsageError
from diptych.resolve import look_up
from diptych.systems import SYSTEMS
from diptych.systems.protocol import TargetRows, Writing
from diptych.systems.uniperceiver.attributes import TARGETS
from diptych.systems.uniperceiver.collate import pad_rows
from diptych.systems.uniperceiver.config import ConditionalConfig, PromptConfig
from diptych.systems.uniperceiver.layers import Sequences
from diptych.systems.uniperceiver.model import UniPerceiverModel
from diptych.train.build import check_config
from diptych.train.config import resolve_run
from diptych.train.export_base import changed, completed

ROWS = [[5, 9, 2], [7, 2], [11, 12, 13, 14, 2], [8, 2]]
KINDS = {
    "shallow": PromptConfig(shallow=3),
    "apart": PromptConfig(shallow=3, shallow_targets=1),
    "all": PromptConfig(shallow=2, shallow_targets=3, deep=2, deep_targets=4, labels=4, slot_bias=True),
}


def model_of(prompts: PromptConfig, experts: str = "none") -> UniPerceiverModel:
    torch.manual_seed(1)
    system = look_up(SYSTEMS, "uniperceiver", "system")
    mixture = ConditionalConfig(layers=experts, noise=0.0)
    model = system.build(system.toy_config().with_(prompts=prompts, experts=mixture)).eval()
    assert isinstance(model, UniPerceiverModel)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def rows_of(rows: list[list[int]]) -> TargetRows:
    return TargetRows(
        torch.tensor([i for row in rows for i in row]), torch.tensor([len(row) for row in rows])
    )


def test_shallow_prompts_are_read_and_left_out_of_what_comes_back() -> None:
    model = model_of(PromptConfig(shallow=3))
    assert model.shallow_prompt is not None
    images = torch.randn(2, 3, 16, 16)
    ids, mask = torch.tensor([[5, 6, 2], [7, 2, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]]).bool()
    found = model.fuse(images, ids, mask)
    # By hand: a sequence that has the learned tokens behind its start.
    patches, text = model.embed_visual(images), model.text(ids)
    prompt = model.shallow_prompt.expand(2, -1, -1)
    x = torch.cat([model.text.start(2), prompt, patches, text], 1)
    states = model.encode(x, Sequences(F.pad(~mask, (1 + 3 + 4, 0), value=False)))
    torch.testing.assert_close(found.pooled, states[:, 0])
    torch.testing.assert_close(found.visual, states[:, 4:8])
    torch.testing.assert_close(found.text, states[:, 8:])
    assert found.text_mask.tolist() == mask.tolist()
    assert model.encode_visual(images).tokens.shape == (2, 5, 32)
    assert model.encode_text(ids, mask).tokens.shape == (2, 4, 32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("experts", ["none", "odd"])
def test_packed_targets_are_those_padded(kind: str, experts: str) -> None:
    model = model_of(KINDS[kind], experts)
    ids, padding = pad_rows(ROWS)
    states = model.encode_targets(ids, padding, model.segments(TARGETS["classes"]))
    expected = model.likelihood.features(states[:, 0])
    found = model.target_features(rows_of(ROWS), "classes")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_label_prompt_stays_with_its_class() -> None:
    model = model_of(KINDS["all"])
    rows, order = rows_of(ROWS), torch.tensor([2, 0, 3])
    whole = model.target_features(rows, "classes")
    torch.testing.assert_close(model.target_features(rows.take(order), "classes"), whole[order])
    # Other sets have no label prompts.
    model.label_prompt = None
    plain = model.target_features(rows, "vocabulary")
    model = model_of(KINDS["all"])
    torch.testing.assert_close(model.target_features(rows, "vocabulary"), plain)
    with pytest.raises(UsageError, match=r"system\.prompts\.labels = 4, but there are 5"):
        model.target_features(rows_of([*ROWS, [9, 2]]), "classes")


def test_the_linear_layer_has_a_row_for_each_class() -> None:
    model = model_of(PromptConfig(classes=3))
    with pytest.raises(UsageError, match=r"system\.prompts\.classes = 3, but there are 4 targets"):
        model.compare(torch.randn(2, 32), torch.randn(4, 32), "img_cls")


@pytest.mark.parametrize("experts", ["none", "all"])
def test_captions_are_written_with_prompts(experts: str) -> None:
    model = model_of(KINDS["all"], experts)
    words = model.target_features(rows_of([[i, 2] for i in range(30)]), "vocabulary")
    found = [
        model.generate(torch.ones(2, 3, 16, 16), words, Writing(beams=2, steps=5, cache=cache))
        for cache in ("none", "inputs", "keys")
    ]
    for other in found[1:]:
        assert torch.equal(found[0].ids, other.ids)
        torch.testing.assert_close(found[0].log_probs, other.log_probs, rtol=1e-4, atol=1e-5)


def test_without_decay_are_tables_gates_and_prompts() -> None:
    model = model_of(KINDS["all"], "odd")
    found = model.undecayed()
    assert {"text.words.weight", "visual.temporal.weight", "label_prompt", "layers.0.prompt"} <= found
    assert {"layers.0.qkv.gate.weight", "layers.0.qkv.gate.tag.weight", "shallow_prompt"} <= found
    assert not found & {"layers.0.qkv.weight", "likelihood.projection.weight", "visual.patches.weight"}


def test_a_small_export_is_whole_again_with_its_base(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    base = {"a": torch.ones(3), "b": torch.zeros(2, 2), "c": torch.ones(1)}
    ours = {"a": torch.ones(3), "b": torch.eye(2), "d": torch.zeros(1), "c": torch.ones(2)}
    folder, small = tmp_path / "base", tmp_path / "runs" / "small"
    folder.mkdir()
    small.mkdir(parents=True)
    save_file(base, folder / "model.safetensors")
    kept, of = changed(ours, folder)
    assert set(kept) == {"b", "c", "d"}
    of.write(small, small)
    whole = completed(kept, small)
    assert set(whole) == set(ours)
    assert all(torch.equal(whole[name], ours[name]) for name in ours)
    # The base has moved along with the export: found by its relative place.
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for part in (folder, tmp_path / "runs"):
        shutil.move(part, moved / part.name)
    assert set(completed(kept, moved / "runs" / "small")) == set(ours)
    save_file({**base, "a": torch.zeros(3)}, moved / "base" / "model.safetensors")
    with pytest.raises(CheckpointError, match="which has other weights now"):
        completed(kept, moved / "runs" / "small")
    shutil.rmtree(moved / "base")
    with pytest.raises(CheckpointError, match="is not there any more"):
        completed(kept, moved / "runs" / "small")


def test_changes_need_a_model_to_differ_from() -> None:
    recipe = {
        "data": {"path": "x", "image": {"size": 224}},
        "system": {"name": "uniperceiver"},
        "task": {"name": "classification"},
        "train": {"export": "changes"},
    }
    with pytest.raises(ConfigError, match=r"set init_from\.path"):
        check_config(resolve_run(recipe).config)


def test_a_stem_of_convolutions_sees_pictures_and_clips() -> None:
    system = look_up(SYSTEMS, "uniperceiver", "system")
    conv = {"channels": [8, 8, 16, 16], "strides": [2, 2, 2, 2], "blocks": [0, 0, 0, 0], "norm": "group"}
    config = system.toy_config().with_(stem="conv", conv=conv, image_size=48)
    model = system.build(config).eval()
    clips = torch.randn(2, 2, 3, 48, 48)
    tokens = model.embed_visual(clips)
    assert (config.side, tokens.shape) == (3, (2, 2 * 9, 32))
    # The second frame's tokens, but for their row in the table of frames, are those of the frame alone.
    with torch.no_grad():
        model.visual.temporal.weight.zero_()
    assert torch.allclose(model.embed_visual(clips)[:, 9:], model.embed_visual(clips[:, 1])[:, :9], atol=1e-5)


def test_norms_train_behind_frozen_convolutions() -> None:
    """In torch 2.13 the backward pass of GroupNorm ends the process for such input, channels last."""
    from diptych.blocks.stem import ConvStem, ConvStemConfig

    conv = ConvStemConfig(channels=(8, 16), strides=(2, 2), blocks=(0, 0), norm="group")
    stem = ConvStem(8, 4, conv, "fan_in")
    for name, parameter in stem.named_parameters():
        parameter.requires_grad = "norm" in name
    stem(torch.randn(2, 3, 8, 8)).square().sum().backward()
    assert all(p.grad is not None for name, p in stem.named_parameters() if "norm" in name)


@pytest.mark.slow
def test_prompts_alone_are_trained_and_exported(tmp_path: Path) -> None:
    """A model of a few steps, then prompts on a share of the labels, from the export of the first."""
    from diptych.data.cards.emoji import CARD
    from diptych.data.shards import ShardWriter
    from diptych.train.build import load_task
    from diptych.train.engine import train

    writer = ShardWriter(tmp_path / "data", "emoji", shard_size=500)
    for number, sample in enumerate(CARD.convert(None, {})):
        if number % 40 == 0:
            writer.write(sample)
    writer.close()
    (tmp_path / "groups.txt").write_text("emotion\tsmileys-emotion\nnature\tanimals-nature\n")
    kinds = "category IN ('smileys-emotion', 'animals-nature')"
    more = [f"data.path={tmp_path / 'data'}", "data.split=null", f"data.where={kinds}"]
    target, quiet = f"task.target={tmp_path / 'groups.txt'}", ["train.threads=1", "train.device=cpu"]
    first = [*more, *quiet, target, "init_from.path=", "train.steps=2"]
    train(resolve_run("uniperceiver/finetune/groups_emoji_tiny", first), tmp_path / "whole", progress=False)
    before = load_file(tmp_path / "whole" / "export" / "model.safetensors")
    start = [f"init_from.path={tmp_path / 'whole'}", "system.prompts.classes=2", "train.steps=2"]
    prompts = "uniperceiver/prompt/groups_emoji_tiny"
    run = tmp_path / "prompts"
    train(resolve_run(prompts, [*more, *start, *quiet, target]), run, progress=False)
    kept = load_file(run / "export" / "model.safetensors")
    added = {name for name in kept if name not in before}
    assert added == {
        *(f"model.layers.{i}.prompt" for i in range(3)),
        "model.text.slot_bias",
        "model.classifier.weight",
        "model.classifier.bias",
        "model.similarity",
    }
    assert all("norm" in name for name in kept.keys() - added)
    _, task = load_task(run)
    state = task.state_dict()
    for name, tensor in before.items():
        assert torch.equal(state[name], kept.get(name, tensor)), name
    assert (run / "export" / "model.safetensors").stat().st_size * 20 < (
        tmp_path / "whole" / "export" / "model.safetensors"
    ).stat().st_size
    assert "base.json" in (run / "export" / "README.md").read_text()
