"""Dion: low-rank orthonormal updates with error feedback (arXiv 2504.05295; microsoft/dion, dion_reference.py, without
sharding). W is turned so that it has n rows and m columns, m <= n, square matrices as they stand.

    B = M + G;   P = qr(B Q)  [n, r];   R = B^T P  [m, r]
    M = B - (1 - mu) P R^T                       # what was not applied stays: momentum and error feedback in one
    Q = R diag(1 / (||R_:j|| + eps))
    W <- W - lr wd W;   W <- W - lr sqrt(out / in) P Q^T          # out x in is the shape of W before it is turned

Q starts Gaussian, drawn by the optimizer's own generator. Column signs of qr cancel in P Q^T, whose norm is sqrt(r).
Directions that are only rounding while B has a lower rank are damped by eps (in float64; in float32 their
size is near it, and a rank above B's lets them move). Where B is zero, P is 0 and Q stays.
The package's rank_fraction f is rank = f m.
State per matrix: m n + m r numbers. M in float32 at least: rounded to bfloat16 it would lose what was not applied.
"""

from typing import Annotated, Any

import torch
from torch import Tensor

from .engine import Direction, MatrixOptimizer, Option, Traits, register
from .engine.options import LearningRate, Params, Seed, WeightDecay
from .functional.numerics import working_dtype
from .functional.subspace import unit_gaussian_columns

DionMomentum = Annotated[float, Option("share of the applied part that stays in the momentum (mu)", least=0, below=1)]
DionRank = Annotated[int, Option("columns of the update's factors, at most the smaller side", least=1)]
DionEps = Annotated[float, Option("added to the norms of R's columns", above=0)]


@register("dion")
class Dion(MatrixOptimizer):
    """Orthonormal updates of rank r by one power iteration a step."""

    traits = Traits(transposes_squares=True, decays_first=True, refreshed=("factor",), exact=("exp_avg",))

    def __init__(
        self,
        params: Params,
        lr: LearningRate = 1e-2,
        *,
        momentum: DionMomentum = 0.95,
        rank: DionRank = 128,
        eps: DionEps = 1e-8,
        weight_decay: WeightDecay = 0.0,
        seed: Seed = 0,
    ):
        super().__init__(params, lr=lr, momentum=momentum, rank=rank, eps=eps, weight_decay=weight_decay, seed=seed)

    def state_shapes(self, m: int, n: int, dtype: torch.dtype, group: dict[str, Any]) -> dict:
        return {"exp_avg": ((m, n), working_dtype(dtype)), "factor": ((m, min(group["rank"], m)), dtype)}

    def lr_factor(self, rows: int, columns: int, group: dict[str, Any]) -> float:
        return (rows / columns) ** 0.5

    def refresh_due(self, t: int, group: dict[str, Any]) -> bool:
        return t == 1

    def refresh(self, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], t: int, sources: list) -> None:
        m, r = state["factor"].shape[-2:]
        for factor, source in zip(state["factor"], sources, strict=True):
            factor.copy_(unit_gaussian_columns(m, r, source))

    def update(self, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], t: int) -> Direction:
        buffer, factor = state["exp_avg"].add_(gradient), state["factor"].to(gradient.dtype)  # B^T [m, n], Q [m, r]
        live = (buffer != 0).flatten(1).any(1)[:, None, None]
        left = torch.where(live, torch.linalg.qr(buffer.mT @ factor).Q, 0.0)
        right = buffer @ left
        buffer.baddbmm_(right, left.mT, alpha=group["momentum"] - 1)
        norms = torch.linalg.vector_norm(right, dim=-2, keepdim=True)
        factor = torch.where(live, right / (norms + group["eps"]), factor)
        state["factor"].copy_(factor)
        return Direction(left=factor, right=left.mT)

    @staticmethod
    def reference_update(
        G: Tensor, state: dict[str, Any], t: int, *, shape: tuple[int, int], source: torch.Generator, momentum: float,
        rank: int, eps: float, **_: Any,
    ) -> Tensor:  # fmt: skip
        """D of W <- W - lr D, in plain float64; G [m, n] is the transpose of the G above."""
        if t == 1:
            state.update(M=0 * G.T, Q=unit_gaussian_columns(len(G), min(rank, len(G)), source))
        B = state["M"] + G.T
        if not B.any():
            return B.T
        P = torch.linalg.qr(B @ state["Q"]).Q
        R = B.T @ P
        state["M"] = B - (1 - momentum) * P @ R.T
        Q = state["Q"] = R / (R.norm(dim=0) + eps)
        return (shape[0] / shape[1]) ** 0.5 * (P @ Q.T).T
