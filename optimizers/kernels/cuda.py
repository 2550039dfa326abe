"""What suits a CUDA device better than the plain code, in torch's own calls: fewer passes over memory, fewer launches.

A function here stands in for the function of `functional/` or `engine/` that has its name, and returns NotImplemented
where it gains nothing. What was counted: docs/gpu.md.
"""

import functools
import math

import torch
from torch import Tensor

from ..functional import moments, scaling
from ..functional.numerics import above_rounding
from ..functional.subspace import leading_eigenvectors

# The least that is added to the root of a float32 second moment: what the plain code raises such roots to. Roots below
# 1e-12 notice it.
SMALLEST_EPS = torch.finfo(torch.float32).tiny ** 0.5


def column_sumsq(matrices: Tensor) -> Tensor:
    """A norm is one pass; squares and their sum are two, and store the squares."""
    return torch.linalg.vector_norm(matrices, dim=-2).square()


def project(basis: Tensor, gradient: Tensor) -> Tensor:
    """The product of a single matrix has the memory order of its gradient, as its state has (`Stack`)."""
    if len(basis) > 1 or gradient.stride(-1) == 1:
        return NotImplemented
    return (gradient.mT @ basis).mT


def leading_left_singular_vectors(matrix: Tensor, rank: int) -> Tensor:
    """The eigenvectors of A A^T in float64. An SVD on CUDA is iterated matrix by matrix (docs/gpu.md). Squares of
    float32 are exact in float64, where singular values down to 1e-8 of the largest are told apart; of a float64 matrix
    half of the digits would be lost."""
    if matrix.dtype != torch.float32:
        return NotImplemented
    gram = matrix.new_empty(*matrix.shape[:-1], matrix.shape[-2], dtype=torch.float64)
    for each, square in zip(matrix, gram, strict=True):  # one matrix at a time in float64
        wide = each.double()
        torch.mm(wide, wide.mT, out=square)
    return leading_eigenvectors(gram, rank).to(matrix.dtype)


def adam_moments(sigma: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, betas: tuple[float, float], eps: float) -> Tensor:
    """torch's fused Adam steps a zero with lr -1: one pass. Its bias corrections are 1 at an endless step count."""
    averages = [exp_avg, exp_avg_sq]
    if sigma.dtype != torch.float32 or any(_order(each) != _order(sigma) for each in averages):
        return NotImplemented
    if exp_avg.dtype != sigma.dtype and not _fused_adam_takes(exp_avg.dtype, sigma.device):
        return NotImplemented
    normalized, endless = torch.zeros_like(sigma), sigma.new_full((), math.inf)
    _fused_adam(normalized, sigma, exp_avg, exp_avg_sq, endless, betas, max(eps, SMALLEST_EPS))
    torch.autograd.graph.increment_version(averages)
    return normalized


def _order(tensor: Tensor) -> list[int]:
    """The strides that matter."""
    return [stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1]


def _fused_adam(
    parameter: Tensor,
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: Tensor,
    betas: tuple[float, float],
    eps: float,
) -> None:
    torch._fused_adam_(
        [parameter], [gradient], [exp_avg], [exp_avg_sq], [], [step], lr=-1.0, beta1=betas[0], beta2=betas[1],
        weight_decay=0.0, eps=eps, amsgrad=False, maximize=False,
    )  # fmt: skip


