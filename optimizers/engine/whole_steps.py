"""Steps of whole parameters by methods for any shape: sharded ones by their owners, moments in 8 bits as wide ones.

Methods for matrices do the same stack by stack.
"""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ..functional.numerics import working_dtype
from ..parallel.exchange import Exchange, exchanges
from . import eight_bit, moment_draws, refusals, wide_moments
from .bounded_lists import bounded_lists

if TYPE_CHECKING:
    from .base import BaseOptimizer


def step(optimizer: "BaseOptimizer", group: dict[str, Any], parameters: list[Tensor]) -> None:
    """One step of `parameters` in bounded lists, sharded ones as wholes by their owners."""
    if whole := [parameter for parameter in parameters if optimizer.owner(parameter) is None]:
        _step_whole(optimizer, group, whole)
    alike: dict[Any, list[DTensor]] = {}  # a message has one dtype, and the processes of one mesh
    for parameter in parameters:
        if isinstance(parameter, DTensor):
            alike.setdefault((parameter.dtype, parameter.device_mesh), []).append(parameter)
    for sharded in alike.values():
        for exchange, together in exchanges(sharded, optimizer.owner):
            _step_owned(optimizer, group, exchange, together)


def _step_whole(optimizer: "BaseOptimizer", group: dict[str, Any], parameters: list[Tensor]) -> None:
    step_list = optimizer.step_narrow if eight_bit.is_narrow(group) else optimizer.step_group
    for members in bounded_lists(parameters):
        step_list(group, members)


@contextlib.contextmanager
def wide_states(optimizer: "BaseOptimizer", group: dict[str, Any], parameters: list[Tensor]) -> Iterator[None]:
    """Inside, `optimizer.state` of these parameters of `group` has wide moments."""
    held = {parameter: optimizer.state[parameter] for parameter in parameters}
    # By state: the whole of a sharded parameter is none of the optimizer's own, but shares that one's state.
    place = {id(optimizer.state.get(parameter)): i for i, parameter in enumerate(optimizer._parameters())}
    with contextlib.ExitStack() as quantising:
        try:
            for parameter, state in held.items():
                draws = moment_draws.draws(optimizer, group, [state], [place[id(state)]])
                widened = wide_moments.wide(state, working_dtype(parameter.dtype), draws)
                optimizer.state[parameter] = seen = quantising.enter_context(widened)
                assert parameter.grad is not None, "a parameter without a gradient is not stepped"
                step_group = f"{type(optimizer).__name__}.step_group"
                quantising.enter_context(refusals.in_place(step_group, seen, parameter.grad))
            yield
        finally:
            for parameter, state in held.items():
                seen = optimizer.state[parameter]
                state |= {key: value for key, value in seen.items() if not isinstance(value, Tensor)}
                optimizer.state[parameter] = state


def _step_owned(optimizer: "BaseOptimizer", group: dict[str, Any], exchange: Exchange, members: list[DTensor]) -> None:
    """One step of sharded parameters. A block of elements may span the rows of two processes, so each owner gets whole
    weights and gradients, steps them, and sends back new rows."""
    rows = [parameter.to_local() for parameter in members]
    wholes = [nn.Parameter(weight, requires_grad=False) for weight in exchange.gather(rows)]
    gradients = exchange.gather([p.grad.to_local() for p in members if isinstance(p.grad, DTensor)])
    owned = [parameter for parameter in members if optimizer.owns(parameter)]
    for whole, gradient, parameter in zip(wholes, gradients, owned, strict=True):
        whole.grad, optimizer.state[whole] = gradient, optimizer.state[parameter]
    try:
        if wholes:
            _step_whole(optimizer, group, list(wholes))
    finally:
        for whole in wholes:
            del optimizer.state[whole]
    for parameter in members:
        if not optimizer.owns(parameter):  # every process knows how many steps there were, whoever saves
            moment_draws.count(optimizer, group, parameter)
            if "step" in optimizer.state[parameter]:
                optimizer.state[parameter]["step"] += 1
    for mine, new in zip(rows, exchange.scatter([whole.data for whole in wholes], rows[0].dtype), strict=True):
        mine.copy_(new)
