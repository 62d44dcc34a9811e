"""Videos to measure on, and whoever reads frames out of them; `video.py` runs it, one contender a process.

The pictures are what cameras give: textures whose detail falls off with its fineness, a camera that pans and
shakes, things that move in front of them, sensor noise, and another scene every few seconds.
"""

import hashlib
import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

FPS = 25
SCENE = 7
"""Seconds of a scene."""
SIDE = 224
"""Of pictures in a batch."""

Reader = Callable[[Path, list[int]], Any]
"""(video, numbers of frames) -> [n, H, W, 3] uint8."""


def texture(rng: np.random.Generator, height: int, width: int) -> Any:
    """A picture [H, W, 3] whose spectrum falls off as that of photographs."""
    y, x = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    fall = np.maximum(np.hypot(y, x), 1 / width) ** -1.2
    layers = []
    for _ in range(3):
        noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((height, width))) * fall, s=(height, width))
        layers.append((noise - noise.mean()) / noise.std() * 45 + rng.uniform(80, 170))
    return np.stack(layers, -1).clip(0, 255).astype(np.uint8)


def scene_frames(rng: np.random.Generator, count: int, width: int, height: int) -> Any:
    """Yield the pictures of a scene."""
    ground = texture(rng, height * 3 // 2, width * 3 // 2)
    things = [texture(rng, height // 4, width // 5) for _ in range(3)]
    speeds, phases = rng.uniform(0.1, 0.5, 8), rng.uniform(0, 6, 8)
    for number in range(count):
        swing = np.sin(number / FPS * speeds + phases) * 0.5 + 0.5
        shake = rng.normal(0, 0.4, 2)
        top = int(np.clip(swing[0] * (height // 2) + shake[0], 0, height // 2))
        left = int(np.clip(swing[1] * (width // 2) + shake[1], 0, width // 2))
        shown = ground[top : top + height, left : left + width].astype(np.int16)
        for thing, at in zip(things, (2, 4, 6), strict=True):
            y, x = int(swing[at] * (height * 3 // 4)), int(swing[at + 1] * (width * 4 // 5))
            shown[y : y + thing.shape[0], x : x + thing.shape[1]] = thing
        shown += rng.integers(-3, 4, (height, width, 1), dtype=np.int16)
        yield shown.clip(0, 255).astype(np.uint8)


def make(path: Path, width: int, height: int, seconds: int) -> None:
    """Write an H.264 video with x264's defaults: preset medium, CRF 23, key frames up to 250 frames apart."""
    import av

    rng = np.random.default_rng(width + seconds)
    with av.open(str(path), "w", format="mp4") as out:
        stream: Any = out.add_stream("libx264", rate=FPS, options={"crf": "23", "preset": "medium"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        left = seconds * FPS
        while left:
            for shown in scene_frames(rng, min(left, SCENE * FPS), width, height):
                out.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
                left -= 1
        out.mux(stream.encode(None))


def diptych(path: Path, numbers: list[int]) -> Any:
    """Ours."""
    from diptych.data.video import open_frames

    found: dict[int, Any] = {}
    chosen = np.array(numbers)
    with open_frames(path.read_bytes()) as video:
        video.show(lambda _: chosen, lambda number, pixels: found.update({number: pixels.copy()}))
    return np.stack([found[number] for number in numbers])


def pyav(path: Path, numbers: list[int]) -> Any:
    """Decode everything, convert what is wanted."""
    import av

    wanted = set(numbers)
    with av.open(io.BytesIO(path.read_bytes())) as container:
        frames = container.decode(video=0)
        found = {i: np.asarray(frame.to_image()) for i, frame in enumerate(frames) if i in wanted}
    return np.stack([found[number] for number in numbers])


def pyav_all(path: Path, numbers: list[int]) -> Any:
    """Decode and convert everything, then choose, as readers of published systems do."""
    import av

    with av.open(io.BytesIO(path.read_bytes())) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack([frames[number] for number in numbers])


def decord(path: Path, numbers: list[int]) -> Any:
    """Its reader of batches, one thread."""
    from decord import VideoReader, cpu

    video = VideoReader(io.BytesIO(path.read_bytes()), ctx=cpu(0), num_threads=1)
    return video.get_batch(numbers).asnumpy()


def torchcodec(path: Path, numbers: list[int]) -> Any:
    """Its decoder with its defaults: one thread, and a scan of the packets first."""
    from torchcodec.decoders import VideoDecoder

    video = VideoDecoder(path.read_bytes(), dimension_order="NHWC")
    return video.get_frames_at(numbers).data.numpy()


def diptych_resized(path: Path, numbers: list[int]) -> Any:
    """Ours, at the size of a batch as the loader makes it."""
    from diptych.data.image import resize_into
    from diptych.data.video import open_frames

    made = np.empty((len(numbers), SIDE, SIDE, 3), dtype=np.uint8)
    places, chosen = {number: i for i, number in enumerate(numbers)}, np.array(numbers)
    with open_frames(path.read_bytes()) as video:
        video.show(lambda _: chosen, lambda number, pixels: resize_into(made[places[number]], pixels))
    return made


def pyav_resized(path: Path, numbers: list[int]) -> Any:
    """Decode everything, convert what is wanted, and resize it with Pillow."""
    import av
    from PIL import Image

    wanted, size = set(numbers), (SIDE, SIDE)
    with av.open(io.BytesIO(path.read_bytes())) as container:
        frames = (f.to_image() for i, f in enumerate(container.decode(video=0)) if i in wanted)
        return np.stack([np.asarray(frame.resize(size, Image.Resampling.BICUBIC)) for frame in frames])


READERS: dict[str, Reader] = {
    "diptych": diptych,
    "diptych, resized": diptych_resized,
    "pyav+pillow, resized": pyav_resized,
    "pyav-careful": pyav,
    "pyav-naive": pyav_all,
    "decord": decord,
    "torchcodec": torchcodec,
}


def main() -> None:
    """Read a job from the command line, print what was found as JSON."""
    job = json.loads(sys.argv[1])
    reader, path = READERS[job["name"]], Path(job["path"])
    try:
        warm = reader(path, job["numbers"])
    except (ImportError, OSError, RuntimeError) as error:
        print(json.dumps({"missing": f"{type(error).__name__}: {str(error).splitlines()[0]}"}))
        return
    if job.get("save"):
        np.save(job["save"], warm)
    best = float("inf")
    started = time.perf_counter()
    for count in range(job["most"]):
        if count and time.perf_counter() - started > job["seconds"]:
            break
        # CPU seconds of all threads: what a core does, however busy the machine is.
        before = time.process_time()
        reader(path, job["numbers"])
        best = min(best, time.process_time() - before)
    digest = hashlib.sha256(np.ascontiguousarray(warm).tobytes()).hexdigest()
    print(json.dumps({"seconds": best, "digest": digest, "shape": list(warm.shape)}))


if __name__ == "__main__":
    main()
