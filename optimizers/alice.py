"""Alice and Alice-0: low-rank Eigen-Adam with tracking, switching and compensation
(Alg. 2, 3, 4 and 10 of arXiv 2502.07752). W is oriented m x n with m <= n.

    if t == 1 or t mod K == 0:
        A = b3 U Qt U^T + (1 - b3) G G^T
        t == 1: U' = the r leading eigenvectors of G G^T
        else:   Z = qr(A U);  U' = Z eigenvectors(Z^T A Z), descending        # one step of subspace iteration
        U = [ first l columns of U' | r - l columns drawn without replacement from an orthonormal basis of
              the complement of all r columns of U' ]
    sigma = U^T G;   Qt <- b3 Qt + (1 - b3) sigma sigma^T
    m1 <- ema(sigma, b1);   v <- ema(sigma^2, b2);   omega = m1 / sqrt(v)     # no bias correction
    p <- ema(colsum((G - U sigma)^2), b1);   C = sqrt(m - r) (G - U sigma) diag(p)^(-1/2)
    eta = gamma / max(||C|| / phi, gamma) (1 while phi = 0);   phi <- eta ||C||
    W <- W - lr alpha (U omega + alpha_c eta C)

Alice-0 is Alice without tracking: b3 = 0, and no Qt. Where the paper is misprinted: A takes the old U, and
subspace iteration returns Z times the eigenvectors. U_0 = 0 spans nothing, hence the first basis.
State per matrix: 2 r n + m r + n + r^2 + 1 numbers (Qt always in float32).
"""

import torch
from torch import Tensor

from . import subspace
from .checks import check_betas, check_choice, check_range, check_whole, options_of
from .chunk import Direction, working_dtype
from .limiter import limit_growth, reference_limit
from .matrix import MatrixOptimizer
from .moments import Moments, advance
from .registry import register
from .residual import above_rounding, column_scales, corrected, residual_power
from .scaling import fixed_point, reciprocal, reference_fixed_point, scaled_norm

SWITCHING = ("complement", "none", "gaussian", "gaussian_mix", "full_basis")
COMPENSATION = ("optimal", "none", "fira", "fira_plus", "two_sided")


