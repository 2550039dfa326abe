"""Stacks of same-shape matrices, and the one place where weights are written."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from . import rounding


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision of averages, solves and decompositions: float64 for float64 parameters, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def average(mean: Tensor, new: Tensor, decay: float) -> Tensor:
    """mean <- decay mean + (1 - decay) new, in new's precision, rounded once into `mean`; returns it unrounded."""
    if mean.dtype == new.dtype:
        return mean.lerp_(new, 1 - decay)
    exact = torch.lerp(mean.to(new.dtype), new, 1 - decay)
    mean.copy_(exact)
    return exact


class Direction(NamedTuple):
    """What a method wants to subtract, lr apart: scale (rows * G * columns + left @ right + dense).

    rows [B, m, 1], columns [B, 1, n], left [B, m, k], right [B, k, n], dense [B, m, n]; None = absent. A
    gradient that is only scaled, and a product of two thin matrices, need not be formed.
    """

    rows: Tensor | None = None
    columns: Tensor | None = None
    left: Tensor | None = None
    right: Tensor | None = None
    dense: Tensor | None = None
    scale: float = 1.0

    def formed(self, gradient: Tensor) -> Tensor:
        """The whole direction but for `scale`, [B, m, n], in gradient's precision."""
        whole = self.dense
        if self.rows is not None or self.columns is not None:
            scaled = gradient if self.rows is None else gradient * self.rows
            scaled = scaled if self.columns is None else scaled * self.columns
            whole = scaled if whole is None else whole + scaled
        if self.left is not None:
            whole = self.left @ self.right if whole is None else torch.baddbmm(whole, self.left, self.right)
        return whole

    def subtract_from(self, weight: Tensor, gradient: Tensor, step: float) -> None:
        """weight [m, n] <- weight - step direction / scale for a stack of one, without forming the direction."""
        if self.columns is not None:
            scaled = gradient if self.rows is None else gradient * self.rows[0]
            weight.addcmul_(scaled, self.columns[0], value=-step)
        elif self.rows is not None:
            weight.addcmul_(gradient, self.rows[0], value=-step)
        if self.left is not None:
            weight.addmm_(self.left[0], self.right[0], alpha=-step)
        if self.dense is not None:
            weight.add_(self.dense[0], alpha=-step)


@dataclass
class Chunk:
    """Matrices of one oriented shape, learning rate, dtype and age, stepped together.

    `state[key]` is [B, ...]; `holders[i][key]` of the i-th matrix is a view of its i-th slice. B counts the
    matrices that this process owns: all of them, unless parameters are sharded.
    """

    parameters: list[Tensor]
    owned: list[Tensor]
    transposed: list[bool]
    indices: list[int]  # positions among all the optimizer's parameters: seeds of the private generators
    lr_factor: float
    state: dict[str, Tensor]
    holders: list[dict[str, Tensor]]

    def oriented(self, matrices: list[Tensor]) -> list[Tensor]:
        return [matrix.mT if flip else matrix for matrix, flip in zip(matrices, self.transposed, strict=True)]

    def gradients(self) -> Tensor | None:
        """[B, m, n] in the working precision: a view of a single gradient, or a stacked copy. None for B = 0."""
        return self.stacked([parameter.grad for parameter in self.parameters])

    def stacked(self, matrices: list[Tensor]) -> Tensor:
        """The same of whole `matrices`, as they lie in the model."""
        oriented = self.oriented(matrices)
        stacked = oriented[0].unsqueeze(0) if len(oriented) == 1 else torch.stack(oriented)
        return stacked.to(working_dtype(stacked.dtype))

    def descend(self, lr: float, weight_decay: float, decay_first: bool, gradient: Tensor, direction: Direction,
                noise: list[torch.Generator] | None) -> None:  # fmt: skip
        """W <- W - lr factor direction, before or after W <- W - lr weight_decay W: the one place where weights
        are written. With `noise` each is computed in the working precision and rounded stochastically."""
        written = self.oriented(self.parameters)
        weights = written if noise is None else [weight.to(gradient.dtype) for weight in written]
        step = lr * self.lr_factor * direction.scale
        if weight_decay and decay_first:
            torch._foreach_mul_(weights, 1 - lr * weight_decay)
        if len(weights) == 1 and weights[0].dtype == gradient.dtype:
            direction.subtract_from(weights[0], gradient[0], step)
        else:
            # A narrower weight is rounded once, after everything was summed in the working precision.
            torch._foreach_add_(weights, list(direction.formed(gradient).unbind(0)), alpha=-step)
        if weight_decay and not decay_first:
            torch._foreach_mul_(weights, 1 - lr * weight_decay)
        if noise is not None:
            for weight, exact, source in zip(written, weights, noise, strict=True):
                weight.copy_(rounding.stochastic(exact, source))
