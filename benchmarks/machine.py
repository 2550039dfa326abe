"""Times, and the rates of memory and matrix products that the benchmarks are held against."""

import statistics
import time
from collections.abc import Callable

import torch


def seconds(call: Callable[[], object]) -> float:
    """Wall time of `call` in seconds, the device's work included."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def rates(device: torch.device | str, dtype: torch.dtype) -> Callable[[], tuple[float, float]]:
    """A function that measures bytes/s, read and written, and FLOP/s of a square product in `dtype`.

    The bytes are those of a copy or of a sum in place, whichever is faster: a CPU also reads the memory that a copy
    overwrites, and those bytes are not counted.
    """
    device = torch.device(device)
    source = torch.ones(1 << 24, device=device)
    target, size = torch.empty_like(source), 4096 if device.type == "cuda" else 1024
    a = torch.randn(size, size, device=device).to(dtype)
    b, c = a.mT.contiguous(), torch.empty_like(a)

    def measure() -> tuple[float, float]:
        copied = statistics.median(seconds(lambda: target.copy_(source)) for _ in range(3))
        added = statistics.median(seconds(lambda: target.add_(source)) for _ in range(3))
        multiplied = statistics.median(seconds(lambda: torch.mm(a, b, out=c)) for _ in range(3))
        return source.nbytes * max(2 / copied, 3 / added), 2 * size**3 / multiplied

    measure()  # the first use of memory and of a kernel is not a rate
    return measure
