"""Vision encoders against what transformers returns itself, chunks, and whole views."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from diptych.data.tiling import TilingConfig, global_view, tile_picture
from diptych.errors import CheckpointError, ConfigError, UsageError
from diptych.systems.mllm.hugging_face import quiet, transformers
from diptych.systems.mllm.system import TOY_EVE
from diptych.systems.mllm.vision import CLIP_MEAN, VisionConfig, build_encoder, exact_global_views
from diptych.systems.mllm.vision_files import load_weights, read_settings

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 7,
}
KINDS = ("clip_vision_model", "siglip_vision_model", "dinov2", "vit")
TILES = torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(0))


def settings(kind: str) -> dict[str, Any]:
    return {"model_type": kind, **SIZES}


def saved(kind: str, folder: Path) -> nn.Module:
    """Save a model with fresh weights and return it."""
    library = transformers()
    with quiet():
        model = library.AutoModel.from_config(library.AutoConfig.for_model(**settings(kind)))
        model.save_pretrained(folder)
    found: nn.Module = model.eval()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("layer", "final_norm"), [(-1, False), (-2, False), (-1, True)])
def test_features_are_those_of_transformers(kind: str, layer: int, final_norm: bool, tmp_path: Path) -> None:
    model = saved(kind, tmp_path)
    config = read_settings(VisionConfig(path=str(tmp_path), layer=layer, final_norm=final_norm))
    encoder = build_encoder(config, 28).eval()
    load_weights(encoder, config)
    states: list[Tensor] = []
    layers = max((m for m in model.modules() if isinstance(m, nn.ModuleList)), key=len)
    layers[layer].register_forward_hook(
        lambda _m, _i, out: states.append(out[0] if isinstance(out, tuple) else out)
    )
    with torch.no_grad():
        model(TILES)
        expected = states[0][:, -16:]
        if final_norm:
            norm = getattr(model, "post_layernorm", None) or model.layernorm
            expected = norm(expected)
        found = encoder(TILES)
    assert (encoder.width, encoder.side) == (16, 4)
    assert torch.allclose(found, expected, atol=1e-6)
    assert len(encoder.blocks()) == 3 + layer + 1


@pytest.mark.parametrize("kind", ["clip_vision_model", "siglip_vision_model", "vit"])
def test_what_does_not_count_is_not_there(kind: str) -> None:
    encoder = build_encoder(VisionConfig(settings=settings(kind), layer=-2), 28)
    encoder(TILES).square().sum().backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None] == []


def test_tiles_of_another_side_resize_the_positions() -> None:
    encoder = build_encoder(VisionConfig(settings=settings("clip_vision_model")), 42)
    assert encoder.side == 6
    assert encoder(torch.randn(1, 3, 42, 42)).shape == (1, 36, 16)


def test_the_vision_part_of_two_towers(tmp_path: Path) -> None:
    library = transformers()
    with quiet():
        model = library.CLIPModel(
            library.CLIPConfig(
                vision_config=SIZES,
                text_config={**SIZES, "vocab_size": 20, "max_position_embeddings": 8},
                projection_dim=8,
            )
        ).eval()
        model.save_pretrained(tmp_path)
    config = read_settings(VisionConfig(path=str(tmp_path)))
    encoder = build_encoder(config, 28).eval()
    load_weights(encoder, config)
    with torch.no_grad():
        expected = model.vision_model(TILES).last_hidden_state[:, 1:]
        assert torch.allclose(encoder(TILES), expected, atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_chunks_change_neither_features_nor_gradients(chunk: int) -> None:
    config = VisionConfig(settings=settings("clip_vision_model"))
    torch.manual_seed(0)
    whole, parts = (build_encoder(config.with_(chunk=c), 28) for c in (0, chunk))
    parts.load_state_dict(whole.state_dict())
    for encoder in (whole, parts):
        encoder(TILES).square().sum().backward()
    assert torch.allclose(whole(TILES), parts(TILES), atol=1e-6)
    for one, two in zip(whole.parameters(), parts.parameters(), strict=True):
        assert one.grad is not None
        assert two.grad is not None
        assert torch.allclose(one.grad, two.grad, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert torch.allclose(whole(TILES), parts(TILES), atol=1e-6)


def test_at_most_chunk_tiles_are_encoded_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = build_encoder(VisionConfig(settings=settings("clip_vision_model"), chunk=2), 28)
    seen = []
    encode = type(encoder).encode
    monkeypatch.setattr(type(encoder), "encode", lambda self, x: (seen.append(len(x)), encode(self, x))[1])
    with torch.no_grad():
        encoder(TILES)
    assert seen == [2, 1]


def test_an_export_of_diptych_as_encoder(tmp_path: Path) -> None:
    import yaml

    config = VisionConfig(kind="diptych", settings=TOY_EVE)
    source = build_encoder(config, 16).eval()
    state = {f"model.{n}": t for n, t in source.model.state_dict().items()}
    state = {n: t.contiguous() for n, t in state.items()}
    save_file({**state, "itc.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "model.yaml").write_text(yaml.safe_dump({"system": TOY_EVE}))
    config = read_settings(VisionConfig(kind="diptych", path=str(tmp_path)))
    encoder = build_encoder(config, 16).eval()
    load_weights(encoder, config)
    assert (encoder.width, encoder.side, encoder.mean) == (32, 2, (0.5, 0.5, 0.5))
    tiles = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = source.model.encode_visual(tiles).tokens[:, 1:]  # the class token comes first
        assert torch.equal(encoder(tiles), expected)
    with pytest.raises(ConfigError, match=r"tile = 32.*16 pixels"):
        build_encoder(config, 32)
    with pytest.raises(ConfigError, match="only the last counts"):
        build_encoder(config.with_(layer=-2), 16)


def test_colours_of_pixels() -> None:
    config = VisionConfig(settings=settings("vit"), std=(1, 1, 1))
    encoder = build_encoder(config, 28)
    assert (encoder.mean, encoder.std) == (CLIP_MEAN, (1, 1, 1))


def test_whole_views_are_those_of_normalised_pixels() -> None:
    tiling = TilingConfig(kind="hd", tile=8, hd_num=8)
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((16, 24), (32, 16))]
    made = [tile_picture(p, tiling) for p in pictures]
    tiles = torch.cat([t.tiles for t in made]).float() / 127.5 - 1
    found = exact_global_views(tiles, [t.grid for t in made], tiling)
    at = 0
    for tiled, picture in zip(made, pictures, strict=True):
        pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1
        if pixels.shape[-2:] == (tiled.rows * 8, tiled.columns * 8):  # nothing was resized
            assert torch.allclose(found[at], global_view(pixels, 8)[0], atol=1e-6)
        # Bytes are the same picture, rounded and clipped.
        clipped = found[at].clamp(-1, 1)
        assert (clipped - tiles[at]).abs().max() <= 0.51 / 127.5
        assert not torch.equal(found[at], tiles[at])
        views = 1 + tiled.rows * tiled.columns
        assert torch.equal(found[at + 1 : at + views], tiles[at + 1 : at + views])
        at += views
    assert exact_global_views(tiles, [], tiling.with_(kind="none")) is tiles


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (VisionConfig(), ConfigError, "settings is empty"),
        (VisionConfig(settings={"model_type": "bert"}), ConfigError, "bert has no image_size"),
        (VisionConfig(settings=settings("vit"), layer=-4), ConfigError, "has 3 layers"),
        (
            VisionConfig(kind="timm", settings={"model_name": "vit_tiny_patch16_224"}),
            UsageError,
            "pip install timm",
        ),
    ],
)
def test_settings_that_describe_no_encoder(
    config: VisionConfig, error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(error, match=message):
        build_encoder(config, 28)


def test_folders_that_hold_no_encoder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give path, or settings"):
        read_settings(VisionConfig())
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read"):
        read_settings(VisionConfig(path=str(tmp_path)))
    with pytest.raises(CheckpointError, match="expected an export of Diptych"):
        read_settings(VisionConfig(kind="diptych", path=str(tmp_path)))
    saved("vit", tmp_path)
    config = VisionConfig(path=str(tmp_path), settings={**settings("vit"), "num_hidden_layers": 4})
    with pytest.raises(CheckpointError, match=r"missing: \['layers\.3"):
        load_weights(build_encoder(config, 28), config)


def test_networks_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    # The library is not installed here; what is called of it is a few lines.
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.blocks = nn.Conv2d(3, 6, 4, 4), nn.Sequential(nn.Identity(), nn.Identity())
            self.feature_info = [{"num_chs": 6, "reduction": 4}] * 2
            self.pruned: tuple[list[int], bool] | None = None

        def prune_intermediate_layers(self, indices: list[int], prune_norm: bool, prune_head: bool) -> None:
            assert prune_head
            self.pruned = indices, prune_norm

        def forward_intermediates(
            self, x: Tensor, indices: list[int], norm: bool, **options: Any
        ) -> list[Tensor]:
            assert options == {"output_fmt": "NCHW", "intermediates_only": True}
            return [self.stem(x) + 10 * indices[0] + 100 * norm]

    made: list[dict[str, Any]] = []

    def create_model(**arguments: Any) -> Network:
        made.append(arguments)
        return Network()

    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=create_model))
    config = VisionConfig(kind="timm", settings={"model_name": "tiny"}, layer=-1)
    encoder = build_encoder(config, 16)
    assert made == [{"pretrained": False, "img_size": 16, "num_classes": 0, "model_name": "tiny"}]
    assert encoder.model.pruned == ([1], True)
    assert (encoder.width, encoder.side, len(encoder.blocks())) == (6, 4, 2)
    tiles = torch.randn(2, 3, 16, 16)
    expected = encoder.model.stem(tiles)[1, :, 2, 3] + 10
    assert torch.allclose(encoder(tiles)[1, 2 * 4 + 3], expected)


def test_depths_leave_the_last_block_its_whole_rate() -> None:
    encoder = build_encoder(VisionConfig(settings=settings("clip_vision_model"), final_norm=True), 28)
    depths = encoder.depths()
    named: dict[str, set[int]] = {}
    for name, _ in encoder.named_parameters():
        part = ".".join(name.split(".")[1:4]) if ".layers." in name else name.split(".")[0]
        named.setdefault(part, set()).add(depths.get(name, -1))
    assert named == {
        "model": {0},  # embeddings and the norm before the layers
        "encoder.layers.0": {1},
        "encoder.layers.1": {2},
        "encoder.layers.2": {-1},
        "norm": {-1},
    }
