"""AliceSOAP: SOAP in low rank, which arXiv 2502.07752 leaves as future work (Sec. 5). Alice has one basis; this has a
basis on either side. W is oriented m x n with m <= n; the bases are U [m, r] and V [n, r].

    if t == 1 or t mod K == 0:
        U: as in Alice, from A = b3 U QU U^T + (1 - b3) G G^T
        V: the same, from b3 V QV V^T + (1 - b3) G^T G, with drawn columns of its own
        moments, with X = U_new^T U_old, Y = V_old^T V_new and elementwise squares:
            keep:     as they are, as in Alice
            rotate:   m <- X m Y;   v <- X^2 v Y^2
            centred:  v <- X^2 (v - m^2) Y^2 + (X m Y)^2;   m <- X m Y
    L = U^T G;   H = G V;   sigma = U^T H
    QU <- b3 QU + (1 - b3) L L^T;   QV <- b3 QV + (1 - b3) H^T H
    if t == 1: nothing else but weight decay
    m <- ema(sigma, b1);   v <- ema(sigma^2, b2);   omega = m / sqrt(v)     # no bias correction
    R = G - U sigma V^T, and its compensation C:
        two_sided:  RACS's scales S, Q of R, averaged by b1;   C = diag(Q)^(-1/2) R diag(S)^(-1/2)
                    project:  C <- C - U U^T C V V^T
        blocks:     R = H' V^T + U L' + G' with H' = H - U sigma, L' = L - sigma V^T, and with averages by b1 of
                    a = colsum(H'^2) / (m - r), b = rowsum(L'^2) / (n - r), c = ||G'||^2 / ((m - r) (n - r)):
                    C = H' diag(a)^(-1/2) V^T + U diag(b)^(-1/2) L' + c^(-1/2) G'
        scalar:     blocks with one number: C = sqrt(m n - r^2) R / sqrt(ema(||R||^2, b1))
    eta = gamma / max(||C|| / phi, gamma) (1 while phi = 0);   phi <- eta ||C||
    W <- W - lr alpha (U omega V^T + alpha_c eta C)

Both bases of the first step come from one gradient. So its sigma is diagonal between the leading columns, but for
rounding, which omega would raise to full size. That is why nothing moves then, as in SOAP. A part of R that is only
rounding is set to 0.
While all gradients of a matrix are zero nothing happens, and t does not count.
State per matrix: r (m + n) + 4 r^2 numbers (QU and QV in float32 at least), and m + n + 1 (two_sided), 2 r + 2 (blocks)
or 2.
Derivation and costs: docs/alice-soap.md.
"""

from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from .engine import Direction, MatrixOptimizer, Option, Traits, register
from .engine.options import (
    Alpha,
    AlphaC,
    BasisDtype,
    Gamma,
    Leading,
    LearningRate,
    Params,
    Rank,
    Seed,
    Stagger,
    ThreeBetas,
    Tracking,
    UpdateInterval,
)  # fmt: skip
from .functional.limiter import limit_growth, reference_limit
from .functional.moments import adam_moments
from .functional.numerics import reciprocal, working_dtype
from .functional.scaling import averaged_scales, reference_fixed_point
from .functional.subspace import Reflectors, average_gram, is_zero, leading_eigenvectors, project
from .functional.switching import reference_basis, remembers, subspace_iteration, switch

# A part of the residual below this share of the gradient is rounding, by the dtype of the bases: measured were up to
# 2.4e-6 in float32 and 7.5e-3 in bfloat16 (docs/alice-soap.md).
FLOOR = {torch.float64: 1e-12, torch.float32: 5e-6, torch.bfloat16: 1e-2}

Switching = Annotated[
    Literal["complement", "none"],
    Option("source of the drawn columns: the complement of the r leading eigenvectors; none (all r are kept)"),
]
CarriedMoments = Annotated[
    Literal["keep", "rotate", "centred"],
    Option("at a refresh: keep both moments, rotate them into the new bases, or rotate the mean and the variance"),
]
Compensation = Annotated[
    Literal["two_sided", "blocks", "scalar", "none"],
    Option(
        "the term made of the residual: its rows and columns scaled as RACS scales a gradient; the optimal one, with a "
        "number for each direction of the bases; one number for all; none"
    ),
]
Project = Annotated[bool, Option("take the part between both bases out of the compensation (two_sided alone has one)")]


