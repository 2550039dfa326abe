"""The step of a stack of matrices as one compiled graph: its gradients are stacked, the method's update is made, and
its weights are written. Refreshes are no part of it.

What changes from step to step is given as tensors, so that nothing is compiled twice. Counts and reasons: docs/gpu.md.
"""

import functools
import importlib.util
import itertools
import types
import warnings
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ..engine import weights
from ..engine.matrix import MatrixOptimizer
from ..engine.stack import gradient_dtype
from ..functional.numerics import widened
from . import cuda

if TYPE_CHECKING:
    from ..engine.stack import Stack

# Kernels are not chosen by a race: replicas would choose differently, and their weights drift apart.
OPTIONS: dict[str, str | int | bool | Callable] = {"deterministic": True}

# The method has no graph, or an option has had too many values: torch compiles eight, one after the other.
NOT_COMPILED = (torch._dynamo.exc.TorchDynamoException, torch._dynamo.exc.FailOnRecompileLimitHit)

# The compiled steps of an optimizer, by the form of a stack. None: its method cannot be compiled.
_steps: weakref.WeakKeyDictionary[MatrixOptimizer, dict[tuple, Callable | None]] = weakref.WeakKeyDictionary()

_numbers = itertools.count()


def step(optimizer: MatrixOptimizer, stack: "Stack", group: dict[str, Any], t: int, *, accumulated: bool) -> bool:
    """One step of `stack`, whose gradients `optimizer.accumulate` has had or has yet to have. False: it cannot be
    compiled, and nothing has happened."""
    matrices = [parameter.detach() for parameter in stack.parameters]
    first, forms = matrices[0], _steps.setdefault(optimizer, {})
    form = (id(group), first.shape, first.dtype, first.device, len(matrices))  # options of a group are constants
    if form not in forms:
        eager = first.device.type == "cuda" and missing_on_gpu(first.device, first.dtype)
        forms[form] = None if eager else _compiled()
    compiled = forms[form]
    if compiled is None:
        return False
    accumulates = type(optimizer).accumulate is not MatrixOptimizer.accumulate  # else a refresh changes nothing here
    rate, age = (torch.full((), each, dtype=torch.float64, device=first.device) for each in (group["lr"], t))
    try:
        with optimizer.inputs(stack, group) as state:
            compiled(
                optimizer, stack.transposed, [parameter.grad for parameter in stack.parameters], matrices,
                state, {**group, "lr": rate}, rate * stack.lr_factor, rate * stack.decay_factor, age,
                accumulated=accumulated or not accumulates,
            )  # fmt: skip
    except NOT_COMPILED as error:  # raised before anything is computed
        forms[form] = None
        _warn(type(optimizer).__name__, str(error).strip().split("\n")[0])
        return False
    return True


def _compiled() -> Callable:
    """`_step` compiled, with a code of its own: torch keeps its graphs by code, and only eight for one."""
    code = _step.__code__.replace(co_name=f"step_of_form_{next(_numbers)}")  # equal codes would count as one
    own = types.FunctionType(code, _step.__globals__, _step.__name__, None, None)
    own.__kwdefaults__ = _step.__kwdefaults__
    return torch.compile(own, fullgraph=True, dynamic=False, options=OPTIONS)


def _step(
    optimizer: MatrixOptimizer,
    transposed: bool,
    gradients: list[Tensor],
    matrices: list[Tensor],
    state: dict[str, Tensor],
    group: dict[str, Any],
    rate: Tensor,
    decay_rate: Tensor,
    t: Tensor,
    *,
    accumulated: bool,
) -> None:
    """What is traced: the step of matrices [rows, columns], not oriented. rate, decay_rate, t: float64 [], the learning
    rate of the matrices, that of their decay, and the step."""
    narrow = gradient_dtype(gradients[0], optimizer.traits.takes_narrow) == gradients[0].dtype
    gradient = torch.stack(gradients if narrow else widened(gradients))
    if transposed:
        gradient, matrices = gradient.mT, [matrix.mT for matrix in matrices]
    if not accumulated:
        optimizer.accumulate(gradient, state, group)
    direction = optimizer.update(gradient, state, group, cast(int, t))
    change = cuda.formed(gradient, *direction[:-1])  # in the memory order of the weights
    if change is NotImplemented:
        change = direction.formed(gradient)
    decay = decay_rate * group["weight_decay"] if group["weight_decay"] else None
    weights.subtract_traced(
        matrices, change, step=rate * direction.scale, decay=decay, decays_first=optimizer.traits.decays_first
    )


def missing_on_gpu(device: torch.device, dtype: torch.dtype) -> str | None:
    """What torch.compile needs for numbers of `dtype` on a CUDA device and does not find; None if nothing is missing.

    To be asked beforehand. Where a GPU emulates bfloat16, torch runs a function eagerly and raises afterwards.
    """
    if importlib.util.find_spec("triton") is None:
        return "triton"
    least = (8, 0) if dtype == torch.bfloat16 else (7, 0)
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < least:
        return f"a GPU of compute capability {least[0]}.{least[1]} for {str(dtype).removeprefix('torch.')}"
    return None


@functools.cache
def _warn(method: str, reason: str) -> None:
    warnings.warn(f"the step of {method} was not compiled ({reason})", stacklevel=2)
