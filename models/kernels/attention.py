"""Causal attention for transformers' layers: one entry for every device, with and without padding.

Padded rows go to torch's scaled dot product attention. A list of positions (models/unpadding.py) stays one where the
device has a kernel for rows of different lengths. Elsewhere it becomes rows again: padded rows in general, but each row
alone on a CPU, where many small calls cost little (row_attention.py).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from models.kernels.row_attention import row_attention

ATTENTION = "sdpa_unpadded"  # the name by which transformers' layers find `attention`


WIDEST_HEAD = 256  # of the flash kernel, which also needs a multiple of 8


def row_arguments(
    indices: Tensor | None, shape: tuple[int, int], heads: int, width: int, dtype: torch.dtype
) -> dict[str, Any]:
    """The keyword arguments of a decoder layer from which `attention` knows the rows of a list of positions.

    Args:
        indices: int64 [N], from `unpadding.unpadded_indices`; None where all positions are computed.
        shape: (rows, length) of the micro-batch.
        heads, width: of the model's attention.
        dtype: of the hidden states, without autocast.
    """
    if indices is None:
        return {}
    if takes_lists(indices.device, width, dtype):
        rows, length = shape
        # Made on the device: the indices ascend, so a row begins behind all those below its first position.
        starts = torch.arange(0, (rows + 1) * length, length, device=indices.device)
        return {"offsets": torch.searchsorted(indices, starts, out_int32=True), "longest": length}
    # One call a row: a GPU would wait for launches, and a CPU's backward uses at most one thread a head
    # (docs/performance.md).
    if indices.device.type == "cpu" and torch.get_num_threads() <= heads:
        return {"lengths": torch.bincount(indices // shape[1])}
    return {"indices": indices, "shape": shape}


def takes_lists(device: torch.device, width: int, dtype: torch.dtype) -> bool:
    """Whether flash attention for rows of different lengths runs here: from NVIDIA's Ampere on, in half precision."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        return False
    computed = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else dtype
    return computed in (torch.bfloat16, torch.float16) and width % 8 == 0 and width <= WIDEST_HEAD


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    lengths: Tensor | None = None,
    indices: Tensor | None = None,
    shape: tuple[int, int] | None = None,
    offsets: Tensor | None = None,
    longest: int = 0,
    **options: Any,
) -> tuple[Tensor, None]:
    """Causal attention in the signature of transformers' layers, within each row.

    Args:
        query, key, value: [rows, heads, length, width], or [1, heads, N, width] of a list of positions; keys and
            values may have fewer heads, each for as many of the queries' in turn.
        lengths, indices, shape, offsets, longest: from `row_arguments`.

    Returns:
        The output [rows, length, heads, width], or [1, N, heads, width] of a list of positions.
    """
    each = query.shape[1] // key.shape[1]  # heads of queries that share one of keys and values
    if each > 1 and (lengths is not None or _is_wide_on_cuda(value)):
        key, value = key.repeat_interleave(each, 1), value.repeat_interleave(each, 1)
    if lengths is not None:
        output, _ = row_attention(*_listed(query, key, value), lengths)
        return output.unsqueeze(0), None
    if offsets is not None:
        query, key, value = _listed(query, key, value)
        listed = varlen_attn(
            query, key, value, offsets, offsets, longest, longest, window_size=(-1, 0), enable_gqa=each > 1
        )
        assert isinstance(listed, Tensor)  # it returns more on request
        return listed.unsqueeze(0), None
    if indices is None or shape is None:
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return output, None
    query, key, value = (_padded(tensor, indices, shape) for tensor in (query, key, value))
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    return Kept.apply(output.flatten(0, 1), indices).unsqueeze(0), None


def _is_wide_on_cuda(value: Tensor) -> bool:
    """Whether attention is computed in float32 or float64 on CUDA, where every kernel but the one that stores all
    scores wants as many heads of keys as of queries."""
    computed = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else value.dtype
    return value.is_cuda and computed not in (torch.float16, torch.bfloat16)


def _listed(*tensors: Tensor) -> tuple[Tensor, ...]:
    """[N, heads, width] of [1, heads, N, width], in the dtype of the last: rotary embedding leaves query and key in
    float32 under autocast, which casts for torch's operators only."""
    return tuple(tensor.to(tensors[-1].dtype).squeeze(0).transpose(0, 1) for tensor in tensors)


class Kept(torch.autograd.Function):
    """The elements `indices` [N] of a tensor's first dimension, all different. Backward copies them to their places;
    torch's own would add them up there, with atomics on a GPU."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, indices: Tensor) -> Tensor:
        ctx.save_for_backward(indices)
        ctx.count = len(whole)
        return whole.index_select(0, indices)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (indices,) = ctx.saved_tensors
        zeros = gradient.new_zeros(ctx.count, *gradient.shape[1:])
        return zeros.index_copy_(0, indices, gradient), None


def _padded(positions: Tensor, indices: Tensor, shape: tuple[int, int]) -> Tensor:
    """[rows, heads, length, width] of [1, heads, N, width]; zero at the positions left out."""
    positions = positions.squeeze(0).transpose(0, 1)
    padded = positions.new_zeros(shape[0] * shape[1], *positions.shape[1:]).index_copy(0, indices, positions)
    return padded.unflatten(0, shape).transpose(1, 2)


AttentionInterface.register(ATTENTION, attention)
