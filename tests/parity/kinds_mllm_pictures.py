"""Kinds of mllm from pictures to tokens: partition, layout of tokens, projectors (4KHD and nanoVLM)."""

import hashlib

import numpy as np
import torch
from tests.parity.runner import Case, Comparison, exact, output
from torch import Tensor

from diptych.data.tiling import TilingConfig, count_tokens, global_view, plan_tiles, tile_picture
from diptych.systems.mllm.connector import Connector, TilesConfig, merge_neighbours

LEVELS = 2.0
"""The README accepts so many grey levels where Pillow resizes differently."""


def check_partition(case: Case) -> list[Comparison]:
    """Compare grids, padding, token counts and pixels of the published partition."""
    done = []
    for entry in case.meta["cases"]:
        width, height, limit = entry["width"], entry["height"], entry["hd_num"]
        label = f"{width}x{height} hd{limit}"
        config = TilingConfig(kind="hd", hd_num=limit)
        plan = plan_tiles(width, height, config)
        right = plan.columns * config.tile - plan.width - plan.left
        bottom = plan.rows * config.tile - plan.height - plan.top
        ours = {
            "out_width": plan.columns * config.tile,
            "out_height": plan.rows * config.tile,
            "tiles_w": plan.columns,
            "tiles_h": plan.rows,
            "pad_top": plan.top,
            "pad_bottom": bottom,
            "pad_left": plan.left,
            "pad_right": right,
            "content_width": plan.width,
            "content_height": plan.height,
            "image_tokens": count_tokens(plan.rows, plan.columns, config, 12),
        }
        done += [exact(f"{label} {name}", ours[name], entry[name]) for name in ours]
        if "sample_key" in entry:
            done += _pixels(label, _formula(width, height, case.meta["seed"]), config, entry, case)
    return done


def _pixels(
    label: str, picture: np.ndarray, config: TilingConfig, entry: dict, case: Case
) -> list[Comparison]:
    """Compare the pixels of the padded picture: all of them by their hash, or else a sample."""
    tiled = tile_picture(picture, config)
    pixels = _whole(tiled.tiles[1:], tiled.rows, tiled.columns).numpy()
    if hashlib.sha256(pixels.tobytes()).hexdigest() == entry["sha256_rgb"]:
        return [exact(f"{label} pixels", True, True)]
    rows, columns = (np.linspace(0, n - 1, 16).astype(int) for n in pixels.shape[:2])
    sample = torch.from_numpy(pixels[rows][:, columns].astype(np.int64))
    error = (sample - case.tensors[entry["sample_key"]].long()).abs().max().item()
    return [exact(f"{label} sample within {LEVELS} levels", error <= LEVELS, True)]


def _whole(tiles: Tensor, rows: int, columns: int) -> Tensor:
    """Put tiles [h w, 3, S, S] together again: [hS, wS, 3]."""
    side = tiles.shape[-1]
    grid = tiles.view(rows, columns, 3, side, side).permute(0, 3, 1, 4, 2)
    return grid.reshape(rows * side, columns * side, 3).contiguous()


def _formula(width: int, height: int, seed: int) -> np.ndarray:
    """Return the picture [H, W, 3] that the case describes."""
    x, y = np.arange(width)[None, :], np.arange(height)[:, None]
    channels = [
        (x * (3 + c + seed) + y * (5 + 2 * c) + (x // 16) * (y // 16) * (7 + c)) % 256 for c in range(3)
    ]
    return np.stack(channels, -1).astype(np.uint8)


def check_listing(case: Case) -> list[Comparison]:
    """Follow the original where the seed's listing computes something else."""
    done = []
    for entry in case.meta["cases"]:
        width, height, limit = entry["width"], entry["height"], entry["hd_num"]
        plan = plan_tiles(width, height, TilingConfig(kind="hd", hd_num=limit))
        label = f"{width}x{height} hd{limit}"
        done.append(exact(label, [plan.columns, plan.rows], entry["original_tiles"]))
    return done


def check_tokens(case: Case) -> list[Comparison]:
    """Lay recorded features out and project them; shrink the padded picture to the whole view."""
    meta, given = case.meta, case.tensors
    tiling = TilingConfig(kind="hd", tile=meta["tile"])
    side, width = meta["tokens_per_tile_side"], given["tower_features"].shape[-1]
    factor = side // meta["merged_side"]
    config = TilesConfig(merge=factor)
    connector = Connector(config, tiling, side, width, len(given["vision_proj.0.bias"]))
    names = {"newline": given["sub_GN"].flatten(), "separator": given["glb_GN"].flatten()}
    names |= {f"projector.{k}": t for k, t in case.under("vision_proj.").items()}
    connector.load_state_dict(names)
    grids = [(h, w) for h, w in meta["shapes_h_w"]]
    views = {name: t for name, t in given.items() if name.startswith("global_view_")}
    with torch.no_grad():
        laid = connector.lay_out(given["tower_features"], grids)
        projected = connector(given["tower_features"], grids)
    counts = [connector.count(*grid) for grid in grids]
    done = [
        exact("lengths", counts, meta["split"]),
        output("tokens", laid[None], given["tokens"]),
        output("projected", projected[None], given["projected"]),
    ]
    for name, expected in views.items():
        picture = given[name.replace("global_view", "image")]
        done.append(output(name, global_view(picture, meta["tile"]), expected))
    return done


def check_nanovlm(case: Case) -> list[Comparison]:
    """Compare nanoVLM's grids, its merging of neighbours and its projector."""
    meta, given = case.meta, case.tensors
    done = []
    for entry in meta["cases"]:
        config = TilingConfig(
            kind="nanovlm",
            tile=entry["patch"],
            max_side=entry["max_side"],
            to_max_side=entry["resize_to_max"],
        )
        plan = plan_tiles(entry["width"], entry["height"], config)
        label = f"{entry['width']}x{entry['height']} {entry['resize_to_max']}"
        done += [
            exact(f"{label} grid", [plan.rows, plan.columns], entry["grid"]),
            exact(f"{label} size", [plan.height, plan.width], entry["out_hw"]),
            exact(f"{label} tiles", config.views(plan.rows, plan.columns), entry["tiles"]),
        ]
    x, factor = given["x"], meta["factor"]
    config = TilesConfig(merge=factor, projector="linear", bias=False)
    side, out = round(x.shape[1] ** 0.5), len(given["param.proj.weight"])
    connector = Connector(config, TilingConfig(), side, x.shape[2], out)
    connector.load_state_dict({"projector.0.weight": given["param.proj.weight"]})
    with torch.no_grad():
        projected = connector(x, [(1, 1)] * len(x))
    done.append(output("shuffled", merge_neighbours(x, factor).flatten(1, 2), given["shuffled"]))
    done.append(output("projected", projected.view_as(given["projected"]), given["projected"]))
    return done
