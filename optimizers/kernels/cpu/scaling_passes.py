"""RACS's passes over a gradient in C++ (racs_scales.cpp): its squares are never stored."""

import torch
from torch import Tensor

from . import compiled


def racs_scales(
    gradient: Tensor,
    column_scale: Tensor | None,
    row_scale: Tensor | None,
    phi: Tensor,
    *,
    beta: float,
    gamma: float,
    iterations: int,
) -> tuple[Tensor, Tensor]:
    """An iteration of the fixed point is one pass over the gradient."""
    averages = [average for average in (column_scale, row_scale) if average is not None]
    transposed, by_rows = _by_rows(gradient)
    scales = compiled.function("racs_scales.cpp", "racs_scales", "ppppppllllldd", by_rows, phi, *averages)
    if scales is None:
        return NotImplemented
    batch, height, width = by_rows.shape
    over_height, over_width = gradient.new_empty(batch, height), gradient.new_empty(batch, width)
    pairs = (column_scale, row_scale) if transposed else (row_scale, column_scale)
    sizes = (batch, height, width, int(not transposed), iterations)
    scales(by_rows, over_height, over_width, *pairs, phi, *sizes, beta, gamma)
    torch.autograd.graph.increment_version([*averages, phi])
    return (over_width, over_height) if transposed else (over_height, over_width)


def subtract_scaled(weight: Tensor, matrix: Tensor, rows: Tensor, columns: Tensor, step: float) -> None:
    """In one pass, where the weight and the matrix have one memory order."""
    transposed, by_rows = _by_rows(matrix)
    weights = weight.mT.detach() if transposed else weight.detach()
    subtract = compiled.function("racs_scales.cpp", "subtract_scaled", "ppppdll", weights, by_rows, rows, columns)
    if subtract is None:
        return NotImplemented
    subtract(weights, by_rows, *((columns, rows) if transposed else (rows, columns)), step, *by_rows.shape)
    torch.autograd.graph.increment_version([weight])
    return None


def _by_rows(matrices: Tensor) -> tuple[bool, Tensor]:
    """Whether `matrices` are stored by columns, and the form that is stored by rows."""
    return (False, matrices) if matrices.stride(-1) == 1 else (True, matrices.mT)