@register("alice_soap")
class AliceSOAP(MatrixOptimizer):
    """Adam in a low-rank, tracked and switched pair of bases, and a compensation of the rest.

    The rank is at most m. A square matrix of at most `rank` rows has whole bases, and no compensation.
    """

    traits = Traits(
        last_layer="method",
        awaits_gradient=True,
        decays_first=True,
        refreshed=("basis", "right_basis", "exp_avg", "exp_avg_sq"),
    )

    def __init__(
        self,
        params: Params,
        lr: LearningRate = 0.02,
        *,
        alpha: Alpha = 0.3,
        alpha_c: AlphaC = 0.4,
        betas: ThreeBetas = (0.9, 0.9, 0.999),
        rank: Rank = 128,
        leading: Leading = 40,
        update_interval: UpdateInterval = 200,
        stagger: Stagger = False,
        gamma: Gamma = 1.01,
        tracking: Tracking = True,
        switching: Switching = "complement",
        moments: CarriedMoments = "keep",
        compensation: Compensation = "two_sided",
        project: Project = False,
        basis_dtype: BasisDtype = "parameter",
        weight_decay: Annotated[
            float, Option("decoupled weight decay: W <- W - lr alpha weight_decay W, before the update", least=0)
        ] = 0.0,
        seed: Seed = 0,
    ):
        super().__init__(
            params, lr=lr, alpha=alpha, alpha_c=alpha_c, betas=betas, rank=rank, leading=leading,
            update_interval=update_interval, stagger=stagger, gamma=gamma, tracking=tracking, switching=switching,
            moments=moments, compensation=compensation, project=project, basis_dtype=basis_dtype,
            weight_decay=weight_decay, seed=seed,
        )  # fmt: skip

    @staticmethod
    def decay_factor(group: dict[str, Any]) -> float:
        return group["alpha"]

    @classmethod
    def check_options(cls, options: dict[str, Any]) -> None:
        if options["leading"] > options["rank"]:
            raise ValueError(f"leading must not exceed rank {options['rank']}, got {options['leading']}")
        if options["project"] and options["compensation"] != "two_sided":
            raise ValueError(f"project needs compensation=two_sided, got {options['compensation']!r}")

    def state_shapes(self, m: int, n: int, dtype: torch.dtype, group: dict[str, Any]) -> dict:
        r, work = min(group["rank"], m), working_dtype(dtype)
        held = dtype if group["basis_dtype"] == "parameter" else work
        shapes: dict = {"basis": ((m, r), held), "right_basis": ((n, r), held)}
        shapes |= {"exp_avg": ((r, r), dtype), "exp_avg_sq": ((r, r), dtype)}
        if group["tracking"]:
            shapes |= {"tracked": ((r, r), work), "right_tracked": ((r, r), work)}
        compensation = group["compensation"]
        if r == n or compensation == "none":
            return shapes
        if compensation == "two_sided":
            shapes |= {"column_scale": ((n,), work), "row_scale": ((m,), work)}
        if compensation == "scalar":
            shapes["residual_sumsq"] = ((), work)
        if compensation == "blocks":
            shapes["outside_right"] = ((r,), work)
            if r < m:
                shapes |= {"outside_left": ((r,), work), "outside_both": ((), work)}
        return shapes | {"phi": ((), work)}

    # ---- refresh

    def refresh_due(self, t: int, group: dict[str, Any]) -> bool:
        return t == 1 or t % group["update_interval"] == 0

    def refresh(self, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], t: int, sources: list) -> None:
        turns, stays = [], None if t == 1 or remembers(group["tracking"], group["betas"][2]) else is_zero(gradient)
        for basis, tracked, rows in (("basis", "tracked", gradient), ("right_basis", "right_tracked", gradient.mT)):
            old = state[basis].to(gradient.dtype, copy=True)  # `switch` writes the new one over it
            if t > 1:
                leading, frame = subspace_iteration(
                    rows, old, state.get(tracked), group["betas"][2], orthonormal=state[basis].dtype == rows.dtype
                )
            elif basis == "basis":
                leading = leading_eigenvectors(rows @ rows.mT, old.shape[-1])
                frame = Reflectors.of(leading)
            else:  # G^T U = V diag(singular values): no n x n matrix is formed
                frame = Reflectors.of(rows @ leading)
                leading = frame.basis()
            switch(leading, frame, old, state[basis], group["leading"], group["switching"], sources, stays=stays)
            turn = state[basis].to(old.dtype).mT @ old
            if stays is not None:
                turn = torch.where(stays, torch.eye(turn.shape[-1], dtype=turn.dtype, device=turn.device), turn)
            turns.append(turn)
        if group["moments"] != "keep":
            _carry(state, *turns, centred=group["moments"] == "centred")

    # ---- step

    def update(self, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], t: int) -> Direction:
        beta1, beta2, beta3 = group["betas"]
        U, V = (state[key].to(gradient.dtype) for key in ("basis", "right_basis"))
        left, image = project(U, gradient), gradient @ V
        if group["tracking"]:
            average_gram(state["tracked"], left, beta3)
            average_gram(state["right_tracked"], image.mT, beta3)
        sigma = project(U, image) * (t > 1)
        omega = adam_moments(sigma, state["exp_avg"], state["exp_avg_sq"], (beta1, beta2), 0.0)
        inside = Direction(left=U @ omega, right=V.mT, scale=group["alpha"])
        if "phi" not in state:
            return inside
        if group["compensation"] == "blocks":
            C = self._blocks(gradient, state, U, V, left, image, sigma, t, beta1)
        else:
            residual = torch.baddbmm(gradient, U @ sigma, V.mT, alpha=-1)
            scaled = self._two_sided if group["compensation"] == "two_sided" else self._scalar
            C = scaled(residual, state, _rounding(gradient, state, t), beta1)
        if group["project"]:
            C.baddbmm_(U @ (project(U, C) @ V), V.mT, alpha=-1)
        eta, limited = limit_growth(C.norm(dim=(-2, -1)), state["phi"], group["gamma"])
        state["phi"].copy_(limited)
        return inside._replace(dense=C.mul_((group["alpha_c"] * eta)[:, None, None]))

    @staticmethod
    def _two_sided(residual: Tensor, state: dict[str, Tensor], rounding: Tensor, decay: float) -> Tensor:
        """[B, m, n]: diag(Q)^(-1/2) R diag(S)^(-1/2)."""
        for dim in (-1, -2):
            _clear(residual, rounding, (dim,))
        rows, columns = averaged_scales(residual.square(), state["column_scale"], state["row_scale"], decay)
        return residual.mul_(rows.sqrt().unsqueeze(-1)).mul_(columns.sqrt().unsqueeze(-2))

    @staticmethod
    def _scalar(residual: Tensor, state: dict[str, Tensor], rounding: Tensor, decay: float) -> Tensor:
        """[B, m, n]: sqrt(m n - r^2) R / sqrt(E||R||^2)."""
        (m, n), r = residual.shape[-2:], state["basis"].shape[-1]
        _clear(residual, rounding, (-2, -1))
        return residual.mul_(_inverse_root(residual, state["residual_sumsq"], (-2, -1), m * n - r * r, decay))

    @staticmethod
    def _blocks(gradient: Tensor, state: dict[str, Tensor], U: Tensor, V: Tensor, left: Tensor, image: Tensor,
                sigma: Tensor, t: int, decay: float) -> Tensor:  # fmt: skip
        """[B, m, n]: H' diag(a)^(-1/2) V^T + U diag(b)^(-1/2) L' + c^(-1/2) G'; the second alone if r = m."""
        (m, r), n = U.shape[-2:], V.shape[-2]
        L = _clear(torch.baddbmm(left, sigma, V.mT, alpha=-1), _rounding(left, state, t), (-1,))
        C = U @ (L * _inverse_root(L, state["outside_right"], (-1,), n - r, decay))
        if r == m:
            return C
        H = _clear(torch.baddbmm(image, U, sigma, alpha=-1), _rounding(image, state, t), (-2,))
        C.baddbmm_(H * _inverse_root(H, state["outside_left"], (-2,), m - r, decay), V.mT)
        G = torch.baddbmm(gradient, U, left, alpha=-1).baddbmm_(H, V.mT, alpha=-1)
        G = _clear(G, _rounding(gradient, state, t), (-2, -1))
        return C.addcmul_(G, _inverse_root(G, state["outside_both"], (-2, -1), (m - r) * (n - r), decay))

    # ---- the plain form

    @staticmethod
    def reference_update(
        G: Tensor, state: dict[str, Any], t: int, *, clock: int, source: torch.Generator, alpha: float, alpha_c: float,
        betas: tuple[float, float, float], rank: int, leading: int, update_interval: int, gamma: float, tracking: bool,
        switching: str, moments: str, compensation: str, project: bool, **_: Any,
    ) -> Tensor:  # fmt: skip
        """D of W <- W - lr D, in plain float64."""
        (m, n), (b1, b2, b3) = G.shape, betas
        b3, r = b3 if tracking else 0.0, min(rank, m)
        if not state:
            zero = G.new_zeros(r, r)
            state.update(U=G.new_zeros(m, r), V=G.new_zeros(n, r), QU=zero, QV=zero, m=zero, v=zero)
        U, V, QU, QV, m1, v = (state[key] for key in ("U", "V", "QU", "QV", "m", "v"))

        if t == 1 or clock % update_interval == 0:
            U_, V_ = U, V
            U = reference_basis(G, U_, QU, b3, leading, switching, source, first=t == 1)
            V = reference_basis(G.T, V_, QV, b3, leading, switching, source, first=t == 1)
            X, Y = U.T @ U_, V_.T @ V
            if moments == "rotate":
                m1, v = X @ m1 @ Y, X**2 @ v @ Y**2
            elif moments == "centred":
                m1, v = X @ m1 @ Y, X**2 @ (v - m1**2).clamp(min=0) @ Y**2 + (X @ m1 @ Y) ** 2

        L, H = U.T @ G, G @ V
        sigma = L @ V
        state.update(U=U, V=V, QU=b3 * QU + (1 - b3) * L @ L.T, QV=b3 * QV + (1 - b3) * H.T @ H)
        if t == 1:
            return 0 * G
        state["m"] = m1 = b1 * m1 + (1 - b1) * sigma
        state["v"] = v = b2 * v + (1 - b2) * sigma**2
        omega = torch.where(v > 0, m1 / v.sqrt(), 0)

        C = torch.zeros_like(G)
        if r < n and compensation != "none":
            C = _reference_compensation(G, U, V, sigma, state, b1, compensation)
        if project:
            C = C - U @ U.T @ C @ V @ V.T
        eta, state["phi"] = reference_limit(C.norm().item(), state.get("phi", 0.0), gamma)
        return alpha * (U @ omega @ V.T + alpha_c * eta * C)


