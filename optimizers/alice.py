"""Alice and Alice-0: low-rank Eigen-Adam with tracking, switching and compensation
(Alg. 2, 3, 4 and 10 of arXiv 2502.07752). W is oriented m x n with m <= n.

    if t == 1 or t mod K == 0:
        A = b3 U Qt U^T + (1 - b3) G G^T
        t == 1: U' = the r leading eigenvectors of G G^T
        else:   Z = qr(A U);  U' = Z eigenvectors(Z^T A Z), descending        # one step of subspace iteration
        U = [ first l columns of U' | r - l columns drawn without replacement from an orthonormal basis of
              the complement of all r columns of U' ]
    sigma = U^T G;   Qt <- b3 Qt + (1 - b3) sigma sigma^T
    m <- ema(sigma, b1);   v <- ema(sigma^2, b2);   omega = m / sqrt(v)     # no bias correction
    p <- ema(colsum((G - U sigma)^2), b1);   C = sqrt(m - r) (G - U sigma) diag(p)^(-1/2)
    eta = gamma / max(||C|| / phi, gamma) (1 while phi = 0);   phi <- eta ||C||
    W <- W - lr alpha (U omega + alpha_c eta C)

Alice-0 is Alice without tracking: b3 = 0, and no Qt. Where the paper is misprinted: A takes the old U, and
subspace iteration returns Z times the eigenvectors. U_0 = 0 spans nothing, hence the first basis.
State per matrix: 2 r n + m r + n + r^2 + 1 numbers (Qt in float32 at least).
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
    WeightDecay,
)  # fmt: skip
from .functional.limiter import limit_growth, reference_limit
from .functional.moments import Moments, adam_moments, adam_moments_with_sumsq, column_sumsq
from .functional.numerics import above_rounding, reciprocal, working_dtype
from .functional.residual import corrected, residual_scales, residual_sumsq
from .functional.scaling import averaged_scales, reference_fixed_point, scaled_norm
from .functional.subspace import Reflectors, average_gram, is_zero, leading_eigenvectors, project, unit_gaussian_columns
from .functional.switching import reference_basis, remembers, subspace_iteration, switch

Switching = Annotated[
    Literal["complement", "none", "gaussian", "gaussian_mix", "full_basis"],
    Option(
        "source of the drawn columns: the complement of the r leading eigenvectors; none (all r are kept); unit "
        "Gaussians for all r columns, or for the drawn ones (both with compensation=none); the complement of the kept "
        "columns"
    ),
]
Compensation = Annotated[
    Literal["optimal", "none", "fira", "fira_plus", "two_sided"],
    Option(
        "the term made of the residual: by Theorem 5.1; none; Fira's; Fira's at the norm of U omega, times alpha_c; "
        "the residual with its rows and columns scaled as RACS scales a gradient (not in the paper)"
    ),
]


@register("alice")
@register("alice_0", tracking=False)
class Alice(MatrixOptimizer):
    """Low-rank Eigen-Adam with a tracked, switched basis and a compensated complement.

    A matrix whose shorter side is at most `rank` has a whole basis, and no compensation.
    """

    traits = Traits(last_layer="method", awaits_gradient=True)

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
        compensation: Compensation = "optimal",
        basis_dtype: BasisDtype = "parameter",
        weight_decay: WeightDecay = 0.0,
        seed: Seed = 0,
    ):
        super().__init__(
            params, lr=lr, alpha=alpha, alpha_c=alpha_c, betas=betas, rank=rank, leading=leading,
            update_interval=update_interval, stagger=stagger, gamma=gamma, tracking=tracking, switching=switching,
            compensation=compensation, basis_dtype=basis_dtype, weight_decay=weight_decay, seed=seed,
        )  # fmt: skip

    @classmethod
    def check_options(cls, options: dict[str, Any]) -> None:
        if options["leading"] > options["rank"]:
            raise ValueError(f"leading must not exceed rank {options['rank']}, got {options['leading']}")
        if options["switching"].startswith("gaussian") and options["compensation"] != "none":
            raise ValueError(
                f"switching={options['switching']} gives a basis that is not orthonormal and needs compensation=none, "
                f"got {options['compensation']!r}"
            )

    def state_shapes(self, m: int, n: int, dtype: torch.dtype, group: dict[str, Any]) -> dict:
        r, work, compensation = min(group["rank"], m), working_dtype(dtype), group["compensation"]
        shapes: dict = {
            "basis": ((m, r), dtype if group["basis_dtype"] == "parameter" else work),
            "exp_avg": ((r, n), dtype),
            "exp_avg_sq": ((r, n), dtype),
        }
        if group["tracking"]:
            shapes["tracked"] = ((r, r), work)
        if r == m:
            return shapes
        if compensation == "optimal":
            shapes["residual_sumsq"] = ((n,), work)
        if compensation == "two_sided":
            shapes |= {"column_scale": ((n,), work), "row_scale": ((m,), work)}
        if compensation in ("optimal", "two_sided", "fira"):
            shapes["phi"] = ((), work)
        return shapes

    # ---- refresh

    def refresh_due(self, t: int, group: dict[str, Any]) -> bool:
        return t == 1 or t % group["update_interval"] == 0

    def refresh(self, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], t: int, sources: list) -> None:
        old = state["basis"].to(gradient.dtype)
        m, r = old.shape[-2:]
        if group["switching"] == "gaussian":
            new = torch.stack([unit_gaussian_columns(m, r, source) for source in sources])
            state["basis"].copy_(new)
            return
        if t == 1:
            leading = leading_eigenvectors(gradient @ gradient.mT, r)
            frame = Reflectors.of(leading)
        else:
            orthonormal = state["basis"].dtype == gradient.dtype and not group["switching"].startswith("gaussian")
            leading, frame = subspace_iteration(
                gradient, old, state.get("tracked"), group["betas"][2], orthonormal=orthonormal
            )
        stays = None if t == 1 or remembers(group["tracking"], group["betas"][2]) else is_zero(gradient)
        switch(leading, frame, old, state["basis"], group["leading"], group["switching"], sources, stays=stays)

    # ---- step

    def update(self, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], t: int) -> Direction:
        beta1, beta2, beta3 = group["betas"]
        compensation = group["compensation"]
        basis = state["basis"].to(gradient.dtype)
        m, r = basis.shape[-2:]
        sigma = project(basis, gradient)
        if group["tracking"]:
            average_gram(state["tracked"], sigma, beta3)
        averages = (state["exp_avg"], state["exp_avg_sq"])
        if r == m or compensation == "none":
            omega = adam_moments(sigma, *averages, (beta1, beta2), 0.0)
            return Direction(left=basis, right=omega, scale=group["alpha"])
        moments = adam_moments_with_sumsq(sigma, *averages, (beta1, beta2), 0.0)
        omega = moments.normalized
        if compensation == "two_sided":
            residual = self._two_sided(gradient, state, group, basis, sigma, moments)
            return Direction(left=basis, right=omega, dense=residual, scale=group["alpha"])
        scales = self._fira_plus if compensation == "fira_plus" else self._column_scales
        columns = scales(gradient, state, group, basis, sigma, moments).unsqueeze(-2)
        # U omega + D R with R = G - U sigma is G D + U (omega - sigma D): the residual is never formed.
        return Direction(
            columns=columns, left=basis, right=omega.addcmul_(sigma, columns, value=-1), scale=group["alpha"]
        )

    @staticmethod
    def _column_scales(gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], basis: Tensor, sigma: Tensor,
                       moments: Moments) -> Tensor:  # fmt: skip
        """[B, n]: the factors of the residual's columns, compensation "optimal" or "fira"."""
        m, r = basis.shape[-2:]
        optimal = group["compensation"] == "optimal"
        size, strength = ((m - r) ** 0.5, group["alpha_c"]) if optimal else (1.0, 1.0)
        total, inside, share = corrected(
            column_sumsq(gradient), basis, sigma, moments.sigma_sumsq, 1.0, rounded=state["basis"].dtype != basis.dtype
        )
        return residual_scales(
            total, inside, moments.normalized_sumsq, state["phi"], group["gamma"], share=share, size=size,
            strength=size * strength, average=state.get("residual_sumsq"), decay=group["betas"][0],
        )  # fmt: skip

    @staticmethod
    def _fira_plus(gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], basis: Tensor, sigma: Tensor,
                   moments: Moments) -> Tensor:  # fmt: skip
        """[B, n]: the same for "fira_plus". It sets the norm outright: a limiter before it would change nothing."""
        total, rounded = column_sumsq(gradient), state["basis"].dtype != basis.dtype
        residual = residual_sumsq(total, basis, sigma, moments.sigma_sumsq, rounded=rounded)
        squares = moments.normalized_sumsq * reciprocal(moments.sigma_sumsq)
        norm = (residual * squares).sum(-1).sqrt()
        eta = group["alpha_c"] * (basis @ moments.normalized).norm(dim=(-2, -1)) * reciprocal(norm)
        return eta.unsqueeze(-1) * squares.sqrt()

    @staticmethod
    def _two_sided(gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], basis: Tensor, sigma: Tensor,
                   moments: Moments) -> Tensor:  # fmt: skip
        """[B, m, n]: alpha_c eta diag(Q)^(-1/2) R diag(S)^(-1/2), Q and S of the residual R as in RACS."""
        total, rounded = column_sumsq(gradient), state["basis"].dtype != basis.dtype
        outside = residual_sumsq(total, basis, sigma, moments.sigma_sumsq, rounded=rounded)
        residual = torch.where((outside > 0).unsqueeze(-2), torch.baddbmm(gradient, basis, sigma, alpha=-1), 0.0)
        squares = residual.square()
        rows, columns = averaged_scales(squares, state["column_scale"], state["row_scale"], group["betas"][0])
        eta, limited = limit_growth(scaled_norm(squares, rows, columns), state["phi"], group["gamma"])
        state["phi"].copy_(limited)
        rows = rows.sqrt() * (group["alpha_c"] * eta).unsqueeze(-1)
        return residual * rows.unsqueeze(-1) * columns.sqrt().unsqueeze(-2)

    # ---- the plain form

    @staticmethod
    def reference_update(
        G: Tensor, state: dict[str, Any], t: int, *, clock: int, source: torch.Generator, alpha: float, alpha_c: float,
        betas: tuple[float, float, float], rank: int, leading: int, update_interval: int, gamma: float, tracking: bool,
        switching: str, compensation: str, **_: Any,
    ) -> Tensor:  # fmt: skip
        """D of W <- W - lr D, in plain float64."""
        m, (b1, b2, b3) = G.shape[0], betas
        b3 = b3 if tracking else 0.0
        r = min(rank, m)
        U = state.get("U", G.new_zeros(m, r))
        Qt = state.get("Qt", G.new_zeros(r, r))

        if t == 1 or clock % update_interval == 0:
            U = reference_basis(G, U, Qt, b3, leading, switching, source, first=t == 1)
        state["U"] = U

        sigma = U.T @ G
        state["Qt"] = b3 * Qt + (1 - b3) * sigma @ sigma.T
        m1 = state["m"] = b1 * state.get("m", 0) + (1 - b1) * sigma
        v = state["v"] = b2 * state.get("v", 0) + (1 - b2) * sigma**2
        omega = torch.where(v > 0, m1 / v.sqrt(), 0)

        R = G - U @ sigma
        R = torch.where(above_rounding((R**2).sum(0), (G**2).sum(0)) > 0, R, 0)
        C = torch.zeros_like(G)
        if r < m and compensation == "optimal":
            p = state["p"] = b1 * state.get("p", 0) + (1 - b1) * (R**2).sum(0)
            C = (m - r) ** 0.5 * torch.where(p > 0, R / p.sqrt(), 0)
        elif r < m and compensation in ("fira", "fira_plus"):
            ratio = omega.norm(dim=0) / sigma.norm(dim=0)
            C = R * torch.where(sigma.norm(dim=0) > 0, ratio, 0)
        elif r < m and compensation == "two_sided":
            s, q = reference_fixed_point(R**2, iterations=5)
            S = state["S"] = b1 * state.get("S", 0) + (1 - b1) * s
            Q = state["Q"] = b1 * state.get("Q", 0) + (1 - b1) * q
            C = reciprocal(Q).sqrt()[:, None] * R * reciprocal(S).sqrt()

        if compensation == "fira_plus":
            C = alpha_c * C * (U @ omega).norm() / C.norm() if C.any() else C
        else:
            eta, state["phi"] = reference_limit(C.norm().item(), state.get("phi", 0.0), gamma)
            C = (1.0 if compensation == "fira" else alpha_c) * eta * C
        return alpha * (U @ omega + C)
