"""The EVE model: published sizes, passes, stems, and what its configuration refuses."""

import pytest
import torch
from pydantic import ValidationError

from diptych.blocks.stem import ConvStem, ConvStemConfig
from diptych.errors import DataError
from diptych.systems.eve.config import EveConfig, base, large
from diptych.systems.eve.model import EveModel
from diptych.systems.eve.system import SYSTEM


def toy(**changes: object) -> EveModel:
    torch.manual_seed(0)
    return EveModel(SYSTEM.toy_config().with_(**changes)).eval()


@pytest.mark.parametrize(("config", "count"), [(base(), 475_197_696), (large(), 1_326_101_504)])
def test_published_parameter_counts(config: EveConfig, count: int) -> None:
    with torch.device("meta"):
        model = EveModel(config)
    assert sum(p.numel() for p in model.parameters()) == count


def test_one_published_expert() -> None:
    with torch.device("meta"):
        model = EveModel(base())
    experts = [p for n, p in model.named_parameters() if ".moe.experts." in n]
    assert sum(p.numel() for p in experts) == 302_235_648
    assert sum(p[0].numel() for p in experts) == 2 * 4_722_432


@pytest.mark.slow
def test_published_start() -> None:
    """One layer of base: matrices within one sigma of 0.02, zero biases, layer scale 0.1."""
    torch.manual_seed(0)
    model = EveModel(base().with_(layers=1, moe_layers=(0,), experts=2, vocab_size=500))
    for name, p in model.named_parameters():
        if name.endswith(("qkv.weight", "fc1_weight", "fc2_weight", "projection.weight", "router.weight")):
            assert p.abs().max() <= 0.02
            # 0.5396: standard deviation of a standard normal cut at one
            assert p.std().item() == pytest.approx(0.02 * 0.5396, rel=0.05), name
        elif name.endswith("_scale"):
            assert torch.equal(p, torch.full_like(p, 0.1))
        elif name.endswith("bias"):
            assert torch.equal(p, torch.zeros_like(p)), name
    assert model.text.words.weight.std().item() == pytest.approx(0.02, rel=0.05)
    first, second = model.layers[0].ffn.moe.experts.fc1_weight
    assert not torch.equal(first, second)


def test_passes_have_the_promised_shapes() -> None:
    model = toy()
    images, ids = torch.randn(3, 3, 16, 16), torch.randint(0, 120, (3, 7))
    mask = torch.ones(3, 7, dtype=torch.bool)
    mask[0, 4:] = False
    seen = model.encode_visual(images)
    assert (seen.tokens.shape, seen.pooled.shape, seen.mask.shape) == ((3, 5, 32), (3, 32), (3, 5))
    read = model.encode_text(ids, mask)
    assert (read.tokens.shape, read.pooled.shape) == ((3, 7, 32), (3, 32))
    fused = model.fuse(images, ids, mask)
    assert (fused.visual.shape, fused.text.shape) == ((3, 5, 32), (3, 7, 32))
    assert torch.equal(fused.pooled, fused.text[:, 0])
    assert torch.equal(fused.text_mask, mask)
    for result in (seen, read, fused):
        assert result.aux["routing"].shape == ()


def test_an_embedding_stands_for_its_picture() -> None:
    model = toy()
    images, ids = torch.randn(2, 3, 16, 16), torch.randint(0, 120, (2, 5))
    mask = torch.ones(2, 5, dtype=torch.bool)
    embedded = model.embed_visual(images)
    assert torch.equal(model.encode_visual(embedded).tokens, model.encode_visual(images).tokens)
    assert torch.equal(model.fuse(embedded, ids, mask).text, model.fuse(images, ids, mask).text)


