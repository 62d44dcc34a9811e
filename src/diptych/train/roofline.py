"""The fastest that a device multiplies matrices: what achieved FLOP/s are compared with."""

import functools
import math
import time

import torch

SECONDS = 0.15
"""How long the timing goes on, about."""


def roofline(device: torch.device, precision: str) -> float:
    """Return the FLOP/s of a large square matrix product in the type that `precision` computes in.

    It is measured once in a process (about 0.2 s) with the current number of threads and, for fp32 on a GPU,
    the current `torch.get_float32_matmul_precision`. Other work on the machine lowers it.

    Args:
        device: where to measure.
        precision: "fp32" or "bf16".
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    settings = torch.get_num_threads() if device.type == "cpu" else torch.get_float32_matmul_precision()
    return _measured(str(device), dtype, settings)


@functools.lru_cache
def _measured(name: str, dtype: torch.dtype, settings: int | str) -> float:
    device = torch.device(name)
    found = _fastest(device, dtype, _side(device, settings))
    if device.type == "cuda":
        # What the run takes is told by what comes after.
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return found


def _fastest(device: torch.device, dtype: torch.dtype, side: int) -> float:
    # Not from the global generator: measuring must not change what a run draws.
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(side, side, device=device, generator=generator).to(dtype) for _ in range(2))
    out = torch.empty(side, side, device=device, dtype=dtype)
    fastest = math.inf
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or fastest == math.inf:
        fastest = min(fastest, _seconds(a, b, out))
    return 2.0 * side**3 / fastest


def _side(device: torch.device, settings: int | str) -> int:
    """Return a side that keeps the device busy, takes a moment only and fits into its free memory."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return 8192 if free > 3e9 else 2048
    threads = int(settings)
    return 1024 if threads <= 4 else 2048 if threads <= 16 else 4096


def _seconds(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> float:
    """Return the seconds of one product of [N, N] matrices."""
    if a.is_cuda:
        torch.cuda.synchronize(a.device)
    started = time.perf_counter()
    torch.mm(a, b, out=out)
    if a.is_cuda:
        torch.cuda.synchronize(a.device)
    return time.perf_counter() - started