@register("alice")
@register("alice_0", tracking=False)
class Alice(MatrixOptimizer):
    """Low-rank Eigen-Adam with a tracked, switched basis and a compensated complement.

    Args:
        params: parameters or groups; a group with algorithm="adam" is stepped by Adam.
        lr: learning rate.
        alpha: scale of the whole update.
        alpha_c: scale of the compensation within it.
        betas: decay of first moment (and of the compensation's average), second moment, and tracking.
        rank: columns of the basis; a matrix with fewer rows takes all of them, and no compensation.
        leading: eigenvectors kept at a switch; the other rank - leading columns are drawn anew.
        update_interval: steps between two refreshes of the basis (K).
        stagger: refresh at steps of its own for each matrix, the first apart, so that no step renews them all.
        gamma: largest growth of the compensation's norm from one step to the next.
        tracking: average U^T G G^T U over time (Alice); without it the current gradient stands alone (Alice-0).
        switching: where the drawn columns come from: "complement" of the r leading eigenvectors; "none" keeps
            all r; "gaussian": all r are unit Gaussian; "gaussian_mix": the drawn ones are; "full_basis": from
            everything but the kept ones. The Gaussian ones are not orthonormal: compensation="none" only.
        compensation: "optimal" (Theorem 5.1), "none", "fira", "fira_plus" (Fira's term at the norm of U omega,
            times alpha_c), "two_sided" (the residual scaled by rows and columns as RACS scales a gradient;
            not in the paper).
        basis_dtype: "parameter" holds the basis in the parameter's dtype, "float32" keeps it whole.
        weight_decay: W <- W - lr weight_decay W, after the update.
        seed: of the draws, with the step and the parameter's position.
    """

    last_layer = "method"
    lie_with_gradient = ("m1", "v")

    def __init__(
        self,
        params,
        lr: float = 0.02,
        *,
        alpha: float = 0.3,
        alpha_c: float = 0.4,
        betas: tuple[float, float, float] = (0.9, 0.9, 0.999),
        rank: int = 128,
        leading: int = 40,
        update_interval: int = 200,
        stagger: bool = False,
        gamma: float = 1.01,
        tracking: bool = True,
        switching: str = "complement",
        compensation: str = "optimal",
        basis_dtype: str = "parameter",
        weight_decay: float = 0.0,
        seed: int = 0,
    ):
        super().__init__(params, options_of(locals()))

    @classmethod
    def check_options(cls, options: dict) -> None:
        super().check_options(options)
        check_range("alpha", options["alpha"], low=0.0)
        check_range("alpha_c", options["alpha_c"], low=0.0)
        check_betas(options["betas"], 3)
        check_whole("rank", options["rank"], low=1)
        check_whole("leading", options["leading"], low=0)
        if options["leading"] > options["rank"]:
            raise ValueError(f"leading must not exceed rank {options['rank']}, got {options['leading']}")
        check_whole("update_interval", options["update_interval"], low=1)
        check_range("gamma", options["gamma"], low=1.0)
        check_choice("switching", options["switching"], SWITCHING)
        check_choice("compensation", options["compensation"], COMPENSATION)
        if options["switching"].startswith("gaussian") and options["compensation"] != "none":
            raise ValueError(
                f"switching={options['switching']} gives a basis that is not orthonormal: it goes with "
                f"compensation=none, got {options['compensation']!r}"
            )
        check_choice("basis_dtype", options["basis_dtype"], ("parameter", "float32"))

    def state_shapes(self, m: int, n: int, dtype: torch.dtype, group: dict) -> dict:
        r, work = min(group["rank"], m), working_dtype(dtype)
        shapes = {
            "basis": ((m, r), dtype if group["basis_dtype"] == "parameter" else work),
            "m1": ((r, n), dtype),
            "v": ((r, n), dtype),
        }
        if group["tracking"]:
            shapes["tracked"] = ((r, r), work)
        if r < m and group["compensation"] in ("optimal", "two_sided"):
            shapes["column_power"] = ((n,), work)
        if r < m and group["compensation"] == "two_sided":
            shapes["row_power"] = ((m,), work)
        if r < m and group["compensation"] in ("optimal", "two_sided", "fira"):
            shapes["phi"] = ((), work)
        return shapes

    # ---- refresh

    def refresh_due(self, t: int, group: dict) -> bool:
        return t == 1 or t % group["update_interval"] == 0

    def refresh(self, gradient: Tensor, state: dict[str, Tensor], group: dict, t: int, sources: list) -> None:
        old = state["basis"].to(gradient.dtype)
        m, r = old.shape[-2:]
        if group["switching"] == "gaussian":
            new = torch.stack([subspace.unit_gaussian_columns(m, r, source) for source in sources])
            state["basis"].copy_(new)
            return
        if t == 1:
            leading = subspace.leading_eigenvectors(gradient @ gradient.mT, r)
            frame = subspace.Reflectors.of(leading)
        else:
            orthonormal = state["basis"].dtype == gradient.dtype and not group["switching"].startswith("gaussian")
            leading, frame = self._subspace_iteration(
                gradient, old, state.get("tracked"), group["betas"][2], orthonormal=orthonormal
            )
        leading = subspace.keep_signs(leading, old)
        drawn = _drawn_columns(leading, frame, min(group["leading"], r), group["switching"], sources)
        torch.cat([leading[..., : r - drawn.shape[-1]], drawn], -1, out=state["basis"])

    @staticmethod
    def _subspace_iteration(
        gradient: Tensor, old: Tensor, tracked: Tensor | None, decay: float, *, orthonormal: bool
    ) -> tuple[Tensor, subspace.Reflectors]:
        """Z eigenvectors(Z^T A Z) for Z = qr(A U), A = b3 U Qt U^T + (1 - b3) G G^T, without A (m x m), and that QR;
        `orthonormal`: whether U^T U is the identity to the precision of the gradient."""
        moved = gradient @ (old.mT @ gradient).mT
        if tracked is not None:
            turned = tracked if orthonormal else tracked @ (old.mT @ old)
            moved = torch.lerp(old @ turned, moved, 1 - decay)
        frame = subspace.Reflectors.of(moved)
        span = frame.basis()
        sigma = span.mT @ gradient
        inner = sigma @ sigma.mT
        if tracked is not None:
            shift = span.mT @ old
            inner = torch.lerp(shift @ tracked @ shift.mT, inner, 1 - decay)
        return span @ subspace.leading_eigenvectors(inner, inner.shape[-1]), frame

    # ---- step

    def update(self, gradient: Tensor, state: dict[str, Tensor], group: dict, t: int) -> Direction:
        beta1, beta2, beta3 = group["betas"]
        compensation = group["compensation"]
        basis = state["basis"].to(gradient.dtype)
        m, r = basis.shape[-2:]
        sigma = subspace.project(basis, gradient, state["m1"])
        if group["tracking"]:
            subspace.average_gram(state["tracked"], sigma, beta3)
        compensated = r < m and compensation != "none"
        by_ratio = compensated and compensation.startswith("fira")
        moments = advance(sigma, state, (beta1, beta2), 0.0, inside=compensated, power=by_ratio)
        omega = moments.normalized
        if not compensated:
            return Direction(left=basis, right=omega, scale=group["alpha"])
        if compensation == "two_sided":
            residual = self._two_sided(gradient, state, group, basis, sigma, moments)
            return Direction(left=basis, right=omega, dense=residual, scale=group["alpha"])
        # U omega + D R with R = G - U sigma is G D + U (omega - sigma D): the residual is never formed.
        columns = self._column_scales(gradient, state, group, basis, sigma, moments).unsqueeze(-2)
        right = omega.addcmul_(sigma, columns, value=-1)
        return Direction(columns=columns, left=basis, right=right, scale=group["alpha"])

    def _column_scales(self, gradient, state, group, basis, sigma, moments: Moments) -> Tensor:
        """[B, n]: what multiplies each column of the residual ("optimal", "fira", "fira_plus")."""
        total = self.column_power(gradient)
        if group["compensation"] == "fira_plus":
            # The norm is set outright: a limiter before it would change nothing.
            residual = residual_power(total, state["basis"], sigma, moments.inside)
            square = moments.power * reciprocal(moments.inside)
            norm = (residual * square).sum(-1).sqrt()
            eta = group["alpha_c"] * (basis @ moments.normalized).norm(dim=(-2, -1)) * reciprocal(norm)
            return eta.unsqueeze(-1) * square.sqrt()
        m, r = basis.shape[-2:]
        optimal = group["compensation"] == "optimal"
        size, strength = ((m - r) ** 0.5, group["alpha_c"]) if optimal else (1.0, 1.0)
        total, share = corrected(total, state["basis"], sigma, moments.inside, 1.0)
        return column_scales(
            total, moments.inside, moments.power, state["phi"], group["gamma"], share=share, size=size,
            strength=size * strength, average=state.get("column_power"), decay=group["betas"][0],
        )  # fmt: skip

    def _two_sided(self, gradient, state, group, basis, sigma, moments: Moments) -> Tensor:
        """[B, m, n]: alpha_c eta diag(Q)^(-1/2) R diag(S)^(-1/2), Q and S of the residual R as in RACS."""
        left = residual_power(self.column_power(gradient), state["basis"], sigma, moments.inside)
        residual = torch.where((left > 0).unsqueeze(-2), torch.baddbmm(gradient, basis, sigma, alpha=-1), 0.0)
        power = residual.square()
        columns, rows = fixed_point(power, iterations=5)
        weight = 1 - group["betas"][0]
        columns = reciprocal(state["column_power"].lerp_(columns, weight))
        rows = reciprocal(state["row_power"].lerp_(rows, weight))
        eta, limited = limit_growth(scaled_norm(power, rows, columns), state["phi"], group["gamma"])
        state["phi"].copy_(limited)
        rows = rows.sqrt_().mul_((group["alpha_c"] * eta).unsqueeze(-1)).unsqueeze(-1)
        return residual.mul_(rows).mul_(columns.sqrt_().unsqueeze(-2))

    # ---- the plain form

    @staticmethod
    def reference_step(weight: Tensor, gradient: Tensor, state: dict, *, t: int, index: int, lr: float,
                       alpha: float, alpha_c: float, betas, rank: int, leading: int, update_interval: int,
                       stagger: bool, gamma: float, tracking: bool, switching: str, compensation: str,
                       weight_decay: float, seed: int, **_) -> Tensor:  # fmt: skip
        """One step in plain float64: returns the new weight; `state` is {} before t = 1."""
        tall = weight.shape[0] > weight.shape[1]
        W, G = (weight.T, gradient.T) if tall else (weight, gradient)
        m, (b1, b2, b3) = G.shape[0], betas
        b3 = b3 if tracking else 0.0
        r = min(rank, m)
        U = state.get("U", G.new_zeros(m, r))
        Qt = state.get("Qt", G.new_zeros(r, r))

        if t == 1 or subspace.refresh_clock(t, index, stagger) % update_interval == 0:
            source = subspace.generator(seed, t, index)
            if t == 1:
                new = torch.linalg.eigh(G @ G.T).eigenvectors.flip(1)[:, :r]
                frame = torch.linalg.qr(new, mode="complete").Q
            else:
                A = b3 * U @ Qt @ U.T + (1 - b3) * G @ G.T
                frame = torch.linalg.qr(A @ U, mode="complete").Q
                Z = frame[:, :r]
                new = Z @ torch.linalg.eigh(Z.T @ A @ Z).eigenvectors.flip(1)
            new = torch.where((new * U).sum(0) < 0, -new, new)
            U = _reference_switch(new, frame[:, r:], min(leading, r), switching, source)
        state["U"] = U

        sigma = U.T @ G
        state["Qt"] = b3 * Qt + (1 - b3) * sigma @ sigma.T
        m1 = state["m1"] = b1 * state.get("m1", 0) + (1 - b1) * sigma
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
        W = W - lr * alpha * (U @ omega + C)
        W = W - lr * weight_decay * W
        return W.T if tall else W


