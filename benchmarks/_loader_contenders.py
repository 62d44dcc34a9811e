"""What `loader.py` measures; each contender runs in a process of its own: `python _loader_contenders.py JOB`.

A contender gives (pictures, token ids) for ever: [B, 3, S, S] uint8, or float32 normalised. All cut out a
random half to whole of the picture's area, resize it by antialiased bicubic and use the same tokenizer.
"""

import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SCALE, RATIO = (0.5, 1.0), (3 / 4, 4 / 3)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TOKENS = 40
Batches = Iterator[tuple[Any, Any]]


class Job(dict[str, Any]):
    """What to do: name, corpus, tokenizer, workers, batch, size, float32, seconds, buffer, started."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


def diptych(job: Job) -> Batches:
    """Yield what this project's loader makes."""
    import torch

    from diptych.data.config import DataConfig
    from diptych.data.image import normalise
    from diptych.data.index import ShardDataset
    from diptych.data.loader import Loader
    from diptych.data.text import Tokenizer

    class Spec:
        mean, std = MEAN, STD

    torch.set_num_threads(1)  # as the peers: the workers have the cores
    loader = Loader(
        ShardDataset.open(job.corpus).select(),
        DataConfig.model_validate(_settings(job)),
        Tokenizer.from_file(job.tokenizer),
        seed=0,
    )
    for batch in loader:
        yield normalise(batch.images, Spec) if job.float32 else batch.images, batch.text_ids


def _settings(job: Job) -> dict[str, Any]:
    return {
        "image": {"size": job.size, "resize": "random_crop", "scale": list(SCALE), "ratio": list(RATIO)},
        "text": {"max_tokens": TOKENS},
        "loader": {"batch_size": job.batch, "workers": job.workers},
    }


def webdataset_pillow(job: Job) -> Batches:
    """Yield what webdataset makes with Pillow and torchvision, as open_clip uses them."""
    import torch
    from torchvision import transforms

    steps = [
        transforms.RandomResizedCrop(
            job.size, scale=SCALE, ratio=RATIO, interpolation=transforms.InterpolationMode.BICUBIC
        )
    ]
    if job.float32:
        steps += [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    else:
        steps += [transforms.PILToTensor()]
    torch.set_num_threads(1)
    return _webdataset(job, "pilrgb", transforms.Compose(steps))


def webdataset_torchvision(job: Job) -> Batches:
    """Yield what webdataset makes with torchvision's decoder and tensor transforms."""
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms import v2

    crop = v2.RandomResizedCrop(
        job.size, scale=SCALE, ratio=RATIO, interpolation=v2.InterpolationMode.BICUBIC, antialias=True
    )
    steps = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])

    def make(data: bytes) -> Any:
        encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        image = crop(decode_jpeg(encoded, ImageReadMode.RGB))
        return steps(image) if job.float32 else image

    return _webdataset(job, None, make)


def _webdataset(job: Job, decode: str | None, transform: Callable[[Any], Any]) -> Batches:
    import webdataset as wds

    tokens = tokeniser(job)
    shards = sorted(str(path) for path in Path(job.corpus).glob("*.tar"))
    # Shards are drawn with replacement, so that workers never end: starting them again would cost the peer.
    dataset = wds.WebDataset(shards, resampled=True, shardshuffle=False).shuffle(
        job.buffer, initial=min(job.buffer, job.initial)
    )
    if decode is not None:
        dataset = dataset.decode(decode)
    dataset = dataset.to_tuple("jpg", "txt").map_tuple(
        transform, lambda text: tokens(text if isinstance(text, str) else text.decode())
    )
    dataset = dataset.batched(job.batch, partial=False)
    return iter(wds.WebLoader(dataset, batch_size=None, num_workers=job.workers))


def mosaicml_streaming(job: Job) -> Batches:
    """Yield what MosaicML streaming makes, with Pillow and torchvision."""
    from streaming import MDSWriter, StreamingDataset
    from torch.utils.data import DataLoader

    folder = Path(f"{job.corpus}-mds")
    if not (folder / "index.json").is_file():
        with MDSWriter(out=str(folder), columns={"jpg": "bytes", "txt": "str"}, size_limit="32mb") as writer:
            for jpg, txt in _pairs(job):
                writer.write({"jpg": jpg, "txt": txt})
        raise _PreparedError
    make = _pillow(job)

    class Pictures(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, at: int) -> Any:
            sample = super().__getitem__(at)
            return make(sample["jpg"], sample["txt"])

    def endless() -> Batches:
        loader = DataLoader(
            Pictures(local=str(folder), shuffle=True, batch_size=job.batch),
            batch_size=job.batch,
            num_workers=job.workers,
            persistent_workers=True,
        )
        while True:
            yield from loader

    return endless()


