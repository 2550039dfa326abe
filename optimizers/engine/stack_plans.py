"""Which matrices make a stack, and how long it lasts.

Matrices of one shape, dtype, device, learning rate and age are stepped together, as many as gain by it on their device.
A stack is used again at the next step unless something that made it has changed: state may be replaced, options set.
"""

from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.distributed.tensor import DTensor

from .. import kernels
from ..parallel import shards, state_dicts
from ..parallel.exchange import Exchange
from ..parallel.sharded_stack import ShardedStack
from .stack import Stack, matrix_shape

if TYPE_CHECKING:
    from .matrix import MatrixOptimizer


def stacks(optimizer: "MatrixOptimizer", group: dict[str, Any], parameters: list[Tensor]) -> list[Stack]:
    """The stacks of `parameters`, which have state. Those of the last step are used again if they would be made again:
    they hold the same parameters, with the same state, and none has missed a step since they were made."""
    wanted = set(parameters)
    held = [stack for stack in optimizer._plans.get(id(group), []) if not wanted.isdisjoint(stack.parameters)]
    whole = {p for stack in held for p in stack.parameters} == wanted
    steps = {optimizer._age(stack.parameters[0]) - stack.age for stack in held}
    if whole and len(steps) == 1 and all(_is_intact(optimizer, stack, group) for stack in held):
        return held
    return _plan(optimizer, group, parameters)


def together_with(optimizer: "MatrixOptimizer", parameter: Tensor, group: dict[str, Any]) -> list[Tensor]:
    """The parameters of the stack that `parameter` is in, one of those that all trainable ones of `group` make."""
    trainable = [p for p in group["params"] if p is parameter or (p.requires_grad and p.numel() > 0)]
    held = optimizer._plans.get(id(group), [])
    if {p for stack in held for p in stack.parameters} == set(trainable):  # not of a step without some gradients
        stack = next(stack for stack in held if any(p is parameter for p in stack.parameters))
        if _is_intact(optimizer, stack, group):
            return stack.parameters
    for p in trainable:
        optimizer._allocated(p, group)
    _plan(optimizer, group, trainable)
    return together_with(optimizer, parameter, group)


def alike(
    optimizer: "MatrixOptimizer", group: dict[str, Any], parameters: list[Tensor], device_type: str
) -> list[list[Tensor]]:
    """`parameters`, in order, in lists that make a stack each on a device of this type."""
    kinds: dict[tuple, list[Tensor]] = {}
    for p in parameters:
        factor = optimizer.lr_factor(*matrix_shape(p), group)
        kind = p.shape, p.dtype, p.device, isinstance(p, DTensor), factor, optimizer._age(p)
        kinds.setdefault(kind, []).append(p)
    lists = []
    for members in kinds.values():
        stacked = members[0].ndim == 3
        count = 1 if stacked else kernels.stackable(members[0], device_type) * shards.processes(members[0])
        lists += [members[i : i + count] for i in range(0, len(members), count)]
    return lists


def places(optimizer: "MatrixOptimizer") -> dict[Tensor, range]:
    """Each parameter's place among all of the optimizer, or those of the matrices that it stacks. A group that is added
    later changes none, so a resumed run, which has it from the start, draws the same numbers."""
    found, end = {}, 0
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            start, end = end, end + (len(parameter) if group.get("stacked", False) else 1)
            found[parameter] = range(start, end)
    return found


def _is_intact(optimizer: "MatrixOptimizer", stack: Stack, group: dict[str, Any]) -> bool:
    """Whether a stack is still what `_stack` would make."""
    factors = optimizer.lr_factor(*matrix_shape(stack.parameters[0]), group), optimizer.decay_factor(group)
    return (
        len({optimizer._age(parameter) for parameter in stack.parameters}) == 1
        and all(optimizer.state[p] is state for p, state in zip(stack.owned, stack.states, strict=True))
        and factors == (stack.lr_factor, stack.decay_factor)
        and {parameter.shape for parameter in stack.parameters} == {stack.shape}
        and stack.is_intact()
    )


def _plan(optimizer: "MatrixOptimizer", group: dict[str, Any], parameters: list[Tensor]) -> list[Stack]:
    """New stacks, of `parameters`, in the place of those of the last step."""
    elements = sum(p.numel() for p in optimizer._trainable(group) if optimizer._steps_here(p))
    lists = alike(optimizer, group, parameters, parameters[0].device.type)
    copied = {p for members in lists if sum(map(optimizer.owns, members)) > 1 for p in members}
    for stack in optimizer._plans.pop(id(group), []):
        stack.release(copied)
    where = places(optimizer)
    made = [_stack(optimizer, members, group, where, elements) for members in lists]
    optimizer._plans[id(group)] = made
    return made


def _stack(
    optimizer: "MatrixOptimizer",
    parameters: list[Tensor],
    group: dict[str, Any],
    where: dict[Tensor, range],
    elements: int,
) -> Stack:
    owned = [parameter for parameter in parameters if optimizer.owns(parameter)]
    rows, columns = matrix_shape(parameters[0])
    fields: dict[str, Any] = {
        "parameters": parameters,
        "owned": owned,
        "transposed": optimizer.traits.transposes(rows, columns),
        "indices": [index for parameter in owned for index in where[parameter]],
        "lr_factor": optimizer.lr_factor(rows, columns, group),
        "decay_factor": optimizer.decay_factor(group),
        "age": optimizer._age(parameters[0]),
        "group_elements": elements,
        "states": [optimizer.state[parameter] for parameter in owned],
        "keys": tuple(state_dicts.tensors(optimizer.template(parameters[0], group))),
        "takes_narrow": optimizer.traits.takes_narrow,
    }
    if not isinstance(parameters[0], DTensor) or optimizer.owner(parameters[0]) is None:
        return Stack(**fields)
    sharded = [parameter for parameter in parameters if isinstance(parameter, DTensor)]
    return ShardedStack(**fields, exchange=Exchange(sharded, [optimizer.owner(p) for p in sharded]))
