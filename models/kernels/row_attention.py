"""Causal attention on a CPU for rows of different lengths, stored one after the other: one call of torch's a row.

All rows padded to one length are a single call, but it multiplies the padding too: with C4's documents padded to 256
positions, a quarter of the work. The calls are inside operators of torch's dispatcher, because a compiled graph cannot
depend on their number, which is data: the size of `lengths`.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@torch.library.custom_op("llama::row_attention", mutates_args=(), device_types="cpu")
def row_attention(query: Tensor, key: Tensor, value: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """softmax(Q K^T / sqrt(width)) V within each row, where no position sees a later one.

    Args:
        query, key, value: [N, heads, width].
        lengths: int64 [rows], the positions of each row, none of them zero, N in all.

    Returns:
        The output [N, heads, width], and the logarithms of the softmax's denominators [N, heads].
    """
    outputs, denominators = zip(*(_forward(*row, 0.0, True) for row in _rows(lengths, query, key, value)), strict=True)
    return _joined(outputs), _joined(denominators)


@torch.library.custom_op("llama::row_attention_backward", mutates_args=(), device_types="cpu")
def row_attention_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, denominators: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients [N, heads, width] for query, key and value from `gradient`, that for the output."""
    rows = _rows(lengths, gradient, query, key, value, output, denominators)
    for_query, for_key, for_value = zip(*(_backward(*row, 0.0, True) for row in rows), strict=True)
    return _joined(for_query), _joined(for_key), _joined(for_value)


def _rows(lengths: Tensor, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """For each row the views [1, heads, length, ...] of all tensors [N, heads, ...]."""
    sizes = lengths.tolist()
    rows_of = [tensor.transpose(0, 1).unsqueeze(0).split(sizes, 2) for tensor in tensors]
    return zip(*rows_of, strict=True)


def _joined(rows: tuple[Tensor, ...]) -> Tensor:
    """[N, heads, ...] of rows [1, heads, length, ...]."""
    return torch.cat([row.squeeze(0).transpose(0, 1) for row in rows])


@row_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    # The denominators of bfloat16 are float32.
    denominators = query.new_empty(query.shape[:2], dtype=torch.promote_types(query.dtype, torch.float32))
    return query.new_empty(query.shape), denominators


@row_attention_backward.register_fake
def _(gradient: Tensor, query: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    return tuple(query.new_empty(query.shape) for _ in range(3))


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, lengths = inputs
    ctx.save_for_backward(query, key, value, *output, lengths)
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, gradient: Tensor, _: None) -> tuple[Tensor | None, ...]:
    return *row_attention_backward(gradient, *ctx.saved_tensors), None


row_attention.register_autograd(_differentiate, setup_context=_save)