def test_padding_and_its_length_change_nothing() -> None:
    model = toy()
    images, ids = torch.randn(1, 3, 16, 16), torch.randint(5, 120, (1, 9))
    mask = torch.arange(9)[None] < 4
    short = model.fuse(images, ids[:, :4], mask[:, :4])
    long = model.fuse(images, ids, mask)
    torch.testing.assert_close(long.text[:, :4], short.text, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(long.aux["routing"], short.aux["routing"])
    short, long = model.encode_text(ids[:, :4], mask[:, :4]), model.encode_text(ids, mask)
    torch.testing.assert_close(long.pooled, short.pooled, atol=1e-5, rtol=1e-5)


def test_visible_tokens_keep_their_place() -> None:
    """Reading patches 1 and 3 only is not reading patches 1 and 2 only, even where pixels are equal."""
    model = toy(stem="patch", patch_size=8, class_mean=False)
    tokens = model.embed_visual(torch.ones(1, 3, 16, 16))
    some, other = model.encode_visual(tokens[:, [0, 1, 3]]), model.encode_visual(tokens[:, [0, 1, 2]])
    assert not torch.allclose(some.pooled, other.pooled, atol=1e-4)


@pytest.mark.parametrize("lower", ["separate", "shared", "moe"])
@pytest.mark.parametrize("upper", ["moe", "vl"])
def test_every_kind_of_feed_forward_trains(lower: str, upper: str) -> None:
    model = toy(lower_ffn=lower, upper_ffn=upper).train()
    images, ids = torch.randn(2, 3, 16, 16), torch.randint(0, 120, (2, 5))
    mask = torch.ones(2, 5, dtype=torch.bool)
    passes = (model.encode_visual(images), model.encode_text(ids, mask), model.fuse(images, ids, mask))
    sum(p.pooled.square().sum() + sum(p.aux.values()) for p in passes).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
    assert ("routing" in passes[0].aux) == ("moe" in (lower, upper))


def test_drop_path_rises_with_depth_and_is_off_in_evaluation() -> None:
    model = toy(layers=3, moe_layers=(), drop_path=0.4)
    assert [layer.drop_path.rate for layer in model.layers] == [0.0, 0.2, 0.4]
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(model.encode_visual(images).tokens, model.encode_visual(images).tokens)
    branch = model.layers[2].drop_path.train()(torch.ones(4000, 1, 1))
    assert branch.unique().tolist() == pytest.approx([0.0, 1 / 0.6])
    assert branch.mean().item() == pytest.approx(1.0, abs=0.05)


def test_routing_names_layers_and_modalities() -> None:
    model = toy()
    mask = torch.ones(2, 5, dtype=torch.bool)
    model.fuse(torch.randn(2, 3, 16, 16), torch.randint(0, 120, (2, 5)), mask)
    (stats,) = model.routing()
    assert (stats.layer, sum(stats.image), sum(stats.text)) == (1, 10, 10)
    model.reset_routing()
    assert model.routing() == []


def test_class_tokens_carry_what_the_options_say() -> None:
    plain, summed = toy(class_mean=False), toy(class_mean=True, class_sum=True)
    images = torch.randn(2, 3, 16, 16)
    difference = (summed.embed_visual(images) - plain.embed_visual(images))[:, 0]
    torch.testing.assert_close(difference, plain.visual.stem(images).mean(1), atol=1e-5, rtol=1e-4)
    ids, mask = torch.tensor([[2, 9, 8, 7]]), torch.tensor([[True, True, True, False]])
    words = plain.text.norm(plain.text.words(ids))
    difference = (summed.text(ids, mask) - plain.text(ids, mask))[0, 0]
    torch.testing.assert_close(difference, (words[0, 1] + words[0, 2]) / 2**0.5, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("norm", ["batch", "group", "layer", "none"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_conv_stem_shapes(norm: str, channels_last: bool) -> None:
    config = ConvStemConfig(
        channels=(8, 16, 24), strides=(2, 1, 4), blocks=(0, 2, 1), norm=norm, channels_last=channels_last
    )
    assert config.cell == 8
    stem = ConvStem(32, 20, config, "fan_in")
    assert (stem.side, stem.cell) == (4, 8)
    out = stem(torch.randn(2, 3, 32, 32))
    assert out.shape == (2, 16, 20)
    assert out.isfinite().all()


def test_memory_order_does_not_change_the_stem() -> None:
    images = torch.randn(2, 3, 32, 32)
    outputs = []
    for channels_last in (True, False):
        torch.manual_seed(0)
        config = ConvStemConfig(channels=(8, 8), strides=(4, 4), blocks=(1, 0), channels_last=channels_last)
        outputs.append(ConvStem(32, 12, config, "fan_in")(images))
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-4)


def test_wrong_inputs_are_named() -> None:
    model = toy()
    with pytest.raises(DataError, match=r"\[batch, 3, 16, 16\].*data.image.size=16"):
        model.encode_visual(torch.randn(1, 3, 24, 24))
    with pytest.raises(DataError, match="text of 17 tokens: expected at most 16"):
        model.encode_text(torch.zeros(1, 17, dtype=torch.long), torch.ones(1, 17, dtype=torch.bool))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 20}, "image_size 20 is not a multiple of the product of conv.strides"),
        ({"stem": "patch", "patch_size": 5}, r"image_size 16 is not a multiple of patch_size \(5\)"),
        ({"heads": 5}, "width 32 is not a multiple of heads 5"),
        ({"moe_layers": (1, 2)}, r"moe_layers \[2\]: expected numbers from 0 to 1"),
        ({"conv": {"channels": (8,), "strides": (2, 2), "blocks": (0,)}}, "one entry a stage"),
        ({"conv": {"channels": (9,), "strides": (2,), "blocks": (0,), "norm": "group"}}, "multiples of 8"),
    ],
)
def test_configurations_that_cannot_be(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SYSTEM.toy_config().with_(**changes)
