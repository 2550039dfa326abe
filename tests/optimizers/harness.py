"""Small problems for the optimizer tests, and runs of the fast form next to the plain one."""

from typing import Any

import torch
from torch import Tensor

from optimizers import registry
from optimizers.engine.base import BaseOptimizer
from optimizers.engine.generators import generator
from optimizers.engine.matrix import MatrixOptimizer, refresh_clock

SHAPES = [(16, 24), (24, 16), (16, 16), (16, 24), (8, 40)]
# Small enough that a run of nine steps meets refreshes; only the ones an optimizer has are given to it.
SMALL = {"rank": 6, "leading": 2, "update_interval": 3, "history": 3}


def options_of(name: str, **changes: Any) -> dict[str, Any]:
    """Every option of a registered name at its default, made small, then changed."""
    options = {key: each.default for key, each in registry.options(name).items()}
    small = {key: value for key, value in SMALL.items() if key in options and options[key] != 1}
    return {**options, **small, **changes}


def gradient(shape: tuple[int, int], step: int, index: int, scale: float = 1.0) -> Tensor:
    """float64, full rank, with a spread of row and column sizes; a function of its arguments alone."""
    source = torch.Generator().manual_seed(1000 * step + index)
    rows = torch.logspace(0, -1, shape[0], dtype=torch.float64)[:, None]
    columns = torch.linspace(0.5, 2, shape[1], dtype=torch.float64)
    return scale * rows * columns * torch.randn(shape, generator=source, dtype=torch.float64)


def parameters(shapes=SHAPES, dtype=torch.float64, scale: float = 1.0) -> list[torch.nn.Parameter]:
    source = torch.Generator().manual_seed(7)
    weights = [scale * torch.randn(shape, generator=source, dtype=torch.float64) for shape in shapes]
    return [torch.nn.Parameter(weight.to(dtype)) for weight in weights]


def train(optimizer, steps: range, scale: float = 1.0) -> list[Tensor]:
    """Step through `steps` on gradient(); returns copies of the weights."""
    weights = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for step in steps:
        for index, weight in enumerate(weights):
            weight.grad = gradient(tuple(weight.shape), step, index, scale).to(weight.dtype)
        optimizer.step()
    return [weight.detach().clone() for weight in weights]


def reference_step(
    cls: type[BaseOptimizer],
    weight: Tensor,
    gradient: Tensor,
    state: dict,
    *,
    t: int,
    index: int,
    lr: float,
    weight_decay: float = 0.0,
    stagger: bool = False,
    seed: int = 0,
    **options: Any,
) -> Tensor:
    """One step of the plain form of `cls`: orientation, learning rate and weight decay around `reference_update`.

    weight, gradient: one parameter in float64, not oriented; `state` is {} before t = 1. Returns the new weight.
    """
    matrix = issubclass(cls, MatrixOptimizer)
    transposed = matrix and cls.traits.transposes(*weight.shape)
    decay = lr * weight_decay * (cls.decay_factor(options) if matrix else 1.0)
    direction = cls.reference_update(
        gradient.T if transposed else gradient,
        state,
        t,
        clock=refresh_clock(t, index, stagger),
        source=generator(seed, t, index),
        weight=weight,
        shape=tuple(weight.shape),
        lr=lr,
        **options,
    )
    update = lr * (direction.T if transposed else direction)
    if cls.traits.decays_first:
        return weight - decay * weight - update
    return (weight - update) * (1 - decay)


def reference(cls, weights: list[Tensor], options: dict, steps: range, lr: float, scale: float = 1.0) -> list[Tensor]:
    """The plain float64 form on the same gradients, which have the digits of the weights' dtype."""
    dtype = weights[0].dtype
    weights, states = [weight.detach().double() for weight in weights], [{} for _ in weights]
    for step in steps:
        for index, weight in enumerate(weights):
            g = gradient(tuple(weight.shape), step, index, scale).to(dtype).double()
            weights[index] = reference_step(cls, weight, g, states[index], t=step, index=index, lr=lr, **options)
    return weights


def assert_follows_in_bfloat16(name: str, moved: list[Tensor], expected: list[Tensor], start: list[Tensor]) -> None:
    """That each weight ends within an eighth of the way from `start` to `expected`."""
    # Adafactor steps by 1 % of a weight's own size: near half the distance to the next bfloat16 number.
    allowed = 0.3 if name == "adafactor" else 0.12
    for after, plain, before in zip(moved, expected, start, strict=True):
        assert (after.double() - plain).norm() < allowed * (plain - before.double()).norm()


def largest_difference(a: list[Tensor], b: list[Tensor]) -> float:
    return max((x.double() - y.double()).abs().max().item() for x, y in zip(a, b, strict=True))
