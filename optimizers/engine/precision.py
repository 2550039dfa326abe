"""Products of a step are those of IEEE's float32, whatever the program has chosen for its model."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def ieee_products() -> Iterator[None]:
    """Inside, CUDA multiplies float32 in float32; afterwards as before.

    TF32 rounds factors to 11 bits. A residual is a small difference of large products: with TF32 it would be rounding
    (docs/numerics.md), and bases would be orthonormal to 1e-4 only.
    """
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision = before
