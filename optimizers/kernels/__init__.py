"""The one door to code that is faster than torch's own calls.

A function of `functional/` is plain tensor code. Marked `@replaceable`, it may be computed by another function of the
same name and arguments: on a CPU by C++ where there is a compiler, or by calls that suit a CPU better (kernels/cpu), on
CUDA by calls that suit a GPU better (kernels/cuda). Methods and the step loop do not know which. On every other device
the plain code runs, and where a compiler traces a step, but for a few functions on CUDA. The step of a whole stack
enters here too, compiled (kernels/compiled_step).
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

if TYPE_CHECKING:
    from ..engine.matrix import MatrixOptimizer
    from ..engine.stack import Stack

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

# Matrices of up to STACK_UP_TO bytes are stacked into one batched call of at most STACK_BYTES: a stack copies its
# gradients, which pays where a launch or a call costs more. Why these sizes: docs/performance.md, docs/gpu.md.
STACK_UP_TO = {"cpu": 1 << 18, "cuda": 1 << 26}
STACK_BYTES = {"cpu": 1 << 25, "cuda": 1 << 27}

_enabled = True

# By device and name, the functions that stand in for others when a compiler traces a step.
traced_on: dict[str, dict[str, Callable]] = {}


def replaceable(plain: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Decorator: `plain`, whose first argument is a tensor, may be computed by the function of its name that kernels/
    has for the tensor's device. The two agree but for rounding."""

    @functools.wraps(plain)
    def chosen(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        if not _enabled:
            return plain(*args, **kwargs)
        device_type = cast(Tensor, args[0]).device.type
        by_name = traced_on.get(device_type, {}) if torch.compiler.is_compiling() else replacements(device_type)
        replacement = by_name.get(plain.__name__)
        result = NotImplemented if replacement is None else replacement(*args, **kwargs)
        return plain(*args, **kwargs) if result is NotImplemented else cast(_Result, result)

    return chosen


@functools.cache
def replacements(device_type: str) -> dict[str, Callable]:
    """The functions that stand in for others on such a device, by name."""
    # When first needed: they build on `functional`, which builds on this module.
    from . import cpu, cuda, cuda_quantisation

    on_cuda = {**cuda.REPLACEMENTS, **cuda_quantisation.REPLACEMENTS}
    by_device: dict[str, dict[str, Callable]] = {"cpu": cpu.REPLACEMENTS, "cuda": on_cuda}
    return by_device.get(device_type, {})


def step_compiled(
    optimizer: "MatrixOptimizer", stack: "Stack", group: dict[str, Any], t: int, *, accumulated: bool
) -> bool:
    """One step of `stack` by a compiled graph, its refresh apart; False if there is none, and nothing has happened.

    Whole matrices are compiled, on the devices that `compile_steps` has named, and rounded to nearest. Those of which a
    process has only rows are not. accumulated: whether `optimizer.accumulate` has had the gradients of this step.
    """
    first = stack.parameters[0]
    if first.device.type not in optimizer.compiled_on or not _enabled or torch.compiler.is_compiling():
        return False
    if isinstance(first, DTensor) or first.ndim != 2 or optimizer.rounds or not optimizer.traits.same_every_step:
        return False
    from . import compiled_step  # when first needed: it builds on the engine, which builds on this module

    return compiled_step.step(optimizer, stack, group, t, accumulated=accumulated)


@contextlib.contextmanager
def disabled() -> Iterator[None]:
    """Inside, every function is computed by its plain tensor code, and no step is compiled."""
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


def stackable(parameter: Tensor, device_type: str) -> int:
    """The largest number of matrices like `parameter` that are stacked on such a device."""
    size = max(1, parameter.numel() * parameter.element_size())
    return max(1, STACK_BYTES[device_type] // size) if size <= STACK_UP_TO.get(device_type, 0) else 1


def for_each_stack(step: Callable[["Stack"], None], stacks: list["Stack"]) -> None:
    """step(stack) for each of `stacks`, one after the other; on a CPU with several threads small stacks are stepped at
    the same time, a thread each."""
    if stacks and stacks[0].parameters[0].is_cpu:
        from .cpu import threads

        threads.for_each_stack(step, stacks)
    else:
        for stack in stacks:
            step(stack)
