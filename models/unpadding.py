"""Leaving out what no loss needs: a row that ends in padding costs what its text costs.

C4's published numbers are of one document a row (`data.packing=false`), where a sixth of the positions is padding.
Everything but attention treats positions one by one, so a micro-batch becomes the list of its needed positions. In
attention they are rows again: each alone on a CPU, else padded as before, as no position sees the end of its row. The
loss and its gradients stay the same.
"""

from typing import Any

import torch
from torch import LongTensor, Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from models.row_attention import row_attention

ATTENTION = "sdpa_unpadded"  # the name by which transformers' layers find `attention`


def needed_positions(labels: LongTensor) -> LongTensor | None:
    """The positions that a micro-batch's loss needs: in each row, those up to the one that predicts its last target.

    Args:
        labels: int64 [rows, length] on the CPU, not shifted, -100 is no target.

    Returns:
        int64 [N], ascending indices of the flattened rows, at least two a row (attention takes no empty one, and one
        position in all would be a case of its own to a compiler); None where every row is full, as its last position
        alone is not worth the detour.
    """
    targets = labels[:, 1:] != -100
    if targets[:, -1].all():
        return None
    needed = torch.arange(1, labels.shape[1]) * targets
    lengths = needed.amax(1, keepdim=True).clamp(min=2)
    return (torch.arange(labels.shape[1]) < lengths).flatten().nonzero().squeeze(1)


def model_inputs(input_ids: LongTensor, labels: LongTensor, device: torch.device) -> dict[str, Tensor]:
    """The arguments of the model's forward for a micro-batch on the CPU, moved to `device`."""
    inputs = {"input_ids": input_ids, "labels": labels}
    if (needed := needed_positions(labels)) is not None:
        inputs["needed"] = needed
    return {name: tensor.to(device, non_blocking=True) for name, tensor in inputs.items()}


def place(needed: LongTensor | None, rows: tuple[int, int], heads: int) -> dict[str, Any]:
    """The arguments by which `attention` finds the rows of a list of positions.

    Args:
        needed: of `needed_positions`; rows: (rows, length) of the micro-batch; heads: of the model's attention.
    """
    if needed is None:
        return {}
    # Each row alone is a call of its own: a GPU would wait for launches, and a CPU's backward divides no further than
    # into heads.
    if needed.device.type == "cpu" and torch.get_num_threads() <= heads:
        return {"lengths": torch.bincount(needed // rows[1])}
    return {"needed": needed, "rows": rows}


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    lengths: LongTensor | None = None,
    needed: LongTensor | None = None,
    rows: tuple[int, int] | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Causal attention for transformers' layers: theirs, within the rows of a list of positions if there is one.

    Args:
        query, key, value: [batch, heads, length, width]; of a list of positions [1, heads, N, width].
        lengths, needed, rows: of `place`.

    Returns:
        The output [batch, length, heads, width], or [1, N, heads, width].
    """
    if lengths is not None:
        # Autocast leaves queries and keys in float32 after their rotation, and casts for no operator but torch's own.
        alike = (tensor.to(value.dtype).squeeze(0).transpose(0, 1) for tensor in (query, key, value))
        output, _ = row_attention(*alike, lengths)
        return output.unsqueeze(0), None
    if needed is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    whole = (_to_rows(tensor, needed, rows) for tensor in (query, key, value))
    output, _ = sdpa_attention_forward(module, *whole, attention_mask, **options)
    return output.flatten(0, 1).index_select(0, needed).unsqueeze(0), None


def _to_rows(positions: Tensor, needed: LongTensor, rows: tuple[int, int]) -> Tensor:
    """[rows, heads, length, width] of [1, heads, N, width], zero where nothing was needed."""
    positions = positions.squeeze(0).transpose(0, 1)
    whole = positions.new_zeros(rows[0] * rows[1], *positions.shape[1:]).index_copy(0, needed, positions)
    return whole.unflatten(0, rows).transpose(1, 2)


AttentionInterface.register(ATTENTION, attention)
