"""Causal attention for transformers' layers: one entry for every device, with and without padding.

Padded rows go to torch's scaled dot product attention. A list of positions (models/unpadding.py) first becomes rows
again: padded rows in general, but each row alone on a CPU, where many small calls cost little (row_attention.py).
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from models.kernels.row_attention import row_attention

ATTENTION = "sdpa_unpadded"  # the name by which transformers' layers find `attention`


def row_arguments(indices: Tensor | None, shape: tuple[int, int], heads: int) -> dict[str, Any]:
    """The keyword arguments of a decoder layer from which `attention` knows the rows of a list of positions.

    Args:
        indices: int64 [N], from `unpadding.unpadded_indices`; None where all positions are computed.
        shape: (rows, length) of the micro-batch.
        heads: of the model's attention.
    """
    if indices is None:
        return {}
    # One call a row: a GPU would wait for launches, and a CPU's backward uses at most one thread a head
    # (docs/performance.md).
    if indices.device.type == "cpu" and torch.get_num_threads() <= heads:
        return {"lengths": torch.bincount(indices // shape[1])}
    return {"indices": indices, "shape": shape}


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
    **options: Any,
) -> tuple[Tensor, None]:
    """Causal attention in the signature of transformers' layers, within each row.

    Args:
        query, key, value: [rows, heads, length, width], or [1, heads, N, width] of a list of positions; keys and
            values may have fewer heads, each for as many of the queries' in turn.
        lengths, indices, shape: from `row_arguments`.

    Returns:
        The output [rows, length, heads, width], or [1, N, heads, width] of a list of positions.
    """
    if lengths is not None:
        # Rotary embedding leaves query and key in float32 under autocast, which casts for torch's operators only.
        each = query.shape[1] // key.shape[1]  # heads of queries that share one of keys and values
        key, value = key.repeat_interleave(each, 1), value.repeat_interleave(each, 1)
        alike = (tensor.to(value.dtype).squeeze(0).transpose(0, 1) for tensor in (query, key, value))
        output, _ = row_attention(*alike, lengths)
        return output.unsqueeze(0), None
    if indices is None or shape is None:
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return output, None
    query, key, value = (_padded(tensor, indices, shape) for tensor in (query, key, value))
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    return output.flatten(0, 1).index_select(0, indices).unsqueeze(0), None


def _padded(positions: Tensor, indices: Tensor, shape: tuple[int, int]) -> Tensor:
    """[rows, heads, length, width] of [1, heads, N, width]; zero at the positions left out."""
    positions = positions.squeeze(0).transpose(0, 1)
    padded = positions.new_zeros(shape[0] * shape[1], *positions.shape[1:]).index_copy(0, indices, positions)
    return padded.unflatten(0, shape).transpose(1, 2)


AttentionInterface.register(ATTENTION, attention)
