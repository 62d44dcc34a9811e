"""The residual network: shapes, names, frozen stages, statistics when blocks are run again."""

from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from diptych.blocks.resnet import Depth, ResNet, ResNetConfig

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def tiny(depth: int = 18, **options: Any) -> ResNet:
    torch.manual_seed(0)
    made = ResNet(
        ResNetConfig.model_validate({"depth": depth, "stem_channels": 4, "base_channels": 2, **options})
    )
    for norm in (m for m in made.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)  # zero would hide what the blocks do
    return made


def torchvision_names(depth: int) -> list[str]:
    """Write down the state dict of torchvision's model, without its classifier, in order."""

    def norm(name: str) -> list[str]:
        return [
            f"{name}.{part}"
            for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        ]

    names = ["conv1.weight", *norm("bn1")]
    convolutions = 2 if depth < 50 else 3
    for stage, blocks in enumerate(BLOCKS[depth], start=1):
        for block in range(blocks):
            here = f"layer{stage}.{block}"
            for i in range(1, convolutions + 1):
                names += [f"{here}.conv{i}.weight", *norm(f"{here}.bn{i}")]
            # Plain blocks of the first stage keep the width of the stem.
            if block == 0 and (stage > 1 or depth >= 50):
                names += [f"{here}.downsample.0.weight", *norm(f"{here}.downsample.1")]
    return names


def full_size(depth: Depth) -> ResNet:
    with torch.device("meta"):
        return ResNet(ResNetConfig(depth=depth))


@pytest.mark.slow
@pytest.mark.parametrize("depth", get_args(Depth))
def test_every_depth_has_its_shape_and_torchvisions_names(depth: int) -> None:
    net = tiny(depth).eval()
    channels = 16 if depth < 50 else 64
    assert net.out_channels == channels
    with torch.no_grad():
        assert net(torch.randn(2, 3, 64, 96)).shape == (2, channels, 2, 3)
        assert net(torch.randn(1, 3, 65, 33)).shape == (1, channels, 3, 2)  # sides are rounded up
    whole = full_size(depth).state_dict()  # type: ignore[arg-type]
    assert list(whole) == torchvision_names(depth)


def test_shapes_of_the_published_sizes() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in full_size(50).state_dict().items()}
    assert shapes["conv1.weight"] == (64, 3, 7, 7)
    assert shapes["layer1.0.downsample.0.weight"] == (256, 64, 1, 1)
    assert shapes["layer4.2.conv2.weight"] == (512, 512, 3, 3)
    assert shapes["layer4.2.bn3.running_var"] == (2048,)
    count = {d: sum(p.numel() for p in full_size(d).parameters()) for d in (18, 34, 50)}
    # torchvision's counts without the classifier of 1000 classes.
    assert count == {18: 11_689_512 - 513_000, 34: 21_797_672 - 513_000, 50: 25_557_032 - 2_049_000}


@pytest.mark.parametrize("depth", [18, 50])
def test_it_computes_what_torchvision_computes(depth: int) -> None:
    models = pytest.importorskip("torchvision.models")
    theirs = getattr(models, f"resnet{depth}")(weights=None)
    torch.manual_seed(1)
    for norm in (m for m in theirs.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    ours = ResNet(ResNetConfig(depth=depth))
    state = {name: t for name, t in theirs.state_dict().items() if not name.startswith("fc.")}
    ours.load_state_dict(state)
    theirs.avgpool = theirs.fc = nn.Identity()
    images = torch.randn(2, 3, 64, 96)
    for mode in (True, False):
        torch.testing.assert_close(ours.train(mode)(images).flatten(1), theirs.train(mode)(images))
    torch.testing.assert_close(ours.bn1.state_dict(), theirs.bn1.state_dict())


@pytest.mark.parametrize("stages", [-1, 0, 1, 2, 4])
def test_frozen_stages_stay_in_eval_mode_and_get_no_gradient(stages: int) -> None:
    net = tiny(frozen_stages=stages)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    for _ in range(2):
        net.eval()
        net.train()
        parts = {"bn1": net.bn1, **{f"layer{n}": net.stage(n) for n in range(1, 5)}}
        frozen = ["bn1", "layer1", "layer2", "layer3", "layer4"][: stages + 1]
        assert [name for name, part in parts.items() if not part.training] == frozen
    out = net(torch.randn(2, 3, 64, 64))
    assert out.requires_grad == (stages < 4)
    if stages < 4:
        out.square().sum().backward()
    prefixes = tuple(["conv1.", "bn1.", "layer1.", "layer2.", "layer3.", "layer4."][: stages + 2])
    frozen_names = [name for name in before if stages >= 0 and name.startswith(prefixes)]
    assert {name for name, p in net.named_parameters() if p.grad is None} == {
        name for name, _ in net.named_parameters() if name in frozen_names
    }
    for name, tensor in net.state_dict().items():
        moved = (
            name.endswith(("running_mean", "running_var", "num_batches_tracked")) and name not in frozen_names
        )
        assert torch.equal(tensor, before[name]) != moved, name


def trained(net: ResNet, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    out = net(images)
    (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    return out, {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


def test_running_blocks_again_moves_their_statistics_twice_and_changes_nothing_else() -> None:
    images = torch.randn(3, 3, 64, 64)
    plain, again = tiny(frozen_stages=1), tiny(frozen_stages=1, recompute=True)
    start = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    (out, gradients), (out2, gradients2) = trained(plain, images), trained(again, images)
    torch.testing.assert_close(out2, out, rtol=0, atol=0)
    assert gradients.keys() == gradients2.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradients2[name], gradient)
    once, twice = plain.state_dict(), again.state_dict()
    for name in (n for n in start if n.endswith("num_batches_tracked")):
        wanted = 0 if name.startswith(("bn1", "layer1")) else 1 if name.startswith("layer2.0") else 2
        assert int(twice[name]) == wanted, name
        assert int(once[name]) == min(wanted, 1)
    for kind in ("running_mean", "running_var"):
        # The batch is the same both times: m1 = 0.9 m0 + 0.1 b, m2 = 0.9 m1 + 0.1 b = m1 + 0.9 (m1 - m0).
        name = f"layer3.1.bn2.{kind}"
        expected = once[name] + 0.9 * (once[name] - start[name])
        torch.testing.assert_close(twice[name], expected)
        name = f"layer2.0.bn1.{kind}"  # its input needs no gradient, so it runs once
        torch.testing.assert_close(twice[name], once[name])


def test_nothing_is_run_again_without_gradients() -> None:
    net = tiny(recompute=True)
    with torch.no_grad():
        net(torch.randn(2, 3, 64, 64))
    assert int(net.state_dict()["layer4.1.bn2.num_batches_tracked"]) == 1


def test_fresh_blocks_pass_their_input_on() -> None:
    net = ResNet(ResNetConfig(stem_channels=4, base_channels=4)).eval()
    x = torch.rand(1, 4, 8, 8)  # not negative, so that the last ReLU keeps it
    torch.testing.assert_close(net.stage(1)(x), x)


def test_the_small_stem_keeps_twice_the_cells() -> None:
    net = tiny(stem="small")
    assert net.config.stride == 16
    assert net(torch.randn(2, 3, 32, 48)).shape == (2, 16, 2, 3)
