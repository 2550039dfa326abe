"""torch's fused AdamW on a list of parameters: the step of `Adam` and of every group with algorithm="adam"."""

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from . import rounding
from .sharded import local

DEFAULTS = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
PIECE = 1 << 22  # elements that `step_rounded` holds in float32 at once, four times: 64 MiB


def allocate(parameter: Tensor) -> dict:
    """Adam's state of one parameter, at zero: exp_avg, exp_avg_sq (shape and dtype of the parameter), step."""
    return {
        "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
        "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
        "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
    }


def step(state: dict, group: dict, parameters: list[Tensor]) -> None:
    """One fused AdamW step of `parameters`, all with a gradient, by the group's lr, betas, eps, weight_decay.

    Of sharded parameters the local rows are stepped: through DTensor each call would cost more than its work.
    """
    states = [state[parameter] for parameter in parameters]
    weights, gradients = [local(parameter) for parameter in parameters], [local(p.grad) for p in parameters]
    _adamw(group, weights, gradients, *([s[key] for s in states] for key in ("exp_avg", "exp_avg_sq", "step")))


def step_rounded(state: dict, group: dict, parameter: Tensor, source: torch.Generator) -> None:
    """`step` of one bfloat16 parameter, computed in float32, the weight rounded stochastically by `source`."""
    held = [torch.atleast_1d(t) for t in (parameter, parameter.grad, state["exp_avg"], state["exp_avg_sq"])]
    rows = max(1, PIECE * len(held[0]) // parameter.numel())
    for pieces in zip(*(tensor.split(rows) for tensor in held), strict=True):
        exact, count = [piece.float() for piece in pieces], state["step"].clone()
        _adamw(group, *([tensor] for tensor in (*exact, count)))
        pieces[0].copy_(rounding.stochastic(exact[0], source))
        for moment, new in zip(pieces[2:], exact[2:], strict=True):
            moment.copy_(new)
    state["step"].copy_(count)


def _adamw(group: dict, weights: list, gradients: list, averages: list, squares: list, steps: list) -> None:
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
