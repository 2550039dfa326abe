"""RACS's passes over a gradient in C++ (scaling.cpp): its squares are never stored."""

import torch
from torch import Tensor

from . import compiled


def fixed_point_of_squares(matrices: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """An iteration is one pass over the matrix."""
    transposed, by_rows = _by_rows(matrices)
    iterate = compiled.function("scaling.cpp", "fixed_point", "ppplllll", by_rows)
    if iterate is None:
        return NotImplemented
    batch, rows, columns = by_rows.shape
    over_rows, over_columns = matrices.new_empty(batch, rows), matrices.new_empty(batch, columns)
    iterate(by_rows, over_rows, over_columns, batch, rows, columns, int(not transposed), iterations)
    return (over_rows, over_columns) if transposed else (over_columns, over_rows)


def scaled_norm(matrices: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """In one pass."""
    transposed, by_rows = _by_rows(matrices)
    norm = compiled.function("scaling.cpp", "scaled_norm", "pppplll", by_rows, rows, columns)
    if norm is None:
        return NotImplemented
    norms = matrices.new_empty(len(matrices))
    norm(by_rows, *((columns, rows) if transposed else (rows, columns)), norms, *by_rows.shape)
    return norms


def subtract_scaled(weight: Tensor, matrix: Tensor, rows: Tensor, columns: Tensor, step: float) -> None:
    """In one pass, where the weight and the matrix have one memory order."""
    transposed, by_rows = _by_rows(matrix)
    weights = weight.mT if transposed else weight
    subtract = compiled.function("scaling.cpp", "subtract_scaled", "ppppdll", weights.detach(), by_rows, rows, columns)
    if subtract is None:
        return NotImplemented
    subtract(weights.detach(), by_rows, *((columns, rows) if transposed else (rows, columns)), step, *by_rows.shape)
    torch.autograd.graph.increment_version([weight])
    return None


def _by_rows(matrices: Tensor) -> tuple[bool, Tensor]:
    """Whether `matrices` go by columns in memory, and the form that goes by rows."""
    return (False, matrices) if matrices.stride(-1) == 1 else (True, matrices.mT)
