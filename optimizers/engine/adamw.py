"""torch's fused AdamW on a list of parameters: the step of `Adam` and of every group with algorithm="adam"."""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from ..functional import rounding
from ..parallel.shards import local
from .options import Betas, EpsAboveZero, LearningRate, WeightDecay, declare

DEFAULTS = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
MOMENTS = ("exp_avg", "exp_avg_sq")
OPTIONS = tuple(
    declare(name, kind, DEFAULTS[name])
    for name, kind in (("lr", LearningRate), ("betas", Betas), ("eps", EpsAboveZero), ("weight_decay", WeightDecay))
)


def check(group: dict[str, Any]) -> None:
    """Raises ValueError, its text starting with the option's name, for a value out of bounds."""
    for option in OPTIONS:
        option.check(group[option.name])


def allocate(parameter: Tensor) -> dict[str, Any]:
    """Adam's state of one parameter, at zero: exp_avg, exp_avg_sq (shape and dtype of the parameter), step."""
    return {
        "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
        "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
        "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
    }


def step(state: dict[Tensor, dict], group: dict[str, Any], parameters: list[Tensor]) -> None:
    """One fused AdamW step of `parameters`, all with a gradient, by the group's lr, betas, eps, weight_decay.

    Of sharded parameters the local rows are stepped: through DTensor each call would cost more than its work.
    """
    rows = []
    for parameter in parameters:
        gradient = local(_gradient(parameter)).to(parameter.dtype)
        rows.append([local(parameter), gradient, state[parameter]["exp_avg"], state[parameter]["exp_avg_sq"]])
    # The fused kernel reads memory as if all four tensors had one dtype and the same dense strides.
    aligned = [row if len({t.stride() for t in row}) == 1 else [t.contiguous() for t in row] for row in rows]
    weights, gradients, averages, squares = (list(tensors) for tensors in zip(*aligned, strict=True))
    _adamw(group, weights, gradients, averages, squares, [state[parameter]["step"] for parameter in parameters])
    for row, stepped in zip(rows, aligned, strict=True):
        for i in (0, 2, 3):
            if stepped[i] is not row[i]:
                row[i].copy_(stepped[i])


def step_rounded(
    state: dict[str, Any], group: dict[str, Any], parameter: Tensor, source: torch.Generator, slow: Collection[str]
) -> None:
    """`step` of one bfloat16 parameter, computed in float32, a piece after the other. The weight and the `slow` moments
    are rounded stochastically by `source`."""
    held = [torch.atleast_1d(t) for t in (parameter, _gradient(parameter), *(state[key] for key in MOMENTS))]
    rows = rounding.piece_rows(held[0])
    count = state["step"].clone()
    for weight, gradient, *moments in zip(*(tensor.split(rows) for tensor in held), strict=True):
        count = state["step"].clone()
        _step_piece(group, weight, gradient, moments, count, source, slow)
    state["step"].copy_(count)


def _step_piece(
    group: dict[str, Any], weight: Tensor, gradient: Tensor, moments: list[Tensor], count: Tensor,
    source: torch.Generator, slow: Collection[str],
) -> None:  # fmt: skip
    """`step_rounded` of some rows, whose steps are counted in `count`."""
    exact = [tensor.float().contiguous() for tensor in (weight, gradient, *moments)]
    _adamw(group, *([tensor] for tensor in (*exact, count)))
    weight.copy_(rounding.stochastic(exact[0], source))
    for key, moment, new in zip(MOMENTS, moments, exact[2:], strict=True):
        moment.copy_(rounding.stochastic(new, source) if key in slow else new)


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def _adamw(
    group: dict[str, Any],
    weights: list[Tensor],
    gradients: list[Tensor],
    averages: list[Tensor],
    squares: list[Tensor],
    steps: list[Tensor],
) -> None:
    beta1, beta2 = group["betas"]
    adamw(
        weights,
        gradients,
        averages,
        squares,
        [],
        steps,
        fused=True,
        amsgrad=False,
        beta1=beta1,
        beta2=beta2,
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )
