"""The published mixtures as recipes: figures of the papers' files, and that experts serve every task."""

import pytest
import torch

from diptych.data.turns import make_turns
from diptych.resolve import look_up
from diptych.systems import SYSTEMS
from diptych.systems.protocol import TargetRows, Writing
from diptych.systems.uniperceiver.config import ConditionalConfig
from diptych.systems.uniperceiver.model import UniPerceiverModel
from diptych.train.build import build_model, check_config
from diptych.train.config import RunConfig, resolve_run

CAPTIONED = ("yfcc", "cc12m", "cc3m", "vg", "coco", "sbu")


def recipe(name: str) -> RunConfig:
    config = resolve_run(f"uniperceiver/pretrain/{name}").config
    check_config(config)
    return config


def batches(config: RunConfig) -> dict[str, int]:
    return {name: source.batch_size for name, source in config.data.sources.items()}


def weights(config: RunConfig) -> dict[str, float]:
    return {name: source.weight or 0.0 for name, source in config.data.sources.items()}


def test_sixteen_tasks_in_two_stages() -> None:
    first, second = recipe("16tasks_stage1"), recipe("16tasks_stage2")
    assert len(first.data.sources) == len(second.data.sources) == 16
    assert sum(weights(first).values()) == pytest.approx(10.0, abs=2e-3)
    assert weights(second)["k700"] == 1.0
    assert weights(second)["moments"] == 0.2
    of_captions = {f"{name}_caption": 300 for name in CAPTIONED}
    of_retrieval = {f"{name}_retrieve": 512 for name in CAPTIONED}
    others = {"imagenet22k": 720, "k700": 64, "moments": 112, "bookswiki": 512}
    assert batches(first) == others | of_captions | of_retrieval
    later = {"imagenet22k": 440, "k700": 12, "moments": 68, "bookswiki": 512}
    assert batches(second) == later | dict.fromkeys(of_captions, 200) | dict.fromkeys(of_retrieval, 320)
    assert (first.train.steps, second.train.steps) == (200_000, 45_000)
    assert (first.optim.lr, second.optim.lr) == (1e-3, 2e-5)
    assert (first.optim.weight_decay, second.optim.weight_decay) == (0.2, 0.05)
    assert (first.schedule.warmup, second.schedule.warmup) == (10_000, 5_000)
    assert first.data.image.size == 160
    assert second.data.image.size == 224
    assert second.system.model_dump()["grid_scale"] == pytest.approx(160 / 224, abs=1e-6)
    entry = first.task.entries()["imagenet22k"].model_dump()
    assert (entry["mixup"], entry["cutmix"]) == (0.8, 1.0)
    assert second.task.entries()["imagenet22k"].model_dump()["mixup"] == 0


@pytest.mark.parametrize(
    ("name", "draws", "steps", "words", "captions"),
    [
        ("16tasks_stage1", 64, 200_000, 0.5, None),
        ("16tasks_stage2", 64, 45_000, 0.25, 0.5),
        ("16tasks_moe_stage1", 56, 230_000, 0.5, None),
        ("16tasks_moe_stage2", 56, 50_000, 0.5, 1.0),
    ],
)
def test_stages_of_dense_models_and_of_experts(
    name: str, draws: int, steps: int, words: float, captions: float | None
) -> None:
    config = recipe(name)
    assert (config.data.mixture.draws, config.train.steps) == (draws, steps)
    losses = config.task.model_dump()["weights"]
    assert losses["bookswiki"] == words
    assert losses.get("coco_caption") == captions
    assert losses["k700"] == words / 5
    # Published is the sum of both directions, weighted like words; ours is their mean.
    assert losses["coco_retrieve"] == 2 * words
    assert config.system.model_dump()["experts"]["layers"] == ("odd" if "moe" in name else "none")


@pytest.mark.slow
def test_seven_tasks_on_a_tiny_model() -> None:
    config = recipe("7tasks")
    assert sum(weights(config).values()) == pytest.approx(10.0, abs=1e-3)
    with torch.device("meta"):
        dense = build_model(config.system)
        mixed = build_model(recipe("7tasks_moe").system)
    # The reference page counts the fixed table of places (196 rows of 192) too.
    assert sum(p.numel() for p in dense.parameters()) + 196 * 192 == pytest.approx(15.15e6, rel=1e-3)
    assert sum(p.numel() for p in mixed.parameters()) + 196 * 192 == pytest.approx(52.63e6, rel=2e-3)


def test_draws_follow_the_weights() -> None:
    config = recipe("16tasks_stage1").data
    sizes = dict.fromkeys(config.sources, range(10))
    turns = make_turns(sizes, config, 64, seed=0)  # type: ignore[arg-type]
    found = dict(zip(config.sources, turns.quotas.tolist(), strict=True))
    assert found["imagenet22k"] == pytest.approx(2486, abs=2)
    assert found["coco_retrieve"] == found["coco_caption"] == pytest.approx(114, abs=1)


@pytest.mark.parametrize("layers", ["odd", "four", "all"])
def test_experts_serve_every_task(layers: str) -> None:
    """Of the published ones VQA has no attributes; here every way of reading works and trains its gates."""
    torch.manual_seed(0)
    system = look_up(SYSTEMS, "uniperceiver", "system")
    model = system.build(system.toy_config().with_(experts=ConditionalConfig(layers=layers))).train()
    assert isinstance(model, UniPerceiverModel)
    images, clips = torch.randn(2, 3, 16, 16), torch.randn(2, 2, 3, 16, 16)
    ids, mask = torch.tensor([[5, 6, 2], [7, 2, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]]).bool()
    rows = TargetRows(torch.tensor([5, 2, 6, 7, 2]), torch.tensor([2, 3]))
    words = model.target_features(rows, "vocabulary")
    made = {
        "pictures": model.encode_visual(images).pooled,
        "clips": model.encode_visual(clips).pooled,
        "texts": model.encode_text(ids, mask).pooled,
        "sentences": model.read_text(ids, mask).pooled,
        "questions": model.fuse(images, ids, mask).text,
        "captions": model.caption_logits(images, ids, mask, words, "caption"),
        **{kind: model.target_features(rows, kind) for kind in ("classes", "answers", "glue", "captions")},
    }
    gate = model.layers[0].qkv.gate
    for name, value in made.items():
        found = torch.autograd.grad(value.square().sum(), [gate.weight], retain_graph=True)[0]
        assert found.isfinite().all(), name
    options = Writing(beams=2, steps=3)
    assert model.eval().generate(images, words.detach(), options).ids.shape == (2, 2, 3)


def test_questions_are_read_by_other_experts_than_pictures_alone() -> None:
    torch.manual_seed(3)
    system = look_up(SYSTEMS, "uniperceiver", "system")
    model = system.build(system.toy_config().with_(experts=ConditionalConfig(layers="all", noise=0.0))).eval()
    from diptych.systems.uniperceiver.attributes import INPUTS

    gate = model.layers[0].qkv.gate
    shares = [gate(model.segments(INPUTS[name])) for name in ("vqa", "image_classification", "image_caption")]
    assert [len(s.experts[0]) for s in shares] == [2, 1, 2]
    # The picture of a question is what the picture of a caption is, and its text is another than a caption's.
    assert torch.equal(shares[0].weights[:, 0], shares[2].weights[:, 0])
    assert not torch.equal(shares[0].weights[:, 1], shares[2].weights[:, 1])
    assert not torch.equal(shares[0].weights[:, 0], shares[1].weights[:, 0])