def litdata(job: Job) -> Batches:
    """Yield what litdata makes, with Pillow and torchvision."""
    import litdata as ld

    folder = f"{job.corpus}-litdata"
    if not (Path(folder) / "index.json").is_file():
        pairs = list(_pairs(job))
        ld.optimize(_packed, pairs, output_dir=folder, chunk_bytes="32MB", num_workers=1)
        raise _PreparedError
    make = _pillow(job)

    class Pictures(ld.StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, at: Any) -> Any:
            sample = super().__getitem__(at)
            return make(sample["jpg"], sample["txt"])

    def endless() -> Batches:
        loader = ld.StreamingDataLoader(
            Pictures(folder, shuffle=True), batch_size=job.batch, num_workers=job.workers
        )
        while True:
            yield from loader

    return endless()


class _PreparedError(Exception):
    """The contender's own copy of the corpus was written; run it again."""


def _packed(pair: tuple[bytes, str]) -> dict[str, Any]:
    return {"jpg": pair[0], "txt": pair[1]}


def _pairs(job: Job) -> Iterator[tuple[bytes, str]]:
    import webdataset as wds

    for path in sorted(Path(job.corpus).glob("*.tar")):
        for sample in wds.WebDataset(str(path), shardshuffle=False):
            yield sample["jpg"], sample["txt"].decode()


