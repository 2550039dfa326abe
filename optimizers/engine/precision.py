"""A step multiplies in the precision of its tensors, whatever the program has chosen for its model."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def ieee_products(device_type: str) -> Iterator[None]:
    """Inside, float32 is multiplied in float32 on CUDA and on a CPU, and autocast is off on devices of this type;
    afterwards all is as before.

    TF32 rounds factors to 11 bits, and a CPU may take bfloat16 where a program allows it. A residual is a small
    difference of large products: it would be rounding then (docs/numerics.md), and bases orthonormal to 1e-4 only.
    """
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    with contextlib.ExitStack() as autocast:
        if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
            autocast.enter_context(torch.autocast(device_type, enabled=False))
        try:
            for backend in backends:
                backend.fp32_precision = "ieee"
            yield
        finally:
            for backend, precision in zip(backends, before, strict=True):
                backend.fp32_precision = precision
