"""Row and column scales of a matrix: the fixed point of Proposition 3 (Eq. 16 of arXiv 2502.07752), on stacks."""

import torch
from torch import Tensor

from ..kernels import replaceable
from .limiter import limit_growth
from .numerics import reciprocal


@replaceable
def fixed_point(squares: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Eq. 16: P = `squares` [B, m, n] -> (s [B, n], q [B, m]) with P ~ q s^T; both 0 where P is 0.

    s = P^T q / |q|^2 and q = P s / |s|^2 are iterated as s = x a and q = y b with a and b of unit sum, so that nothing
    underflows or overflows at any scale of P. With P^T b = alpha a' and P a' = beta b', the length y becomes
    y (beta / alpha) (|b|^2 / |a'|^2), and x = beta / (y |a'|^2) (docs/numerics.md).
    """
    m = squares.shape[-2]
    b, y = squares.new_full(squares.shape[:-1], 1 / m), squares.new_full((len(squares), 1), m)
    for k in range(iterations):
        a, alpha = _unit_sum(rowwise_products(squares.mT, b) if k > 0 else squares.sum(-2) / m)
        b_square = _square_norm(b)
        b, beta = _unit_sum(rowwise_products(squares, a))
        a_square = _square_norm(a)
        y = y * (beta / alpha * (b_square / a_square))
    x = beta / (y * a_square)
    live = a.sum(-1, keepdim=True) > 0  # P = 0 has become 0 / 0
    return torch.where(live, a * x, 0.0), torch.where(live, b * y, 0.0)


def _unit_sum(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """[B, k] -> vectors [B, k] of sum 1, and their sums before [B, 1]."""
    sums = vectors.sum(-1, keepdim=True)
    return vectors / sums, sums


def _square_norm(vectors: Tensor) -> Tensor:
    """[B, k] -> [B, 1]."""
    return torch.linalg.vector_norm(vectors, dim=-1, keepdim=True).square()


@replaceable
def rowwise_products(matrices: Tensor, vectors: Tensor) -> Tensor:
    """[B, m, n], [B, n] -> [B, m]: each matrix times its vector."""
    return (matrices @ vectors.unsqueeze(-1)).squeeze(-1)


def averaged_scales(squares: Tensor, column_scale: Tensor, row_scale: Tensor, decay: float) -> tuple[Tensor, Tensor]:
    """1 / Q [B, m] and 1 / S [B, n] of a matrix with the `squares` [B, m, n], 0 where Q or S is.

    The averages S = `column_scale` [B, n] and Q = `row_scale` [B, m] of the fixed point are advanced.
    """
    columns, rows = fixed_point(squares, iterations=5)
    columns = column_scale.lerp_(columns, 1 - decay)
    rows = row_scale.lerp_(rows, 1 - decay)
    return reciprocal(rows), reciprocal(columns)


def scaled_norm(squares: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """[B]: ||diag(rows)^(1/2) X diag(columns)^(1/2)|| from `squares` = X^2 [B, m, n], rows [B, m], columns [B, n]."""
    return torch.linalg.vecdot(rows, rowwise_products(squares, columns)).sqrt()


@replaceable
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
    """rows [B, m], columns [B, n] with eta X = diag(rows) G diag(columns), G = `gradient` [B, m, n].

    The averages Q = `row_scale` [B, m] and S = `column_scale` [B, n] (None: no averaging) and phi [B] are advanced. A
    zero gradient leaves them as they are.
    """
    squares = gradient.square()
    columns, rows = fixed_point(squares, iterations)
    live = columns.amax(-1, keepdim=True) > 0
    if column_scale is not None and row_scale is not None:
        weight = (1 - beta) * live.to(columns.dtype)
        columns, rows = column_scale.lerp_(columns, weight), row_scale.lerp_(rows, weight)
    columns, rows = reciprocal(columns), reciprocal(rows)
    eta, limited = limit_growth(scaled_norm(squares, rows, columns), phi, gamma)
    phi.copy_(torch.where(live.squeeze(-1), limited, phi))
    return eta.unsqueeze(-1) * rows.sqrt(), columns.sqrt()


@replaceable
def subtract_scaled(weight: Tensor, matrix: Tensor, rows: Tensor, columns: Tensor, step: float) -> None:
    """weight <- weight - step diag(rows) X diag(columns) of X = `matrix` [m, n], rows [m, 1], columns [1, n]."""
    weight.addcmul_(matrix * rows, columns, value=-step)


def reference_fixed_point(P: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Eq. 16 as printed, for one matrix P [m, n] -> (s [n], q [m]); both 0 for P = 0."""
    s, q = P.new_zeros(P.shape[1]), P.new_ones(P.shape[0])
    if not P.any():
        return s, 0 * q
    for _ in range(iterations):
        s = P.T @ q / (q @ q)
        q = P @ s / (s @ s)
    return s, q