def _pillow(job: Job) -> Callable[[bytes, str], tuple[Any, Any]]:
    import torch
    from PIL import Image
    from torchvision import transforms

    steps = transforms.Compose(
        [
            transforms.RandomResizedCrop(
                job.size, scale=SCALE, ratio=RATIO, interpolation=transforms.InterpolationMode.BICUBIC
            ),
            *(
                [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
                if job.float32
                else [transforms.PILToTensor()]
            ),
        ]
    )
    tokens = tokeniser(job)

    def make(jpg: bytes, txt: str) -> tuple[Any, Any]:
        return steps(Image.open(io.BytesIO(jpg)).convert("RGB")), torch.from_numpy(tokens(txt))

    return make


def tokeniser(job: Job) -> Callable[[str], Any]:
    """Return text -> [TOKENS] int64, as our tokenizer does it."""
    import numpy as np
    from tokenizers import Tokenizer

    raw = Tokenizer.from_file(job.tokenizer)
    ends = [raw.token_to_id(name) for name in ("[CLS]", "[SEP]")]

    def encode(text: str) -> Any:
        ids = [ends[0], *raw.encode(text, add_special_tokens=False).ids[: TOKENS - 2], ends[1]]
        row = np.full(TOKENS, raw.token_to_id("[PAD]"), dtype=np.int64)
        row[: len(ids)] = ids
        return row

    return encode


def limit(job: Job) -> dict[str, float]:
    """Return the samples per second of processes that only decode, cut out and resize pictures in memory."""
    import multiprocessing

    context = multiprocessing.get_context("fork")
    with context.Pool(job.workers) as pool:
        found = pool.map(_limit_of_one, [dict(job)] * job.workers, chunksize=1)
    return {"rate": sum(rate for rate, _ in found), "cpu_ms": sum(ms for _, ms in found) / len(found)}


def _limit_of_one(settings: dict[str, Any]) -> tuple[float, float]:
    import random

    import numpy as np
    import simplejpeg
    import torch

    job = Job(settings)
    torch.set_num_threads(1)
    pictures = _some_jpegs(job.corpus, 1500)
    memory = np.empty(2**22, dtype=np.uint8)
    batch = torch.empty(job.batch, job.size, job.size, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    bytearray(2**25 - 2**13)  # as the loader: freed memory stays
    done, start, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - start < job.seconds:
        for row in range(job.batch):
            pixels = simplejpeg.decode_jpeg(pictures[done % len(pictures)], "RGB", buffer=memory)
            height, width, _ = pixels.shape
            share = random.uniform(*SCALE) ** 0.5
            h, w = int(height * share), int(width * share)
            top, left = random.randint(0, height - h), random.randint(0, width - w)
            cut = torch.from_numpy(pixels[top : top + h, left : left + w]).permute(2, 0, 1)[None]
            size = [job.size, job.size]
            torch.ops.aten._upsample_bicubic2d_aa.out(cut, size, False, None, None, out=batch[row : row + 1])
            done += 1
    return done / (time.perf_counter() - start), (time.process_time() - cpu) / done * 1e3


def _some_jpegs(corpus: str, count: int) -> list[bytes]:
    import tarfile

    found: list[bytes] = []
    for path in sorted(Path(corpus).glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".jpg") and len(found) < count:
                    content = tar.extractfile(member)
                    assert content is not None
                    found.append(content.read())
    return found


def pixels(job: Job) -> dict[str, float]:
    """Compare our batches with Pillow's antialiased bicubic, picture by picture."""
    import numpy as np
    from PIL import Image

    from diptych.data.config import DataConfig
    from diptych.data.image import CROP_DRAWS, random_box
    from diptych.data.index import ShardDataset
    from diptych.data.loader import Loader
    from diptych.data.order import uniforms
    from diptych.data.text import Tokenizer

    selection = ShardDataset.open(job.corpus).select()
    config = DataConfig.model_validate(_settings(job))
    loader = Loader(selection, config, Tokenizer.from_file(job.tokenizer), seed=0)
    batches = iter(loader)
    differences = []
    for number in range(3):
        batch = next(batches)
        drawn = loader.plan.batch(number)
        draws = uniforms(0, drawn.positions, 2 + CROP_DRAWS)[:, 2:]
        assert batch.images is not None
        for row, draw, image in zip(drawn.rows, draws, batch.images, strict=True):
            original = Image.open(io.BytesIO(selection.read(int(row)).media["jpg"])).convert("RGB")
            box = random_box(*original.size, SCALE, RATIO, draw)
            wanted = original.crop(box).resize((job.size, job.size), Image.Resampling.BICUBIC)
            ours = image.permute(1, 2, 0).numpy().astype(int)
            differences.append(float(np.abs(ours - np.asarray(wanted)).mean()))
    loader.close()
    return {"mean": float(np.mean(differences)), "worst": max(differences)}


def family() -> list[int]:
    """Return the ids of this process and all below it."""
    found = [os.getpid()]
    for pid in found:
        for task in Path(f"/proc/{pid}/task").glob("*"):
            try:
                found += [int(child) for child in (task / "children").read_text().split()]
            except OSError:
                continue
    return found


def cpu_seconds() -> float:
    """Return the CPU time of the living processes of the family."""
    total = 0
    for pid in family():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def memory() -> float:
    """Return the sum of the family's proportional set sizes in MiB."""
    total = 0
    for pid in family():
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:  # it has just ended
            continue
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def measure(job: Job, batches: Batches) -> dict[str, float]:
    """Return time to the first batch, samples per second, CPU milliseconds a sample and memory."""
    images, ids = next(batches)
    first = time.time() - job.started
    expected = "torch.float32" if job.float32 else "torch.uint8"
    assert str(images.dtype) == expected, images.dtype
    assert tuple(images.shape[1:]) == (3, job.size, job.size), images.shape
    assert ids.shape == (len(images), TOKENS), ids.shape
    for _ in range(job.warm_up):  # what was read ahead while nobody was waiting
        next(batches)
    samples, start, cpu = 0, time.perf_counter(), cpu_seconds()
    while time.perf_counter() - start < job.seconds:
        images, _ = next(batches)
        samples += len(images)
    seconds, cpu = time.perf_counter() - start, cpu_seconds() - cpu
    largest = 0.0
    for _ in range(4):
        images, _ = next(batches)
        largest = max(largest, memory())
    return {"first": first, "rate": samples / seconds, "cpu_ms": cpu / samples * 1e3, "memory": largest}


CONTENDERS: dict[str, Callable[[Job], Batches]] = {
    "diptych": diptych,
    "webdataset+pillow+torchvision": webdataset_pillow,
    "webdataset+torchvision-decode": webdataset_torchvision,
    "mosaicml-streaming": mosaicml_streaming,
    "litdata": litdata,
}
WHOLE: dict[str, Callable[[Job], dict[str, float]]] = {"decode-resize-limit": limit, "pixels": pixels}


def main() -> None:
    """Do the job that the argument describes; print the result as JSON on the last line."""
    job = Job(json.loads(sys.argv[1]))
    try:
        found = WHOLE[job.name](job) if job.name in WHOLE else measure(job, CONTENDERS[job.name](job))
    except ModuleNotFoundError as error:
        found = {"missing": error.name}
    except _PreparedError:
        found = {"again": 1}
    print("\n" + json.dumps(found), flush=True)
    os._exit(0)  # not every contender ends its workers


if __name__ == "__main__":
    main()
