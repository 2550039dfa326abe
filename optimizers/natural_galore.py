"""Natural GaLore: GaLore on the natural gradient, by the Fisher matrix of the last s projected gradients
(arXiv 2410.16029, its one-sided form). W is oriented m x n with m <= n.

    U and R as GaLore;   g = vec(R);   H = [the last s of them, this one included, since U was renewed]
    g' = (lambda I + H H^T)^(-1) g = H (lambda I + H^T H)^(-1) e,   e = 1 at this step's column, else 0
    R' = g' as r x n;   m1 <- ema(R', b1);   v <- ema(R'^2, b2);   N = m1 / (sqrt(v) + eps)
    W <- W - lr sqrt(1 - b2^t) / (1 - b1^t) scale U N

The paper's Woodbury difference, g / lambda minus a correction, loses all digits in float32 once |g|^2 is far
above lambda; the last form takes no difference. Projections of an older basis say nothing in the new one, so
the history starts anew at a refresh.
State per matrix: 2 r n + m r + s r n + s^2 numbers: at s = 20 ten times GaLore's moments.
"""

import torch
from torch import Tensor

from . import subspace
from .checks import check_range, check_whole, options_of
from .chunk import Direction, working_dtype
from .moments import advance
from .projected import ProjectedOptimizer, bias_correction, reference_moments, reference_refresh
from .registry import register


@register("natural_galore")
class NaturalGaLore(ProjectedOptimizer):
    """GaLore preconditioned by the inverse empirical Fisher matrix of its recent projected gradients.

    Args:
        params: parameters or groups; a group with algorithm="adam" is stepped by Adam.
        lr: learning rate.
        betas: decay of the first and second moment.
        eps: added to the root of the uncorrected second moment.
        rank: columns of the basis; a matrix with fewer rows takes all of them.
        update_interval: steps between two refreshes of the basis (K).
        stagger: refresh at steps of its own for each matrix, the first apart, so that no step renews them all.
        scale: of the whole update.
        history: projected gradients the Fisher matrix is made of (s).
        damping: added to the Fisher matrix's diagonal (lambda).
        weight_decay: W <- W - lr weight_decay W, after the update.
    """

    refreshed = ("basis", "gram")
    last_layer = "method"
    lie_with_gradient = ()  # the history is of rows

    def __init__(
        self,
        params,
        lr: float = 0.01,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        rank: int = 128,
        update_interval: int = 200,
        stagger: bool = False,
        scale: float = 0.25,
        history: int = 20,
        damping: float = 1e-3,
        weight_decay: float = 0.0,
    ):
        super().__init__(params, options_of(locals()))

    @classmethod
    def check_options(cls, options: dict) -> None:
        super().check_options(options)
        check_whole("history", options["history"], low=1)
        check_range("damping", options["damping"], low=0.0, open_low=True)

    def state_shapes(self, m: int, n: int, dtype: torch.dtype, group: dict) -> dict:
        r, s = min(group["rank"], m), group["history"]
        return {
            **super().state_shapes(m, n, dtype, group),
            "history": ((s, r * n), dtype),
            "gram": ((s, s), working_dtype(dtype)),
        }

    def update(self, gradient: Tensor, state: dict[str, Tensor], group: dict, t: int) -> Direction:
        basis = state["basis"].to(gradient.dtype)
        natural = self._natural(subspace.project(basis, gradient, state["m1"]), state, group, t)
        normalized = advance(natural, state, group["betas"], group["eps"]).normalized
        return Direction(left=basis, right=normalized, scale=group["scale"] * bias_correction(t, group["betas"]))

    def refresh(self, gradient: Tensor, state: dict[str, Tensor], group: dict, t: int, sources: list) -> None:
        super().refresh(gradient, state, group, t, sources)
        state["gram"].zero_()

    @staticmethod
    def _natural(sigma: Tensor, state: dict[str, Tensor], group: dict, t: int) -> Tensor:
        """[B, r, n]: H (lambda I + H^T H)^(-1) e. The history is a ring whose place follows from t, and one row of
        H^T H is new at each step. What an older basis left in the ring is known by its products, which are 0."""
        now = (t - 1) % group["history"]
        state["history"][:, now].copy_(sigma.flatten(1))
        past, gram = state["history"].to(sigma.dtype), state["gram"]
        valid = gram.diagonal(dim1=-2, dim2=-1) > 0
        valid[:, now] = True
        products = torch.where(valid, (past @ past[:, now].unsqueeze(-1)).squeeze(-1), 0.0)
        gram[:, now].copy_(products)
        gram[:, :, now].copy_(products)

        # s x s, in float64. The products carry the rounding of gram's precision: with less damping than that,
        # nearly parallel gradients would make an indefinite matrix.
        damped = gram.to(torch.float64, copy=True)
        diagonal = damped.diagonal(dim1=-2, dim2=-1)
        rounding = subspace.ROUNDING * torch.finfo(gram.dtype).eps * diagonal.sum(-1, keepdim=True)
        diagonal.add_(group["damping"] + rounding)
        unit = torch.eye(group["history"], dtype=damped.dtype, device=damped.device)[:, now : now + 1]
        weights = torch.cholesky_solve(unit, torch.linalg.cholesky_ex(damped).L).to(sigma.dtype)
        return (weights.mT @ past).view_as(sigma)

    @staticmethod
    def reference_step(weight: Tensor, gradient: Tensor, state: dict, *, t: int, index: int, lr: float, betas,
                       eps: float, rank: int, update_interval: int, stagger: bool, scale: float, history: int,
                       damping: float, weight_decay: float, **_) -> Tensor:  # fmt: skip
        """One step in plain float64: returns the new weight; `state` is {} before t = 1."""
        right = weight.shape[0] >= weight.shape[1]
        W, G = (weight.T, gradient.T) if right else (weight, gradient)
        if (subspace.refresh_clock(t, index, stagger) - 1) % update_interval == 0:
            reference_refresh(state, torch.linalg.svd(G, full_matrices=False).U[:, :rank])
            state["H"] = []
        U = state["U"]
        R = U.T @ G
        state["H"] = [*state["H"], R.flatten()][-history:]
        H = torch.stack(state["H"], 1)
        unit = torch.eye(H.shape[1], dtype=H.dtype)
        natural = H @ torch.linalg.solve(damping * unit + H.T @ H, unit[:, -1])
        N = reference_moments(natural.view_as(R), state, betas, eps)
        W = W - lr * bias_correction(t, betas) * scale * U @ N
        W = W - lr * weight_decay * W
        return W.T if right else W
