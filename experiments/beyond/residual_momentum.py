"""AliceSOAP with momentum in its compensation: C of an average of the residual (line 8 of results/beyond/README.md).

    omega as in AliceSOAP;   R = G - U U^T G V V^T, 0 at t == 1;   E <- b1 E + (1 - b1) R
    C: E with RACS's scales of E, averaged by b1;   eta: the limiter on ||C||
    W <- W - lr alpha (U omega V^T + alpha_c eta C)

State per m x n matrix: AliceSOAP's and m n numbers.
"""

from typing import Any

import torch
from torch import Tensor

from optimizers import AliceSOAP
from optimizers.engine import Direction, register
from optimizers.functional.limiter import limit_growth, reference_limit
from optimizers.functional.numerics import average, reciprocal, working_dtype
from optimizers.functional.scaling import averaged_scales, reference_fixed_point
from optimizers.functional.subspace import project


@register("alice_soap_residual_momentum", compensation="none")
class ResidualMomentum(AliceSOAP):
    """AliceSOAP without its own compensation, and one that has momentum."""

    def state_shapes(self, m: int, n: int, dtype: torch.dtype, group: dict[str, Any]) -> dict:
        work = working_dtype(dtype)
        shapes = super().state_shapes(m, n, dtype, group)
        if shapes["basis"][0][1] == n:  # whole bases leave nothing
            return shapes
        scales = {"column_scale": ((n,), work), "row_scale": ((m,), work), "limit": ((), work)}
        return shapes | {"residual_avg": ((m, n), dtype)} | scales

    def update(self, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], t: int) -> Direction:
        inside = super().update(gradient, state, group, t)
        if "limit" not in state:
            return inside
        U, V = (state[key].to(gradient.dtype) for key in ("basis", "right_basis"))
        residual = torch.baddbmm(gradient, U @ (project(U, gradient) @ V), V.mT, alpha=-1) * (t > 1)
        mean = average(state["residual_avg"], residual, group["betas"][0])
        scales = (state["column_scale"], state["row_scale"])
        rows, columns = averaged_scales(mean.square(), *scales, group["betas"][0])
        C = mean * rows.sqrt().unsqueeze(-1) * columns.sqrt().unsqueeze(-2)
        eta, limited = limit_growth(C.norm(dim=(-2, -1)), state["limit"], group["gamma"])
        state["limit"].copy_(limited)
        return inside._replace(dense=C.mul_((group["alpha_c"] * eta)[:, None, None]))

    @staticmethod
    def reference_update(G: Tensor, state: dict[str, Any], t: int, **options: Any) -> Tensor:
        """D of W <- W - lr D, in plain float64."""
        inside = AliceSOAP.reference_update(G, state, t, **options)
        (U, V), b1 = (state["U"], state["V"]), options["betas"][0]
        if U.shape[1] == G.shape[1]:
            return inside
        R = (G - U @ U.T @ G @ V @ V.T) * (t > 1)
        E = state["E"] = b1 * state.get("E", 0) + (1 - b1) * R
        s, q = reference_fixed_point(E**2, iterations=5)
        S = state["S"] = b1 * state.get("S", 0) + (1 - b1) * s
        Q = state["Q"] = b1 * state.get("Q", 0) + (1 - b1) * q
        C = reciprocal(Q).sqrt()[:, None] * E * reciprocal(S).sqrt()
        eta, state["limit"] = reference_limit(C.norm().item(), state.get("limit", 0.0), options["gamma"])
        return inside + options["alpha"] * options["alpha_c"] * eta * C
