"""Where and in which precision a run computes, and the seeds of its steps."""

import contextlib
import hashlib
from collections.abc import Iterator

import torch
from torch.utils import deterministic

from diptych.errors import ConfigError


def choose_device(name: str, key: str = "train.device") -> torch.device:
    """Return the device for "auto", "cpu" or "cuda".

    Raises:
        ConfigError: "cuda" on a machine without a usable GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"{key} = cuda, but torch finds no GPU here; set {key}=cpu or {key}=auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context for forward passes: bf16 where it is safe, or plain fp32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


@contextlib.contextmanager
def computing(device: torch.device, threads: int) -> Iterator[None]:
    """Set threads and deterministic algorithms for the duration of a run, and put back what was there.

    Deterministic algorithms are switched on for the CPU only, where they cost nothing measurable. On a GPU
    they
    would slow attention down; there, a resumed run repeats the order of samples and all draws but not the
    last bits.
    """
    before = (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
    )
    if threads:
        torch.set_num_threads(threads)
    if device.type == "cpu":
        # Filling fresh memory is a debugging aid that costs time.
        deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1], warn_only=before[2])
        deterministic.fill_uninitialized_memory = before[3]  # type: ignore[attr-defined]


def derived_seed(seed: int, step: int, stream: str) -> int:
    """Return a 63-bit seed for one stream of random draws of one step; equal on every machine."""
    digest = hashlib.blake2b(f"{seed}/{step}/{stream}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
