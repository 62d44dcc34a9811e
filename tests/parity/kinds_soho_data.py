"""Kinds `image_pipeline`, `resize_sizes` and `group_sampler` of SOHO: how pictures become batches."""

import numpy as np
import torch
from tests.parity.runner import Case, Comparison, exact, output

from diptych.data.bucket import published_groups
from diptych.data.config import ImageConfig
from diptych.data.fit import fit_size, limits, pad_batch, padded
from diptych.data.image import fit_into, normalise
from diptych.systems.protocol import ImageSpec


def check_pipeline(case: Case) -> list[Comparison]:
    """Resize, normalise and pad every picture, then put them into one batch."""
    config, given = case.meta["config"], case.tensors
    long, short = max(config["img_scale"]), min(config["img_scale"])
    multiple = config["size_divisor"]
    rule = ImageConfig(resize="fit", long=long, short=short, multiple=multiple, interpolation="opencv")
    mean, std = (tuple(v / 255 for v in config[name]) for name in ("mean", "std"))
    spec = ImageSpec(0, mean, std)
    names = sorted(name.removeprefix("in.").removesuffix("_bgr") for name in given if name.startswith("in."))
    done, pictures = [], []
    for name in names:
        pixels = given[f"in.{name}_bgr"].numpy()
        rgb = pixels[..., ::-1].copy() if config.get("to_rgb", True) else pixels.copy()
        frame = np.zeros((padded(long, multiple), padded(long, multiple), 3), dtype=np.uint8)
        height, width = fit_into(frame, rgb, rule)
        made = normalise(torch.from_numpy(frame[:height, :width].copy()).permute(2, 0, 1)[None], spec)[0]
        pictures.append(made)
        alone, sizes = pad_batch([made], multiple)
        done.append(output(name, alone[0], given[f"out.{name}"]))
        noted = case.meta.get("notes", {}).get(name)
        if noted:
            done.append(exact(f"{name}: size", sizes[0].tolist(), noted["img_shape"][:2]))
    batch, _ = pad_batch(pictures, multiple)
    if "batch_shape" in case.meta.get("notes", {}):
        done.append(exact("batch", list(batch.shape), case.meta["notes"]["batch_shape"]))
    if "out.batch" in given:
        done.append(output("batch", batch, given["out.batch"]))
    return done


def check_sizes(case: Case) -> list[Comparison]:
    """Compare sizes for given limits, and the range that training draws limits from."""
    done = []
    for row in case.meta["sizes"]:
        long, short = max(row["scale"]), min(row["scale"])
        width, height = fit_size(row["width"], row["height"], long, short)
        what = f"{row['width']} x {row['height']} within {long}, {short}"
        done.append(exact(what, [width, height], [row["new_width"], row["new_height"]]))
        done.append(exact(f"{what}, padded", [padded(height, 32), padded(width, 32)], row["pad"]))
    for name, draws in case.meta.items():
        if not name.startswith("range_draws_seed"):
            continue
        # Whole numbers of the range, both ends included, the longer side first: what our draws come from too.
        random = np.random.RandomState(int(name.removeprefix("range_draws_seed")))
        drawn = [[random.randint(1333, 1334), random.randint(400, 801)] for _ in draws]
        done.append(exact(name, drawn, draws))
        rule = ImageConfig(resize="fit", train_long=1333, train_short=(400, 800))
        steps = (np.arange(401 * 4) + 0.5) / (401 * 4)
        ours = {limits(rule, float(step)) for step in steps}
        done.append(exact("range", ours, {(1333, short) for short in range(400, 801)}))
    return done


def check_sampler(case: Case) -> list[Comparison]:
    """Compare the samples of every rank in every recorded epoch."""
    lying = np.array(case.meta["flags"], dtype=bool)
    return [
        exact(
            f"run {number}",
            published_groups(lying, run["samples_per_gpu"], run["world_size"], run["epoch"]).tolist(),
            run["per_rank"],
        )
        for number, run in enumerate(case.meta["runs"])
    ]
