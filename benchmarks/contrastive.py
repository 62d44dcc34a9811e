"""Memory and time of the contrastive loss in chunks beside the loss on the whole similarity matrix.

    python benchmarks/contrastive.py [--sizes 1024 4096 8192] [--width 256] [--chunk 512] [--json FILE]

One forward and backward pass of N pictures and N texts, all match ids different. Each measurement runs in a
process of its own: `memory` is its peak resident size minus what it had before the pass (on a GPU: the
allocator's peak minus what was there before), `time` the fastest of several passes. Peer: `full-matrix`, the
plain loss of the library, which keeps the N x N matrices that autograd needs.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

CONTENDERS = ("full-matrix", "chunked")
UNITS = {"memory": "MB", "time": "s"}


def resident() -> int:
    """Return this process's resident bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmRSS in /proc/self/status")


class Peak(threading.Thread):
    """Watches resident memory every millisecond while the passes run."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before = self.highest = resident()
        self.done = threading.Event()

    def run(self) -> None:
        """Watch until `done`."""
        while not self.done.wait(0.001):
            self.highest = max(self.highest, resident())

    def stop(self) -> float:
        """Return the peak above the start in MB."""
        self.done.set()
        self.join()
        return (self.highest - self.before) / 1e6


def measure(contender: str, size: int, width: int, chunk: int, repeats: int, device: str) -> dict[str, Any]:
    """Run a contender in this process; return memory, time and the loss."""
    import torch
    import torch.nn.functional as F

    from diptych.objectives.contrastive import contrast
    from diptych.objectives.relation import Relation

    torch.manual_seed(0)
    images, texts = (
        F.normalize(torch.randn(size, width, device=device), dim=1).requires_grad_() for _ in range(2)
    )
    temperature = torch.tensor(0.07, device=device, requires_grad=True)
    ids = torch.arange(size, device=device)
    pieces = chunk if contender == "chunked" else 0

    def once() -> float:
        for leaf in (images, texts, temperature):
            leaf.grad = None
        loss, _ = contrast(images, texts, temperature, Relation(ids, ids), chunk=pieces)
        loss.backward()
        return loss.item()

    small = F.normalize(torch.randn(8, width, device=device), dim=1).requires_grad_()
    some = Relation(ids[:8], ids[:8])
    contrast(small, small, temperature, some, chunk=4 if pieces else 0)[0].backward()  # libraries are loaded
    times = []
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        peak = Peak()
        peak.start()
    for _ in range(repeats):
        started = time.perf_counter()
        loss = once()  # reading the loss waits for the device
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    used = (torch.cuda.max_memory_allocated() - before) / 1e6 if device == "cuda" else peak.stop()
    return {"memory": used, "time": min(times), "loss": loss}


def main() -> None:
    """Measure every contender at every size, print the table, write JSON if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 4096, 8192], help="N")
    parser.add_argument("--width", type=int, default=256, help="width of the features")
    parser.add_argument("--chunk", type=int, default=512, help="rows of a chunk (task.itc_chunk)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    common = options.width, options.chunk, options.repeats, options.device
    if options.contender:
        print(json.dumps(measure(options.contender, options.sizes[0], *common)))
        return
    rows = []
    print(f"{'N':>6} {'contender':12} {'memory MB':>10} {'seconds':>8} {'loss':>10}")
    for size in options.sizes:
        found = {}
        for contender in CONTENDERS:
            settings = zip(("width", "chunk", "repeats", "device"), common, strict=True)
            flags = [f"--{name}={value}" for name, value in settings]
            command = [sys.executable, __file__, "--contender", contender, "--sizes", str(size), *flags]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            result = found[contender] = json.loads(done.stdout)
            memory, seconds, loss = (result[name] for name in ("memory", "time", "loss"))
            print(f"{size:6} {contender:12} {memory:10.1f} {seconds:8.3f} {loss:10.6f}")
        for figure, unit in UNITS.items():
            rows.append(
                {
                    "name": f"contrastive loss N={size} {figure}",
                    "value": found["chunked"][figure],
                    "unit": unit,
                    "peer": "full-matrix",
                    "ratio": found["full-matrix"][figure] / max(found["chunked"][figure], 1e-9),
                }
            )
            print(f"{size:6} {figure}: {rows[-1]['ratio']:.2f} times better than full-matrix")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
