"""Numbers as bytes: block-wise quantisation by a map of 256 values (arXiv 2110.02861)."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..kernels import replaceable

BLOCK = 256  # elements that share a maximum


class ByteMap(NamedTuple):
    """What a byte may mean. A number of a block, over the block's largest magnitude, is held as the nearest of `values`
    (float32 [256], ascending): as values[i] if it is above i of `boundaries` (float32 [255], ascending)."""

    values: Tensor
    boundaries: Tensor
    signed: bool


def byte_map(values: Tensor, *, signed: bool) -> ByteMap:
    """The map of `values` with its boundaries, half-way between two values.

    Without signs 0 is the smallest value, and its boundary is 0: a positive number stays positive. A second moment that
    became 0 beside a first moment that did not would make a step of any size.
    """
    boundaries = (values[1:] + values[:-1]) / 2
    if not signed:
        boundaries[0] = 0
    return ByteMap(values, boundaries, signed)


@replaceable
def quantised(numbers: Tensor, byte_map: ByteMap, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """float32 [B, k] -> bytes, uint8 [B, k], and the largest magnitude of each block, float32 [B, ceil(k / 256)].

    A block is within one of the B rows; the last of a row may be shorter. NaN makes the maximum of its block NaN.

    noise: float32 [B, k], uniform in [0, 1): a number becomes the upper of the two values around it where the noise is
    below its place between them. It is then right on average. So that no number is below the map's least value, a
    block's maximum is larger where its negative numbers need it.
    """
    length = numbers.shape[-1]
    blocks = pad(numbers, (0, -length % BLOCK)).unflatten(-1, (-1, BLOCK))
    maxima = blocks.abs().amax(-1)
    if noise is not None and byte_map.signed:
        maxima = torch.maximum(maxima, blocks.amin(-1) / byte_map.values[0])
    blocks = blocks / torch.where(maxima == 0, 1.0, maxima).unsqueeze(-1)
    if noise is None:
        codes = torch.bucketize(blocks, byte_map.boundaries, out_int32=True).to(torch.uint8)
        return codes.flatten(-2)[..., :length], maxima
    return _around(blocks.flatten(-2)[..., :length].contiguous(), byte_map, noise), maxima


def _around(scaled: Tensor, byte_map: ByteMap, noise: Tensor) -> Tensor:
    """The bytes, uint8 [B, k], of numbers [B, k] over their maxima, rounded up or down by the noise. Without signs a
    positive number stays positive. `scaled` is overwritten: on a GPU these are the largest copies of a step."""
    values = byte_map.values
    lower = torch.bucketize(scaled, values[1:-1], out_int32=True, right=True)
    above = scaled.sub_(values[lower])  # the lower value
    codes = lower.to(torch.uint8).add_(values.diff()[lower].mul_(noise) < above)
    return codes if byte_map.signed else torch.maximum(codes, (above > 0).view(torch.uint8))


@replaceable
def dequantised(codes: Tensor, maxima: Tensor, values: Tensor) -> Tensor:
    """The inverse of `quantised`, float32 [B, k]: each byte's value times its block's maximum."""
    length = codes.shape[-1]
    blocks = pad(values[codes.int()], (0, -length % BLOCK)).unflatten(-1, (-1, BLOCK))
    return (blocks * maxima.unsqueeze(-1)).flatten(-2)[..., :length].contiguous()
