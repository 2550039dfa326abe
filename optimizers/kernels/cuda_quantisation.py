"""Block-wise quantisation on CUDA by bitsandbytes' kernels: one pass each, where torch would make seven."""

import torch
from torch import Tensor

from ..functional.quantisation import BLOCK, ByteMap


def quantised(numbers: Tensor, byte_map: ByteMap, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """bitsandbytes rounds a small second moment to 0; here a positive number stays positive. It has no rounding by
    noise."""
    if noise is not None or _spans_rows(numbers):
        return NotImplemented
    codes, maxima = torch.ops.bitsandbytes.quantize_blockwise(numbers, byte_map.values, BLOCK)
    if not byte_map.signed:
        torch.maximum(codes, (numbers > 0).view(codes.dtype), out=codes)
    return codes, maxima.view(len(numbers), -1)


def dequantised(codes: Tensor, maxima: Tensor, values: Tensor) -> Tensor:
    """As torch's."""
    if _spans_rows(codes):
        return NotImplemented
    wide: Tensor = torch.ops.bitsandbytes.dequantize_blockwise(codes, maxima.flatten(), values, BLOCK, torch.float32)
    return wide


def _spans_rows(rows: Tensor) -> bool:
    """Whether a block would span two of these rows: bitsandbytes sees one long row."""
    return len(rows) > 1 and rows.shape[-1] % BLOCK != 0


# By the name of the function that each replaces.
REPLACEMENTS = {function.__name__: function for function in (quantised, dequantised)}
