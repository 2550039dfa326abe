"""What suits a CUDA device better than the plain code, in torch's own calls: fewer passes over memory, fewer launches.

A function here stands in for the function of `functional/` or `engine/` that has its name, and returns NotImplemented
where it gains nothing. What was counted: docs/gpu.md.
"""

import functools
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import kernels
from ..functional import moments, moving_basis, scaling
from ..functional.newton_schulz import ALIGNMENT
from ..functional.numerics import above_rounding, working_dtype
from ..functional.subspace import leading_eigenvectors

# The least that is added to the root of a float32 second moment: what the plain code raises such roots to. Roots below
# 1e-12 notice it.
SMALLEST_EPS = torch.finfo(torch.float32).tiny ** 0.5
# Rows and columns from which on a gradient stays in bfloat16.
NARROW_FROM = 256


def followed_basis(
    total: Tensor, basis: Tensor, first: Tensor, share: float, rest: float
) -> tuple[Tensor, moving_basis.Before]:
    """B is never formed: Z = B^T P_ and B Z are sums of products with its parts."""
    z = torch.baddbmm(first.mT @ (basis.mT @ basis), total.mT, basis, beta=share, alpha=rest)
    moved = torch.baddbmm(basis @ (first @ z), total, z, beta=share, alpha=rest)
    return torch.linalg.qr(moved).Q, moving_basis.Before(basis, first, None)


def left_out(
    total: Tensor,
    basis: Tensor,
    sigma: Tensor,
    carried: Tensor,
    before: moving_basis.Before | None,
    share: float,
) -> Tensor:
    """In place, P (sigma + share m') by one product."""
    if before is None:
        return total.baddbmm_(basis, sigma, alpha=-1)
    total.baddbmm_(basis, torch.add(sigma, carried, alpha=share), alpha=-1)
    return total.baddbmm_(before.basis, before.first, alpha=share)


def gradient_dtype(gradient: Tensor, takes_narrow: bool) -> torch.dtype:
    """Half of the bytes in each pass over it. Rounding of what is computed in few digits averages out over a row or a
    column; small matrices keep more."""
    narrow = takes_narrow and gradient.dtype == torch.bfloat16 and min(gradient.shape[-2:]) >= NARROW_FROM
    return gradient.dtype if narrow else NotImplemented


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
    """With k = momentum^2, or momentum without Nesterov, and m from before, M / (1 - k) is G + k / (1 - k) m: one sum
    in float32 of what is held in less. m is rounded once. The norm takes the factor away."""
    if gradient.dtype != torch.bfloat16:
        return NotImplemented
    decay = momentum**2 if nesterov else momentum
    factor = torch.full((1,), decay / (1 - decay), device=gradient.device)  # float32, as the sum is for its sake
    ahead = torch.addcmul(gradient, exp_avg, factor)
    exp_avg.lerp_(gradient.to(exp_avg.dtype), 1 - momentum)
    norms = torch.linalg.vector_norm(ahead, dim=(-2, -1), keepdim=True).clamp(min=eps / (1 - decay))
    return torch.div(ahead, norms, out=_place(ahead, dtype)).to(dtype)


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
    """Squares of a narrow gradient have its digits. Zero columns are added where its rows would begin at places that
    are slow to load."""
    n = gradient.shape[-1]
    if gradient.dtype != torch.bfloat16 or gradient.stride(-1) > 1 or n % ALIGNMENT == 0:
        return NotImplemented
    padded = F.pad(gradient, (0, -n % ALIGNMENT))
    scale = None if column_scale is None else F.pad(column_scale, (0, -n % ALIGNMENT))
    rows, columns = scaling.racs_scales(padded, scale, row_scale, phi, beta=beta, gamma=gamma, iterations=iterations)
    if column_scale is not None and scale is not None:
        column_scale.copy_(scale[..., :n])
    return rows, columns[..., :n]


def rowwise_products(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Of matrices in few digits, whose products are added up in float32. The vector is rounded as they are."""
    if matrices.dtype != torch.bfloat16:
        return NotImplemented
    columns = vectors.to(matrices.dtype).unsqueeze(-1)
    if not matrices.is_cuda:  # which has no such product
        return (matrices.float() @ columns.float()).squeeze(-1)
    return torch.bmm(matrices, columns, out_dtype=torch.float32).squeeze(-1)


def fixed_point(squares: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """The iterations find directions alone, and the lengths of all of them are multiplied at the end: half the
    launches."""
    m, dtype = squares.shape[-2], working_dtype(squares.dtype)
    b = squares.new_full(squares.shape[:-1], 1 / m, dtype=dtype)
    columns, column_sums, rows, row_sums = [], [], [b], []
    for k in range(iterations):
        product = scaling.rowwise_products(squares.mT, rows[-1]) if k > 0 else squares.sum(-2, dtype=dtype) / m
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
    """The iterates take turns in two tensors, one of which is `matrix`. A product with a term to add would copy that
    term first, so each is joined on the small side: with D = A + b / (2 c) I,

        a I + b A + c A^2 = c D^2 + (a - b^2 / (4 c)) I.

    Not in bfloat16, which has too few digits for these diagonals (docs/numerics.md).
    """
    a, b, c = coefficients
    other = _place(matrix, matrix.dtype)
    for _ in range(steps):
        if matrix.dtype == torch.bfloat16:
            gram = matrix @ matrix.mT
            gram = torch.baddbmm(gram, gram, gram, beta=b, alpha=c) if c else gram.mul_(b)
            moved = torch.baddbmm(matrix, gram, matrix, beta=a, out=other)
        else:
            moved = torch.bmm(_polynomial(matrix @ matrix.mT, a, b, c), matrix, out=other)
        matrix, other = moved, None if other is None else matrix
    return matrix


def _place(like: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Memory for a result in the order of `like`; a compiler finds its own, and takes none that is not contiguous."""
    return None if torch.compiler.is_compiling() else torch.empty_like(like, dtype=dtype)


def _polynomial(gram: Tensor, a: float, b: float, c: float) -> Tensor:
    """a I + b A + c A^2 of A = `gram`, which is written to."""
    if c:
        gram.diagonal(dim1=-2, dim2=-1).add_(b / (2 * c))
        gram, a = torch.baddbmm(gram, gram, gram, beta=0, alpha=c), a - b * b / (4 * c)
    else:
        gram.mul_(b)
    gram.diagonal(dim1=-2, dim2=-1).add_(a)
    return gram


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
    if scales is None or left is not None or dense is not None or weights[0].dtype == scales.dtype:
        return NotImplemented
    scaled = gradient if rows is None or columns is None else gradient * columns
    for weight, matrix, scale in zip(weights, scaled.unbind(0), scales.unbind(0), strict=True):
        weight.addcmul_(matrix, scale, value=-step)
    return None


# By the name of the function that each stands in for.
REPLACEMENTS = {
    function.__name__: function
    for function in (
        followed_basis,
        left_out,
        gradient_dtype,
        project,
        column_sumsq,
        leading_left_singular_vectors,
        adam_moments,
        adam_moments_with_sumsq,
        unit_momentum,
        corrected,
        racs_scales,
        rowwise_products,
        fixed_point,
        newton_schulz_iterations,
        formed,
        subtract_stacked,
    )
}

# Those that a compiler traces too: else passes over squares are in float32, and products copy what they add to.
kernels.traced_on["cuda"] = {
    function.__name__: function
    for function in (
        gradient_dtype,
        racs_scales,
        rowwise_products,
        fixed_point,
        unit_momentum,
        newton_schulz_iterations,
    )
}
