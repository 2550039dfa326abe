"""Causal attention on a CPU for rows of different lengths that lie one behind the other: each row alone.

Padded to one length, all rows are one call, but the padding is multiplied too: where texts of C4's lengths are padded
to 256, a quarter of the work. Operators of torch's dispatcher, so that a compiled graph holds them whole: how many
calls they make is in a tensor.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@torch.library.custom_op("llama::row_attention", mutates_args=(), device_types="cpu")
def row_attention(query: Tensor, key: Tensor, value: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """softmax(Q K^T / sqrt(width)) V within each row, no position sees a later one.

    Args:
        query, key, value: [N, heads, width].
        lengths: int64 [rows], the positions of each row, none of them zero, N together.

    Returns:
        The output [N, heads, width], and the logarithms of the softmax's denominators [N, heads].
    """
    outputs, denominators = zip(*(_forward(*row, 0.0, True) for row in _rows(lengths, query, key, value)), strict=True)
    return _positions(outputs), _positions(denominators)


@torch.library.custom_op("llama::row_attention_backward", mutates_args=(), device_types="cpu")
def row_attention_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, denominators: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of `row_attention` for query, key and value from that for its output."""
    rows = _rows(lengths, gradient, query, key, value, output, denominators)
    query, key, value = zip(*(_backward(*row, 0.0, True) for row in rows), strict=True)
    return _positions(query), _positions(key), _positions(value)


def _rows(lengths: Tensor, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views [1, heads, length, ...] of the rows in [N, heads, ...], row after row for all tensors."""
    sizes = lengths.tolist()
    rows_of = [tensor.transpose(0, 1).unsqueeze(0).split(sizes, 2) for tensor in tensors]
    return zip(*rows_of, strict=True)


def _positions(rows: tuple[Tensor, ...]) -> Tensor:
    """[N, heads, ...] of rows [1, heads, length, ...]."""
    return torch.cat([row.squeeze(0).transpose(0, 1) for row in rows])


@row_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    # The denominators of bfloat16 are float32.
    denominators = query.new_empty(query.shape[:2], dtype=torch.promote_types(query.dtype, torch.float32))
    return query.new_empty(query.shape), denominators


@row_attention_backward.register_fake
def _(gradient: Tensor, query: Tensor, *others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(query.new_empty(query.shape) for _ in range(3))


def _save(ctx, inputs: tuple, output: tuple) -> None:
    query, key, value, lengths = inputs
    ctx.save_for_backward(query, key, value, *output, lengths)
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx, gradient: Tensor, _) -> tuple[Tensor | None, ...]:
    return *row_attention_backward(gradient, *ctx.saved_tensors), None


row_attention.register_autograd(_differentiate, setup_context=_save)