def _drawn_columns(
    leading: Tensor, frame: subspace.Reflectors, kept: int, switching: str, sources: list[torch.Generator]
) -> Tensor:
    """[B, m, up to r - kept]: what replaces the last columns of `leading` [B, m, r], drawn from each matrix's own
    source. Where the complement is too small to draw so many from, the next leading columns stay. `frame` is a QR of
    any columns with the span of `leading`."""
    m, r = leading.shape[-2:]
    if switching == "gaussian_mix":
        return torch.stack([subspace.unit_gaussian_columns(m, r - kept, source) for source in sources]).to(leading)
    if switching == "full_basis":
        rest = torch.arange(m - r).expand(len(sources), -1)
        candidates = torch.cat([leading[..., kept:], frame.complement(rest)], -1)
        chosen = _draw(m - kept, r - kept, sources).unsqueeze(-2).expand(-1, m, -1)
        return candidates.gather(-1, chosen.to(leading.device))
    count = min(r - kept, m - r) if switching == "complement" else 0
    return frame.complement(_draw(m - r, count, sources)) if count else leading[..., r:]


def _draw(available: int, count: int, sources: list[torch.Generator]) -> Tensor:
    """[B, count]: for each matrix, `count` of range(available) without replacement."""
    return torch.stack([torch.randperm(available, generator=source)[:count] for source in sources])


def _reference_switch(
    leading: Tensor, complement: Tensor, kept: int, switching: str, source: torch.Generator
) -> Tensor:
    """The new basis of one matrix from `leading` [m, r] and a whole basis of its complement [m, m - r]."""
    m, r = leading.shape
    if switching == "gaussian":
        return subspace.unit_gaussian_columns(m, r, source)
    if switching == "gaussian_mix":
        return torch.cat([leading[:, :kept], subspace.unit_gaussian_columns(m, r - kept, source)], 1)
    if switching == "none":
        return leading
    if switching == "full_basis":
        others = torch.cat([leading[:, kept:], complement], 1)
        return torch.cat([leading[:, :kept], others[:, torch.randperm(m - kept, generator=source)[: r - kept]]], 1)
    kept = max(kept, r - (m - r))
    return torch.cat([leading[:, :kept], complement[:, torch.randperm(m - r, generator=source)[: r - kept]]], 1)
