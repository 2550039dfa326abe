"""The memory that a process takes."""

import resource
import sys

import torch


def peak_memory_bytes(device: torch.device) -> int:
    """The most bytes that tensors held on a CUDA device; on a CPU, the most that this process took altogether."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