def _carry(state: dict[str, Tensor], left: Tensor, right: Tensor, *, centred: bool) -> None:
    """Turn the moments [B, r, r] into the new bases: left = U_new^T U_old, right = V_new^T V_old, [B, r, r]."""
    first, second = (state[key].to(left.dtype) for key in ("exp_avg", "exp_avg_sq"))
    turned = left @ first @ right.mT
    if centred:
        second = (second - first.square()).clamp(min=0)
    second = left.square() @ second @ right.mT.square()
    state["exp_avg"].copy_(turned)
    state["exp_avg_sq"].copy_(second + turned.square() if centred else second)


def _rounding(whole: Tensor, state: dict[str, Tensor], t: int) -> Tensor:
    """[B, 1, 1]: the norm below which a part of `whole` is rounding; infinite at the first step, which leaves nothing
    of a residual."""
    return FLOOR[state["basis"].dtype] * whole.norm(dim=(-2, -1), keepdim=True) / (t > 1)


def _clear(part: Tensor, rounding: Tensor, dim: tuple[int, ...]) -> Tensor:
    """Set those of the k rows, columns or matrices of `part`, sums over `dim`, to 0 whose norm is below `rounding` over
    sqrt(k); returns `part`. NaN is kept."""
    norms = part.norm(dim=dim, keepdim=True)
    return part.masked_fill_(norms < rounding / norms[0].numel() ** 0.5, 0.0)


