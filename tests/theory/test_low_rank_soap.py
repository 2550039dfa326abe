"""Low-rank SOAP: what AliceSOAP keeps of SOAP's Fisher, and the compensation of what it discards.

Uf = [U, Uc] and Vf = [V, Vc] complete the bases. SOAP's Fisher is (Vf x Uf) D (Vf x Uf)^T with D = E[(Uf^T G Vf)^2]
(Theorem 3.3 of arXiv 2502.07752); the r x r block of U and V is kept. `blocks` is Theorem 5.1 repeated for the rest.
"""

import math

import pytest
import torch
from torch import Tensor

from analysis.fisher import structures
from analysis.fisher.structures import Fisher
from optimizers import AliceSOAP
from optimizers.functional.scaling import fixed_point

from .samples import M, N, dense_fisher, positive, power_of, rotation, sampled_gradients, unvec, vec
from .test_closed_forms import SIZES, assert_projection, square_error

RANK = 2


def bases(gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Uf [m, m], Vf [n, n]: eigenvectors of E[G G^T] and E[G^T G], descending."""
    sides = ((gradients @ gradients.mT).mean(0), (gradients.mT @ gradients).mean(0))
    left, right = (torch.linalg.eigh(side).eigenvectors.flip(1) for side in sides)
    return left, right


def block_means(D: Tensor, r: int, s: int) -> tuple[Tensor, Tensor, Tensor]:
    """a [s], b [r], c []: the means of D [m, n] over the blocks outside the first r rows and s columns."""
    return D[r:, :s].mean(0), D[:r, s:].mean(1), D[r:, s:].mean()


def outside(a: Tensor, b: Tensor, c: Tensor, m: int, n: int) -> Tensor:
    """[m, n]: D with the numbers a, b, c on its three outer blocks, and 0 on the first."""
    r, s = len(b), len(a)
    D = a.new_zeros(m, n)
    D[r:, :s], D[:r, s:], D[r:, s:] = a, b[:, None], c
    return D


def dense(D: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """(right x left) diag(vec D) (right x left)^T."""
    vectors = torch.kron(right.contiguous(), left.contiguous())
    return vectors * vec(D) @ vectors.T


def trained(gradients: Tensor, shape=(M, N), **options) -> tuple[AliceSOAP, torch.nn.Parameter, Tensor]:
    """(optimizer, weight, the last step's update) after a step on each gradient, with alpha = 1 and lr = 1."""
    weight = torch.nn.Parameter(torch.zeros(shape, dtype=torch.float64))
    kept = {"leading": options["rank"], "switching": "none", "update_interval": 1000}
    optimizer = AliceSOAP([weight], lr=1.0, alpha=1.0, **{**kept, **options})
    for gradient in gradients:
        before, weight.grad = weight.detach().clone(), gradient
        optimizer.step()
    return optimizer, weight, before - weight.detach()


def test_full_rank_steps_along_soaps_fisher():
    """Without averages the update is Mat(A^(-1/2) g), A = (Vf x Uf) diag(vec (Uf^T G Vf)^2) (Vf x Uf)^T."""
    gradients = sampled_gradients(0, M, M, 2)
    optimizer, weight, update = trained(gradients, (M, M), rank=M, betas=(0.0, 0.0, 0.0))
    U, V = (optimizer.state[weight][key] for key in ("basis", "right_basis"))
    left, right = bases(gradients[:1])
    torch.testing.assert_close((U.T @ left).abs(), torch.eye(M, dtype=U.dtype), atol=1e-9, rtol=0)
    torch.testing.assert_close((V.T @ right).abs(), torch.eye(M, dtype=U.dtype), atol=1e-9, rtol=0)
    A = dense((U.T @ gradients[1] @ V).square(), U, V)
    torch.testing.assert_close(update, unvec(power_of(A, -0.5) @ vec(gradients[1]), M, M), rtol=1e-6, atol=1e-8)


def test_full_rank_moments_are_soaps():
    """Between refreshes both moments are those of U^T G V, as SOAP's are."""
    gradients = sampled_gradients(1, M, M, 6)
    betas = (0.8, 0.9, 0.9)
    optimizer, weight, update = trained(gradients, (M, M), rank=M, betas=betas)
    state = optimizer.state[weight]
    U, V = state["basis"], state["right_basis"]
    first = second = torch.zeros_like(U)
    for S in U.T @ gradients[1:] @ V:
        first, second = 0.8 * first + 0.2 * S, 0.9 * second + 0.1 * S**2
    torch.testing.assert_close(state["exp_avg"], first)
    torch.testing.assert_close(state["exp_avg_sq"], second)
    torch.testing.assert_close(update, U @ (first / second.sqrt()) @ V.T)


def test_the_optimizers_blocks_are_the_closest_of_their_family(gradients, source):
    """Over one number for each v_j x Uc, for each Vc x u_i and for Vc x Uc, its own are closest to the discarded
    part of SOAP's Fisher, of one gradient as b1 = 0, and its C is Mat(A_c^(-1/2) g) of them."""
    last = gradients[1]
    changes = {"rank": RANK, "betas": (0.0, 0.0, 0.0), "alpha_c": 1.0, "compensation": "blocks"}
    optimizer, weight, update = trained(gradients[:2], **changes)
    state = optimizer.state[weight]
    U, V = state["basis"], state["right_basis"]
    left, right = (torch.linalg.qr(basis, mode="complete").Q for basis in (U, V))
    D = (left.T @ last @ right).square()
    held = [state[key] for key in ("outside_left", "outside_right", "outside_both")]
    for own, mean in zip(held, block_means(D, RANK, RANK), strict=True):
        torch.testing.assert_close(own, mean)
    roots = outside(*(each**-0.5 for each in held), M, N)
    C = left @ (roots * (left.T @ last @ right)) @ right.T
    omega = (U.T @ last @ V).sign()  # m / sqrt(v) of one gradient
    torch.testing.assert_close(update, U @ omega @ V.T + C)

    discarded = D.clone()
    discarded[:RANK, :RANK] = 0
    factors = [[positive(each.numel(), source=source, spread=size).view(each.shape) for each in held] for size in SIZES]
    others = [
        dense(outside(*(f * each for f, each in zip(row, held, strict=True)), M, N), left, right) for row in factors
    ]
    member = dense(outside(*held, M, N), left, right)
    assert_projection(dense(discarded, left, right), member, others)
    assert_projection(dense_fisher(last[None]), member, others)


def test_the_compensation_has_one_unit_for_each_discarded_direction(gradients):
    """E||C||^2 = m n - r^2, of blocks and of scalar."""
    left, right = bases(gradients)
    S = left.T @ gradients @ right
    D = S.square().mean(0)
    roots = outside(*(each**-0.5 for each in block_means(D, RANK, RANK)), M, N)
    assert (roots * S).square().sum((1, 2)).mean().item() == pytest.approx(M * N - RANK**2, rel=1e-12)
    state = trained(gradients[:2], rank=RANK, betas=(0.0, 0.0, 0.0), compensation="scalar")[0]
    (held,) = state.state.values()
    assert held["phi"].item() == pytest.approx(math.sqrt(M * N - RANK**2), rel=1e-12)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_with_a_whole_right_basis_of_unit_vectors_blocks_are_theorem_5_1(gradients, rank):
    """V = I leaves the first block alone: its numbers are S^(-2) of Theorem 5.1."""
    left, right = bases(gradients)[0], torch.eye(N, dtype=gradients.dtype)
    D = (left.T @ gradients).square().mean(0)
    inside = D.clone()
    inside[rank:], _, _ = block_means(D, rank, N)
    torch.testing.assert_close(structures.alice(Fisher(gradients), rank).dense(), dense(inside, left, right))


def test_two_sided_is_neither_the_optimum_nor_on_the_complement(gradients):
    """RACS's scales of the residual solve another problem: farther from the discarded part than the blocks, also when
    their part between the bases is left out; and C has such a part, which `project` removes."""
    left, right = bases(gradients)
    D = (left.T @ gradients @ right).square().mean(0)
    discarded = D.clone()
    discarded[:RANK, :RANK] = 0
    target = dense(discarded, left, right)
    U, V = left[:, :RANK], right[:, :RANK]
    R = gradients - U @ (U.T @ gradients @ V) @ V.T
    (columns,), (rows,) = fixed_point(R.square().mean(0)[None], iterations=200)
    scaled = torch.kron(columns.diag(), rows.diag())
    complement = torch.eye(M * N, dtype=D.dtype) - torch.kron(V @ V.T, U @ U.T)
    blocks = square_error(target, dense(outside(*block_means(D, RANK, RANK), M, N), left, right))
    assert square_error(target, scaled) > 1.2 * blocks
    assert square_error(target, complement @ scaled @ complement) > 1.1 * blocks

    leaks = {}
    for project in (False, True):
        changes = {"rank": RANK, "betas": (0.0, 0.0, 0.0), "alpha_c": 1.0, "project": project}
        optimizer, weight, update = trained(gradients[:2], **changes)
        u, v = (optimizer.state[weight][key] for key in ("basis", "right_basis"))
        leaks[project] = (u.T @ update @ v - (u.T @ gradients[1] @ v).sign()).norm()
    assert leaks[True] < 1e-9 < 0.05 < leaks[False]


def test_which_moments_keep_the_ratio_within_one():
    """With b1 = b2 the ratio |m| / sqrt(v) is at most 1 where the moments are kept, and where mean and variance are
    rotated. Rotated apart it passes 1: entries that add up in m do not in v."""
    source = torch.Generator().manual_seed(3)
    turned = [rotation(6, source) for _ in range(2)]
    largest = {}
    for moments in ("keep", "rotate", "centred"):
        weight = torch.nn.Parameter(torch.zeros(6, 8, dtype=torch.float64))
        optimizer = AliceSOAP(
            [weight], lr=1.0, rank=4, leading=4, update_interval=10, betas=(0.9, 0.9, 0.0), moments=moments
        )
        ratios = [torch.zeros((), dtype=torch.float64)]
        for step in range(1, 40):
            # One gradient for ten steps, then the bases turn.
            weight.grad = turned[step // 10 % 2] @ sampled_gradients(5, 6, 8, 1)[0]
            weight.grad += 1e-3 * torch.randn(6, 8, generator=source, dtype=torch.float64)
            optimizer.step()
            state = optimizer.state[weight]
            live = state["exp_avg_sq"] > 0
            ratios += (state["exp_avg"][live].abs() / state["exp_avg_sq"][live].sqrt()).unbind()
        largest[moments] = torch.stack(ratios).max().item()
    assert largest["keep"] <= 1 + 1e-12 and largest["centred"] <= 1 + 1e-12
    assert 1.01 < largest["rotate"] <= 4
