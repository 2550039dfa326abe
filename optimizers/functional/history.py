"""Products with the last s projected gradients of each matrix of a stack, a history [B, s, N] held in few digits.

In the precision of the products a history is as large as ten matrices. It is converted in pieces of its columns.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

PIECE = 1 << 26  # elements that are converted at once: 256 MiB of float32


def products_with_row(history: Tensor, row: int, dtype: torch.dtype) -> Tensor:
    """H h_row of the rows h of H: [B, s, N] -> [B, s], in `dtype`."""
    pieces = ((piece @ piece[:, row].unsqueeze(-1)).squeeze(-1) for piece in _pieces(history, dtype))
    total = next(pieces)
    for products in pieces:
        total += products
    return total


def combined_rows(history: Tensor, weights: Tensor) -> Tensor:
    """sum_k weights_k h_k: [B, s, N], [B, s] -> [B, N], in the dtype of the weights."""
    parts = [(weights.unsqueeze(-2) @ piece).squeeze(-2) for piece in _pieces(history, weights.dtype)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def _pieces(history: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """The columns of `history`, in order, in `dtype`; what is in it already is one piece."""
    columns = history.shape[-1] if history.dtype == dtype else max(1, PIECE // (len(history) * history.shape[-2]))
    return (piece.to(dtype) for piece in history.split(columns, -1))