@functools.cache
def _fused_adam_takes(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether this torch's fused Adam takes moments of `dtype` beside float32 gradients: tried once."""
    one = torch.ones(1, device=device)
    try:
        _fused_adam(one, one.clone(), one.to(dtype), one.to(dtype), one.clone(), (0.9, 0.9), 1.0)
    except RuntimeError:
        return False
    return True


def adam_moments_with_sumsq(
    sigma: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, betas: tuple[float, float], eps: float
) -> moments.Moments:
    """Sums as `column_sumsq`'s."""
    normalized = moments.adam_moments(sigma, exp_avg, exp_avg_sq, betas, eps)
    return moments.Moments(normalized, column_sumsq(sigma), column_sumsq(normalized))


def unit_momentum(
    gradient: Tensor, exp_avg: Tensor, momentum: float, eps: float, *, nesterov: bool, dtype: torch.dtype
) -> Tensor:
    """Of an average in few digits, m / (1 - momentum) and M / (1 - momentum) are a sum each, which is rounded as it is
    written. The norm takes the factor away."""
    if exp_avg.dtype == gradient.dtype or momentum == 0:
        return NotImplemented
    share = 1 - momentum
    ahead = torch.add(gradient, exp_avg, alpha=momentum / share)
    torch.mul(ahead, share, out=exp_avg)
    if nesterov:
        ahead = torch.add(gradient, ahead, alpha=momentum, out=torch.empty_like(ahead, dtype=dtype))
    norms = torch.linalg.vector_norm(ahead, dim=(-2, -1), keepdim=True, dtype=gradient.dtype).clamp(min=eps / share)
    return torch.div(ahead, norms, out=torch.empty_like(ahead, dtype=dtype))


def corrected(
    total: Tensor, basis: Tensor, sigma: Tensor, inside: Tensor, share: float, *, rounded: bool
) -> tuple[Tensor, Tensor, float]:
    """With k = `share` and E = U^T U - I, which is rounding, what is removed is k (2 k I - k U^T U) = k (2 - k) C^2 for
    C = (I - X)^(1/2) and X = k / (2 - k) E: the squares of C s, and no product of two tall matrices."""
    if not rounded:
        return NotImplemented
    excess = basis.mT @ basis
    excess.diagonal(dim1=-2, dim2=-1).sub_(1)
    factor = share / (2 - share)
    root = torch.baddbmm(excess, excess, excess, beta=-factor / 2, alpha=-(factor**2) / 8)
    root.diagonal(dim1=-2, dim2=-1).add_(1)
    removed = column_sumsq(root @ sigma).mul_((2 - share) * share)
    return above_rounding(total - removed, total), inside, 0.0


def fixed_point(squares: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """The iterations find directions alone, and the lengths of all of them are multiplied at the end: half the
    launches."""
    m = squares.shape[-2]
    b = squares.new_full(squares.shape[:-1], 1 / m)
    columns, column_sums, rows, row_sums = [], [], [b], []
    for k in range(iterations):
        product = scaling.rowwise_products(squares.mT, rows[-1]) if k > 0 else squares.sum(-2) / m
        column_sums.append(product.sum(-1, keepdim=True))
        columns.append(product / column_sums[-1])
        product = scaling.rowwise_products(squares, columns[-1])
        row_sums.append(product.sum(-1, keepdim=True))
        rows.append(product / row_sums[-1])
    a, b = columns[-1], rows.pop()
    a_squares, b_squares = (torch.linalg.vector_norm(torch.stack(each), dim=-1).square() for each in (columns, rows))
    ratios = torch.cat(row_sums, -1) / torch.cat(column_sums, -1) * (b_squares / a_squares).mT
    y = m * ratios.prod(-1, keepdim=True)
    x = row_sums[-1] / (y * a_squares[-1].unsqueeze(-1))
    live = a.sum(-1, keepdim=True) > 0
    return torch.where(live, a * x, 0.0), torch.where(live, b * y, 0.0)


def newton_schulz_iterations(matrix: Tensor, coefficients: tuple[float, float, float], steps: int) -> Tensor:
    """The iterates take turns in two tensors, one of which is `matrix`. a I + b A + c A^2 is formed on the small side:
    added to a product, X would be copied first and read again. Not in bfloat16, where a in the sum is off by .2 %."""
    a, b, c = coefficients
    other = torch.empty_like(matrix)
    for _ in range(steps):
        if matrix.dtype == torch.bfloat16:
            torch.baddbmm(matrix, _polynomial(matrix @ matrix.mT, b, c), matrix, beta=a, out=other)
        else:
            torch.bmm(_polynomial(matrix @ matrix.mT, b, c, a), matrix, out=other)
        matrix, other = other, matrix
    return matrix


def _polynomial(gram: Tensor, b: float, c: float, a: float = 0.0) -> Tensor:
    """a I + b A + c A^2 of A = `gram`, which may be written to."""
    inner = torch.baddbmm(gram, gram, gram, beta=b, alpha=c) if c else gram.mul_(b)
    if a:
        inner.diagonal(dim1=-2, dim2=-1).add_(a)
    return inner


def formed(
    gradient: Tensor,
    rows: Tensor | None,
    columns: Tensor | None,
    left: Tensor | None,
    right: Tensor | None,
    dense: Tensor | None,
) -> Tensor:
    """The product is made in the memory order of the gradient and of the weights, and the rest is added to it."""
    if left is None or right is None:
        return NotImplemented
    whole = left @ right if gradient.stride(-1) == 1 else (right.mT @ left.mT).mT
    if rows is not None and columns is not None:
        whole.addcmul_(gradient * rows, columns)
    elif (scales := columns if rows is None else rows) is not None:
        whole.addcmul_(gradient, scales)
    return whole if dense is None else whole.add_(dense)


def subtract_stacked(
    gradient: Tensor,
    weights: list[Tensor],
    rows: Tensor | None,
    columns: Tensor | None,
    left: Tensor | None,
    right: Tensor | None,
    dense: Tensor | None,
    step: float,
) -> None:
    """A gradient that is only scaled is not formed: its last scaling is a part of the kernel that writes a weight. That
    is a launch for each matrix, as it is without this where weights are narrower than the gradient."""
    scales = columns if rows is None else rows
    if scales is None or left is not None or dense is not None or weights[0].dtype == gradient.dtype:
        return NotImplemented
    scaled = gradient if rows is None or columns is None else gradient * columns
    for weight, matrix, scale in zip(weights, scaled.unbind(0), scales.unbind(0), strict=True):
        weight.addcmul_(matrix, scale, value=-step)
    return None


# By the name of the function that each stands in for.
REPLACEMENTS = {
    function.__name__: function
    for function in (
        project,
        column_sumsq,
        leading_left_singular_vectors,
        adam_moments,
        adam_moments_with_sumsq,
        unit_momentum,
        corrected,
        fixed_point,
        newton_schulz_iterations,
        formed,
        subtract_stacked,
    )
}
