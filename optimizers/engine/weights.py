"""The one place where weights are written, sharded or not, rounded or not.

Two exceptions compute and write in one call of a library: torch's fused AdamW (engine/adamw.py) and bitsandbytes' 8-bit
step (engine/adamw_8bit.py). A third writes the rows that a whole parameter's owner has sent (engine/whole_steps.py).
"""

from typing import Any

import torch
from torch import Tensor

from ..functional import rounding
from ..functional.numerics import widened, working_dtype
from ..functional.scaling import subtract_scaled
from ..kernels import replaceable
from .direction import Direction, formed


def subtract_direction(
    weights: list[Tensor],
    direction: Direction,
    gradient: Tensor,
    *,
    step: float,
    decay: float,
    decays_first: bool,
    noise: list[torch.Generator] | None = None,
) -> None:
    """W <- W - step D / scale, before or after W <- W - decay W.

    Args:
        weights: B matrices [m, n].
        direction: D, for the stack `gradient` [B, m, n] in the working precision.
        noise: a random source for each weight, which is then rounded stochastically, one weight after the other; None:
            rounded to nearest. Either way it is rounded once.
    """
    if noise is not None:
        change = {"step": step, "decay": decay, "decays_first": decays_first}
        for i, (weight, source) in enumerate(zip(weights, noise, strict=True)):
            _subtract_rounded(weight, direction.of(i), gradient[i : i + 1], source, change)
        return
    exact = _widened(weights) if decay else weights
    if decay and decays_first:
        torch._foreach_mul_(exact, 1 - decay)
    if len(exact) > 1:
        subtract_stacked(gradient, exact, *direction[:-1], step)
    else:
        _subtract(exact[0], direction, gradient, step)
    if decay and not decays_first:
        torch._foreach_mul_(exact, 1 - decay)
    if exact is not weights:
        torch._foreach_copy_(weights, exact)


def _subtract_rounded(
    weight: Tensor, direction: Direction, gradient: Tensor, source: torch.Generator, change: dict[str, Any]
) -> None:
    """`subtract_direction` from one matrix [m, n], with its keywords `change`, rounded stochastically."""
    exact = widened([weight])
    subtract_direction(exact, direction, gradient, **change)
    rounding.write(weight, exact[0], source)


def subtract_traced(
    weights: list[Tensor], change: Tensor, *, step: Tensor, decay: Tensor | None, decays_first: bool
) -> None:
    """W <- W - step change, before or after W <- W - decay W, for a compiler: B weights [m, n] and change [B, m, n].

    step, decay: float64 []; decay None: there is none. Each weight is computed in the working precision and rounded
    once, and all are written by one call.
    """
    dtype = working_dtype(weights[0].dtype)
    exact, change = [weight.to(dtype) for weight in weights], change.to(dtype)
    if decay is not None and decays_first:
        exact = [weight * (1 - decay) for weight in exact]
    exact = [weight - step * each for weight, each in zip(exact, change.unbind(0), strict=True)]
    if decay is not None and not decays_first:
        exact = [weight * (1 - decay) for weight in exact]
    torch._foreach_copy_(weights, exact)


def subtract_changes(
    weights: list[Tensor], changes: list[Tensor], *, step: float, decay: float, decays_first: bool
) -> None:
    """W <- W - step change, before or after W <- W - decay W, for tensors of any shape, each rounded once."""
    exact = _widened(weights) if decay else weights
    if decay and decays_first:
        torch._foreach_mul_(exact, 1 - decay)
    torch._foreach_add_(exact, changes, alpha=-step)
    if decay and not decays_first:
        torch._foreach_mul_(exact, 1 - decay)
    if exact is not weights:
        torch._foreach_copy_(weights, exact)


def _widened(weights: list[Tensor]) -> list[Tensor]:
    """Copies in the working precision, or `weights` themselves where they have it."""
    return weights if weights[0].dtype == working_dtype(weights[0].dtype) else widened(weights)


@replaceable
def subtract_stacked(
    gradient: Tensor,
    weights: list[Tensor],
    rows: Tensor | None,
    columns: Tensor | None,
    left: Tensor | None,
    right: Tensor | None,
    dense: Tensor | None,
    step: float,
) -> None:
    """weight <- weight - step (rows * G * columns + left @ right + dense) for each of B matrices [m, n], rounded once.

    The parts are those of a `Direction` for G = `gradient` [B, m, n].
    """
    torch._foreach_add_(weights, list(formed(gradient, rows, columns, left, right, dense).unbind(0)), alpha=-step)


def _subtract(weight: Tensor, direction: Direction, gradient: Tensor, step: float) -> None:
    """weight <- weight - step D / scale for one matrix [m, n], without forming D, which is of a stack of one.

    A weight narrower than the gradient is rounded once, after everything was summed.
    """
    if weight.dtype != gradient.dtype:
        weight.add_(direction.formed(gradient)[0], alpha=-step)
        return
    rows, columns, left, right, dense = (None if part is None else part[0] for part in direction[:-1])
    if rows is not None and columns is not None:
        subtract_scaled(weight, gradient[0], rows, columns, step)
    elif (scales := columns if rows is None else rows) is not None:
        weight.addcmul_(gradient[0], scales, value=-step)
    if left is not None and right is not None:
        weight.addmm_(left, right, alpha=-step)
    if dense is not None:
        weight.add_(dense, alpha=-step)
