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
    gradient that is only scaled, and a product of two thin matrices, need not be formed. scratch [B, m, n]: memory
    that may be written over.
    """

    rows: Tensor | None = None
    columns: Tensor | None = None
    left: Tensor | None = None
    right: Tensor | None = None
    dense: Tensor | None = None
    scale: float = 1.0
    scratch: Tensor | None = None

    def of(self, i: int) -> "Direction":
        """The direction of the i-th matrix alone, without the stack's dimension."""
        return Direction(*(part[i] if isinstance(part, Tensor) else part for part in self))

    def formed(self, gradient: Tensor) -> Tensor:
        """The whole direction but for `scale`, [B, m, n], in gradient's precision."""
        whole = self.dense
        if self.rows is not None or self.columns is not None:
            scaled = gradient if self.rows is None else torch.mul(gradient, self.rows, out=self.scratch)
            scaled = scaled if self.columns is None else torch.mul(scaled, self.columns, out=self.scratch)
            whole = scaled if whole is None else whole + scaled
        if self.left is not None:
            product = self.left @ self.right
            whole = product if whole is None else product.add_(whole)
        return whole

    def subtract_from(self, weight: Tensor, gradient: Tensor, step: float) -> None:
        """weight <- weight - step direction / scale for the direction of one matrix [m, n], without forming it.

        A weight narrower than the gradient is rounded once, after everything was summed.
        """
        if weight.dtype != gradient.dtype:
            weight.add_(self.formed(gradient), alpha=-step)
            return
        if self.columns is not None:
            scaled = gradient if self.rows is None else torch.mul(gradient, self.rows, out=self.scratch)
            weight.addcmul_(scaled, self.columns, value=-step)
        elif self.rows is not None:
            weight.addcmul_(gradient, self.rows, value=-step)
        if self.left is not None:
            weight.addmm_(self.left, self.right, alpha=-step)
        if self.dense is not None:
            weight.add_(self.dense, alpha=-step)


@dataclass
class Chunk:
    """Matrices of one shape, learning rate, dtype and age, stepped together.

    `state[key]` is [B, ...]; `holders[i][key]` of the i-th matrix is a view of its i-th slice. B counts the
    matrices that this process owns: all of them, unless parameters are sharded.
    """

    parameters: list[Tensor]
    owned: list[Tensor]
    transposed: bool
    indices: list[int]  # positions among all the optimizer's parameters: seeds of the private generators
    lr_factor: float
    state: dict[str, Tensor]
    holders: list[dict[str, Tensor]]
    on_one_thread: bool  # stepped by a single thread, beside other chunks (optimizers.threads)

    def gradients(self) -> list[Tensor]:
        """The gradients of the matrices that this process owns, as they lie in the model."""
        return [parameter.grad for parameter in self.parameters]

    def stacked(self, matrices: list[Tensor]) -> Tensor:
        """`matrices`, as they lie in the model, as [B, m, n] in the working precision: a view of a single one."""
        stack = matrices[0].unsqueeze(0) if len(matrices) == 1 else torch.stack(matrices)
        return self.oriented(stack).to(working_dtype(stack.dtype))

    def squared(self, matrices: list[Tensor], memory: Tensor) -> Tensor:
        """The squares of their elements, likewise, in `memory`: `matrices` themselves are neither copied nor kept."""
        stack = memory[: len(matrices) * matrices[0].numel()].view(len(matrices), *matrices[0].shape)
        for matrix, square in zip(matrices, stack, strict=True):
            wide = matrix.to(stack.dtype)
            torch.mul(wide, wide, out=square)
        return self.oriented(stack)

    def oriented(self, matrices: Tensor) -> Tensor:
        """[..., rows, columns] <-> [..., m, n]."""
        return matrices.mT if self.transposed else matrices

    def descend(self, lr: float, weight_decay: float, decay_first: bool, gradients: Tensor | list[Tensor],
                direction: Direction, noise: list[torch.Generator] | None) -> None:  # fmt: skip
        """W <- W - lr factor direction, before or after W <- W - lr weight_decay W: the one place where weights
        are written. `gradients`: a stack [B, m, n], or a list as they lie in the model, of which the direction only
        scales rows and columns. With `noise` each weight is computed in the working precision and rounded
        stochastically."""
        written = [self.oriented(parameter) for parameter in self.parameters]
        dtype = working_dtype(written[0].dtype)
        weights = written if noise is None else [weight.to(dtype) for weight in written]
        step = lr * self.lr_factor * direction.scale
        if weight_decay and decay_first:
            torch._foreach_mul_(weights, 1 - lr * weight_decay)
        if isinstance(gradients, Tensor) and len(weights) > 1:
            torch._foreach_add_(weights, list(direction.formed(gradients).unbind(0)), alpha=-step)
        else:
            for i, weight in enumerate(weights):
                gradient = gradients[i] if isinstance(gradients, Tensor) else self.oriented(gradients[i]).to(dtype)
                direction.of(i).subtract_from(weight, gradient, step)
        if weight_decay and not decay_first:
            torch._foreach_mul_(weights, 1 - lr * weight_decay)
        if noise is not None:
            for weight, exact, source in zip(written, weights, noise, strict=True):
                weight.copy_(rounding.stochastic(exact, source))
