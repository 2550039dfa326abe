"""Row and column scalings of a matrix: Proposition 3's fixed point (Eq. 16 of arXiv 2502.07752) and what is made of it,
on stacks."""

from collections.abc import Callable

import torch
from torch import Tensor


def fixed_point(power: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Eq. 16 on a stack: power = G^2 [B, m, n] -> (s [B, n], q [B, m]), power ~ q s^T; both 0 where power is 0.

    Whatever the gradient's scale, nothing may underflow or overflow, so both vectors are iterated at unit sum,
    s_k = x_k a_k and q_k = y_k b_k, and Eq. 16's lengths are found at the end: with P^T b_k-1 = alpha_k a_k and
    P a_k = beta_k b_k they are x_k = alpha_k / (y_k-1 |b_k-1|^2) and y_k = beta_k / (x_k |a_k|^2).
    """
    batch, m, n = power.shape
    a, b = power.new_empty(iterations, batch, n), power.new_empty(iterations + 1, batch, m)
    alpha, beta = power.new_empty(iterations, batch, 1), power.new_empty(iterations, batch, 1)
    times, transposed_times = products(power), products(power.mT)
    a_, b_, alpha_, beta_ = a.unbind(), b.unbind(), alpha.unbind(), beta.unbind()
    b_[0].fill_(1 / m)
    for k in range(iterations):
        if k == 0:
            torch.mul(power.sum(-2), 1 / m, out=a_[0])
        else:
            transposed_times(b_[k], a_[k])
        a_[k].div_(torch.sum(a_[k], -1, keepdim=True, out=alpha_[k]))
        times(a_[k], b_[k + 1])
        b_[k + 1].div_(torch.sum(b_[k + 1], -1, keepdim=True, out=beta_[k]))
    a_square = torch.linalg.vector_norm(a, dim=-1, keepdim=True).square_()
    b_square = torch.linalg.vector_norm(b[:-1], dim=-1, keepdim=True).square_()
    y = (beta / alpha * (b_square / a_square)).prod(0).mul_(m)
    x = beta[-1] / (y * a_square[-1])
    live = alpha[0] > 0  # a zero gradient has gone through as 0 / 0
    return torch.where(live, a[-1].mul_(x), 0.0), torch.where(live, b[-1].mul_(y), 0.0)


def products(matrices: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """For a stack [B, m, n], the function of vectors [B, n] and out [B, m] that puts each product into out."""
    if matrices.device.type != "cpu":
        return lambda vectors, out: torch.bmm(matrices, vectors.unsqueeze(-1), out=out.unsqueeze(-1))
    if len(matrices) == 1:
        (only,) = matrices.unbind()
        return lambda vectors, out: torch.mv(only, vectors.view(-1), out=out.view(-1))
    parts = matrices.unbind()

    def one_by_one(vectors: Tensor, out: Tensor) -> None:
        # A CPU's batched product takes ten times as long as one product after the other.
        for matrix, vector, result in zip(parts, vectors.unbind(), out.unbind(), strict=True):
            torch.mv(matrix, vector, out=result)

    return one_by_one


def scaled_norm(power: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """[B]: ||diag(rows)^(1/2) X diag(columns)^(1/2)|| from power = X^2 [B, m, n], rows [B, m], columns [B, n]."""
    weighted = torch.empty_like(rows)
    products(power)(columns, weighted)
    return torch.linalg.vecdot(rows, weighted).sqrt_()


def reference_fixed_point(P: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Eq. 16 as printed, for one matrix P [m, n] -> (s [n], q [m]); both 0 for P = 0."""
    s, q = P.new_zeros(P.shape[1]), P.new_ones(P.shape[0])
    if not P.any():
        return s, 0 * q
    for _ in range(iterations):
        s = P.T @ q / (q @ q)
        q = P @ s / (s @ s)
    return s, q


def reciprocal(x: Tensor) -> Tensor:
    """1 / x where x is a positive normal number, else 0 (1 / x of a smaller one would be infinite)."""
    return torch.where(x >= torch.finfo(x.dtype).tiny, 1 / x, 0.0)