def _inverse_root(part: Tensor, mean: Tensor, dim: tuple[int, ...], count: int, decay: float) -> Tensor:
    """1 / sqrt(mean), broadcast over `part`; mean <- ema(sum of part^2 over `dim` / count) before."""
    squares = part.square().sum(dim, keepdim=True) / count
    return reciprocal(mean.view(squares.shape).lerp_(squares, 1 - decay)).sqrt()


def _reference_compensation(
    G: Tensor, U: Tensor, V: Tensor, sigma: Tensor, state: dict[str, Any], b1: float, compensation: str
) -> Tensor:
    """C of one matrix; its averages in `state` are advanced."""
    (m, n), r = G.shape, U.shape[1]

    def mean(key: str, new: Tensor) -> Tensor:
        state[key] = b1 * state.get(key, 0) + (1 - b1) * new
        return state[key]

    def above(part: Tensor, whole: Tensor, dim: tuple[int, ...]) -> Tensor:
        norms = part.norm(dim=dim, keepdim=True)
        return torch.where(norms < FLOOR[torch.float64] * whole.norm() / norms.numel() ** 0.5, 0, part)

    R, L, H = G - U @ sigma @ V.T, U.T @ G, G @ V
    if compensation == "two_sided":
        R = above(above(R, G, (1,)), G, (0,))
        s, q = reference_fixed_point(R**2, iterations=5)
        return reciprocal(mean("Q", q)).sqrt()[:, None] * R * reciprocal(mean("S", s)).sqrt()
    if compensation == "scalar":
        R = above(R, G, (0, 1))
        return (m * n - r * r) ** 0.5 * R * reciprocal(mean("p", (R**2).sum())).sqrt()
    L_, H_ = above(L - sigma @ V.T, L, (1,)), above(H - U @ sigma, H, (0,))
    C = U @ (reciprocal(mean("b", (L_**2).sum(1) / (n - r))).sqrt()[:, None] * L_)
    if r < m:
        G_ = above(G - U @ L - H_ @ V.T, G, (0, 1))
        C = C + H_ * reciprocal(mean("a", (H_**2).sum(0) / (m - r))).sqrt() @ V.T
        C = C + G_ * reciprocal(mean("c", (G_**2).sum() / ((m - r) * (n - r)))).sqrt()
    return C
