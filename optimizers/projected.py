"""What GaLore and its descendants share: a basis renewed now and then, and Adam's moments inside it.

    t = 1, K + 1, 2 K + 1, ...:   U = the r leading left singular vectors of G
    R = U^T G;   m1 <- ema(R, b1);   v <- ema(R^2, b2);   N = m1 / (sqrt(v) + eps)
    step = lr sqrt(1 - b2^t) / (1 - b1^t)

eps is added to the root of the uncorrected v, and moments are neither rotated nor reset when the basis
changes: the official packages' habits. They put the basis of a tall or square matrix on its right side,
which is the left basis of its transpose: here W and G are always m x n with m <= n, and U is m x r.
"""

import torch
from torch import Tensor

from . import subspace
from .checks import check_betas, check_range, check_whole
from .matrix import MatrixOptimizer
from .moments import column_sums

RATIO_EPS = 1e-8  # added to the norms that Fira and APOLLO divide by, as in their packages


class ProjectedOptimizer(MatrixOptimizer):
    """Refresh, checks and state of the methods whose moments live in a subspace of the gradient's columns."""

    transpose_square = True
    lie_with_gradient = ("m1", "v")

    @classmethod
    def check_options(cls, options: dict) -> None:
        super().check_options(options)
        check_betas(options["betas"], 2)
        check_range("eps", options["eps"], low=0.0)
        check_whole("rank", options["rank"], low=1)
        check_whole("update_interval", options["update_interval"], low=1)
        check_range("scale", options["scale"], low=0.0, open_low=True)

    def state_shapes(self, m: int, n: int, dtype: torch.dtype, group: dict) -> dict:
        r = min(group["rank"], m)
        return {"basis": ((m, r), dtype), "m1": ((r, n), dtype), "v": ((r, n), dtype)}

    def refresh_due(self, t: int, group: dict) -> bool:
        return (t - 1) % group["update_interval"] == 0

    def refresh(self, gradient: Tensor, state: dict[str, Tensor], group: dict, t: int, sources: list) -> None:
        renew_basis(state, subspace.leading_left_singular_vectors(gradient, state["basis"].shape[-1]))

    def projected(self, basis: Tensor, gradient: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """U^T G [B, r, n] of a basis [B, m, r], lying in memory as `like` does, and the column power of G."""
        if basis.shape[-1] == 1 and (sums := column_sums(gradient, basis)):
            power, sigma = sums
            return sigma, power
        return subspace.project(basis, gradient, like), self.column_power(gradient)


def renew_basis(state: dict[str, Tensor], new: Tensor) -> None:
    """Put `new` [B, m, r] in the place of the basis, each column signed like the one it replaces."""
    state["basis"].copy_(subspace.keep_signs(new, state["basis"].to(new.dtype)))


def bias_correction(t: int, betas: tuple[float, float]) -> float:
    """sqrt(1 - b2^t) / (1 - b1^t), the factor of N at step t (from 1)."""
    beta1, beta2 = betas
    return (1 - beta2**t) ** 0.5 / (1 - beta1**t)


# ---- what the plain forms share


def reference_refresh(state: dict, new: Tensor) -> None:
    """Put `new` [m, r] in the place of state["U"], each column signed like the one it replaces."""
    if "U" in state:
        new = torch.where((new * state["U"]).sum(0) < 0, -new, new)
    state["U"] = new


def reference_moments(R: Tensor, state: dict, betas, eps: float) -> Tensor:
    """N [r, n] for one projected gradient R, in plain float64."""
    b1, b2 = betas
    m1 = state["m1"] = b1 * state.get("m1", 0) + (1 - b1) * R
    v = state["v"] = b2 * state.get("v", 0) + (1 - b2) * R**2
    return m1 / (v.sqrt() + eps)
