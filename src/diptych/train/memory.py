"""How much memory a run has taken at most."""

import resource
import sys

import torch


def peak_mb(device: torch.device) -> float:
    """Return the peak in MB (10^6 bytes) since the process began.

    On a GPU it is what torch's allocator gave out at once, tensors without its reserve; on a CPU the resident
    memory of this process, its loader workers not included.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    # Linux counts in kibibytes, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
