"""Block-wise quantisation in C++ (byte_moments.cpp), to the bit what torch computes."""

import torch
from torch import Tensor

from ...functional.quantisation import BLOCK, ByteMap
from . import compiled, threads

SOURCE = "byte_moments.cpp"


def quantised(numbers: Tensor, byte_map: ByteMap, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """In one pass."""
    (count, length), (values, boundaries, signed) = numbers.shape, byte_map
    maxima = numbers.new_empty(count, -(-length // BLOCK))
    floats = [tensor for tensor in (numbers, noise, values, boundaries, maxima) if tensor is not None]
    quantise = compiled.function(SOURCE, "quantise", "ppppppllll", *floats)
    if quantise is None or numbers.dtype != torch.float32:
        return NotImplemented
    codes = torch.empty(count, length, dtype=torch.uint8, device=numbers.device)
    threads.in_ranges(
        lambda start, end: quantise(numbers, noise, values, boundaries, codes, maxima, signed, length, start, end),
        maxima.numel(),
    )
    return codes, maxima


def dequantised(codes: Tensor, maxima: Tensor, values: Tensor) -> Tensor:
    """In one pass."""
    count, length = codes.shape
    numbers = maxima.new_empty(count, length)
    dequantise = compiled.function(SOURCE, "dequantise", "pppplll", maxima, values, numbers)
    if dequantise is None or not codes.is_contiguous():
        return NotImplemented
    threads.in_ranges(lambda start, end: dequantise(codes, maxima, values, numbers, length, start, end), maxima.numel())
    return numbers
