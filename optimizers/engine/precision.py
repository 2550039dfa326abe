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
    before, mode = [backend.fp32_precision for backend in backends], _mode()
    with contextlib.ExitStack() as autocast:
        if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
            autocast.enter_context(torch.autocast(device_type, enabled=False))
        try:
            # torch's older switch sets these too. Against it they could not be read by whoever asks for either.
            torch.set_float32_matmul_precision("highest")
            yield
        finally:
            if mode is not None:
                torch.set_float32_matmul_precision(mode)
            for backend, precision in zip(backends, before, strict=True):
                backend.fp32_precision = "none"  # it follows torch.backends.fp32_precision again, if it did before
                if backend.fp32_precision != precision:
                    backend.fp32_precision = precision


def _mode() -> str | None:
    """The older switch; None where a program has used the newer ones against it, which torch refuses to read."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None
