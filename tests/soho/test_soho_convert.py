"""Names and values between published SOHO checkpoints and ours."""

import pytest
import torch
from soho_files import SMALL, assert_same, published_pretraining, published_vqa
from torch import Tensor

from diptych.errors import CheckpointError
from diptych.systems.soho.config import SohoConfig
from diptych.systems.soho.convert import (
    from_published,
    our_name,
    publishable,
    published_name,
    published_names,
    to_published,
)
from diptych.systems.soho.model import SohoModel

WORDS = "language.bert.embeddings.word_embeddings.weight"
PAIRS = {
    "backbone.layer2.0.downsample.1.running_var": "model.backbone.layer2.0.downsample.1.running_var",
    "neck.conv.conv.weight": "model.neck.conv.weight",
    "neck.conv.bn.num_batches_tracked": "model.neck.bn.num_batches_tracked",
    "neck.ln.bias": "model.neck.norm.bias",
    "neck.begin_line.weight": "model.neck.align_before.weight",
    "neck.pos_line.bias": "model.neck.align.bias",
    "neck.gate_fc.conv.weight": "model.neck.gate.weight",
    "neck.gate_fc.bn.running_mean": "model.neck.gate_bn.running_mean",
    "neck.mask_emb.weight": "model.neck.hidden_token",
    "neck.vq.embed": "model.neck.dictionary.codes",
    "neck.vq.cluster_size": "model.neck.dictionary.sizes",
    "neck.vq.cluster_sum": "model.neck.dictionary.totals",
    "neck.vq.embed_avg": "model.neck.dictionary.sums",
    WORDS: "model.text.words.weight",
    "head.match_class.weight": "itm.weight",
    "head.vqa.0.weight": "vqa.hidden.weight",
    "head.vqa.3.bias": "vqa.classifier.bias",
}
"""A key of every kind: renaming one of ours would orphan checkpoints."""


def test_names_both_ways() -> None:
    for published, ours in PAIRS.items():
        assert our_name(published) == ours
        assert published_name(ours) == published
    for unknown in ("neck.vq.other", "head.obj.weight", "language.bert.pooler.dense.weight", "neck.x", ""):
        assert our_name(unknown) is None
    for unknown in ("model.neck.dictionary.other", "captions.weight", "model.layers.0.other.weight"):
        assert published_name(unknown) is None
    names = [*PAIRS.values(), "captions.weight"]
    assert published_names(names) == {ours: published for published, ours in PAIRS.items()}


@pytest.mark.parametrize("align_before", [False, True])
@pytest.mark.parametrize("neck", ["gated", "added", "plain"])
def test_round_trips_of_whole_models_bit_for_bit(neck: str, align_before: bool) -> None:
    config = SohoConfig.model_validate({**SMALL.model_dump(), "neck": neck, "align_before": align_before})
    published = published_pretraining(config)
    imported = from_published(published)
    assert imported.ignored == []
    own = {f"model.{name}" for name in SohoModel(config).state_dict()} | {"itm.weight"}
    assert imported.state.keys() == own
    assert_same(to_published(imported.state), published)
    assert_same(from_published(to_published(imported.state)).state, imported.state)
    if neck != "plain":
        assert published["neck.mask_emb.weight"].shape == (1, config.width)
        assert imported.state["model.neck.hidden_token"].shape == (config.width,)
        assert torch.equal(published["mask_l_fc.weight"], published[WORDS])
    else:
        assert "mask_l_fc.weight" not in published


def test_the_vqa_head_and_the_wrapper_of_several_gpus() -> None:
    published = published_vqa()
    plain = from_published(published)
    assert plain.state["vqa.classifier.weight"] is not None
    wrapped = from_published({f"module.{name}": tensor for name, tensor in published.items()})
    assert_same(wrapped.state, plain.state)
    assert_same(to_published(wrapped.state), published)


def test_half_precision_counts_as_single_precision() -> None:
    published = published_pretraining()
    half = {n: t.half() if t.is_floating_point() else t for n, t in published.items()}
    imported = from_published(half)
    assert {t.dtype for t in imported.state.values()} == {torch.float32, torch.int64}
    assert_same({n: t.half() for n, t in to_published(imported.state).items() if t.is_floating_point()},
                {n: t for n, t in half.items() if t.is_floating_point()})  # fmt: skip


def test_missing_counters_are_made() -> None:
    published = published_pretraining()
    counters = {name for name in published if name.endswith("num_batches_tracked")}
    assert counters
    without = {name: tensor for name, tensor in published.items() if name not in counters}
    imported = from_published(without)
    assert imported.ignored == []
    for name in counters:
        ours = our_name(name)
        assert ours is not None
        assert imported.state[ours].dtype == torch.int64
        assert int(imported.state[ours]) == 0
    own = {f"model.{name}" for name in SohoModel(SMALL).state_dict()} | {"itm.weight"}
    assert imported.state.keys() == own


def test_word_scores_must_be_the_word_table() -> None:
    published = published_pretraining()
    changed = {**published, "mask_l_fc.weight": published["mask_l_fc.weight"] + 1}
    with pytest.raises(CheckpointError, match=r"mask_l_fc\.weight differs from .*word_embeddings"):
        from_published(changed)
    del changed["mask_l_fc.weight"]
    assert_same(from_published(changed).state, from_published(published).state)


def test_what_has_no_place_is_listed() -> None:
    more: dict[str, Tensor] = {
        "language.bert.pooler.dense.weight": torch.zeros(2, 2),
        "language.bert.embeddings.position_ids": torch.arange(4)[None],
        "head.obj.weight": torch.zeros(1),
        "neck.vq.decay": torch.zeros(()),
    }
    imported = from_published({**published_pretraining(), **more})
    # The table of positions is a counter, not a weight.
    assert imported.ignored == ["head.obj.weight", "language.bert.pooler.dense.weight", "neck.vq.decay"]


def test_files_of_something_else_and_weights_without_a_name() -> None:
    with pytest.raises(CheckpointError, match=r"expected a published SOHO checkpoint, got \['a', 'b'\]"):
        from_published({"b": torch.zeros(1), "a": torch.zeros(1)})
    ours = {"model.neck.norm.bias": torch.zeros(2), "z.weight": torch.zeros(1), "itc.scale": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"itc\.scale, z\.weight"):
        to_published(ours)
    assert list(publishable(ours)) == ["model.neck.norm.bias"]
