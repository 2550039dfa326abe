"""The step loop of all methods for matrices: orientation, stacks of matrices of one shape, the refresh of bases.

A method is two functions on stacks, `state_shapes` and `update`, and, if it keeps bases, a third, `refresh`. None of
them waits for the device.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from .. import kernels
from ..parallel import shards, state_dicts
from ..parallel.dealt_steps import SentWeights, deal
from ..parallel.exchange import whole_norms
from ..parallel.shared_refresh import evenly_spaced, refresh_in_shares
from . import eight_bit, moment_draws, refusals, stack_plans, wide_moments
from .base import BaseOptimizer
from .direction import Direction, check_direction
from .generators import generator
from .options import Params
from .stack import Stack, matrix_shape


class NotFiniteError(ValueError):
    """A gradient that is needed to renew a basis holds NaN or infinity."""


class MatrixOptimizer(BaseOptimizer):
    """Steps stacks of matrices of one shape, oriented so that m <= n unless `traits.oriented` is False. In a group with
    stacked=True each parameter is a stack by itself, [B, rows, columns], and so is its state.

    A subclass defines the state it holds (`state_shapes`), what it subtracts (`update`) and, if it keeps bases that are
    renewed at intervals, when (`refresh_due`) and how (`refresh`).
    """

    by_matrix = True

    _sender: SentWeights | None = None  # of dealt matrices; made at the first step, which all processes take

    def __init__(self, params: Params, **options: Any):
        self._plans: dict[int, list[Stack]] = {}
        refusals.check_passed(type(self).__name__, options)
        super().__init__(params, **options)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._plans = {}

    # ---- a method defines these

    def state_shapes(
        self, m: int, n: int, dtype: torch.dtype, group: dict[str, Any]
    ) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Name -> (shape, dtype) of the tensors of state of an m x n matrix of `dtype`; all start at zero."""
        raise AssertionError(f"{type(self).__name__} must define state_shapes")

    def accumulate(self, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
        """Advance in place the averages that a refresh reads, when these include the gradient of the step itself; no
        moments, which `state` may hold narrow."""

    def refresh_due(self, t: int, group: dict[str, Any]) -> bool:
        """Whether the bases are renewed at step t (from 1)."""
        return False

    def refresh(
        self,
        gradient: Tensor,
        state: dict[str, Tensor],
        group: dict[str, Any],
        t: int,
        sources: list[torch.Generator],
    ) -> None:
        """Renew the bases in `state` in place; `sources` are the matrices' private generators of this step."""

    def update(self, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], t: int) -> Direction:
        """Advance `state` in place by gradient [B, m, n] (float32 or float64; `Traits.takes_narrow`) at step t; return
        what to subtract."""
        raise AssertionError(f"{type(self).__name__} must define update")

    def lr_factor(self, rows: int, columns: int, group: dict[str, Any]) -> float:
        """The factor of the learning rate of a rows x columns matrix (shape of the parameter, not oriented)."""
        return 1.0

    @staticmethod
    def decay_factor(group: dict[str, Any]) -> float:
        """The factor of weight decay: W <- W - lr decay_factor weight_decay W."""
        return 1.0

    # ---- the loop

    def check_parameter(self, parameter: Tensor, group: dict[str, Any]) -> None:
        stacked = group.get("stacked", False)
        dimensions = (3,) if stacked else (1, 2) if self.traits.also_steps else (2,)
        if parameter.ndim not in dimensions:
            where = "without stacked=True" if stacked and parameter.ndim == 2 else 'with algorithm="adam"'
            if not stacked and parameter.ndim == 3:
                where += ", or, if it is a stack of matrices, with stacked=True"
            raise ValueError(
                f"{type(self).__name__} steps {'stacks of ' if stacked else ''}matrices; a parameter of shape "
                f"{tuple(parameter.shape)} belongs in a group {where}"
            )
        if stacked and isinstance(parameter, DTensor):
            raise ValueError(
                f"{type(self).__name__} steps stacks of matrices that are whole; a sharded one of shape "
                f'{tuple(parameter.shape)} belongs in a group with algorithm="adam"'
            )

    def allocate(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        rows, columns = matrix_shape(parameter)
        m, n = (columns, rows) if self.traits.transposes(rows, columns) else (rows, columns)
        state: dict[str, Any] = {"step": 0} if self.traits.counts_steps else {}
        for key, form in self.state_shapes(m, n, parameter.dtype, group).items():
            shape, dtype = refusals.check_state(type(self).__name__, key, form)
            state[key] = torch.zeros((*parameter.shape[:-2], *shape), dtype=dtype, device=parameter.device)
        return state

    def step_group(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        if self.traits.awaits_gradient:
            parameters = self._begun(parameters)
        if self._dealers is not None and self._sender is None:
            self._sender = SentWeights(self._owners, self._dealers)
        if here := [parameter for parameter in parameters if self._steps_here(parameter)]:
            stacks = stack_plans.stacks(self, group, here)
            refreshed = self._refresh_shared(stacks, group)
            kernels.for_each_stack(lambda stack: self._step_stack(stack, group, stack in refreshed), stacks)
        if self._sender is not None:
            self._count_received(parameters, group)
            self._sent += self._sender.send(parameters)

    def _begun(self, parameters: list[Tensor]) -> list[Tensor]:
        """Those of `parameters` that were stepped before or have a gradient that is not all zero."""
        waiting = [p for p in parameters if self._age(p) == 0]
        if not waiting:
            return parameters
        zero = {parameter for parameter, norm in gradient_norms(waiting) if norm == 0}
        return [p for p in parameters if p not in zero]

    def check_gradients(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        """Raises NotFiniteError, on every process, where a basis is due of a gradient that is not finite. No basis can
        be had of it, and averages would keep it."""
        if group["algorithm"] == "adam" or type(self).refresh_due is MatrixOptimizer.refresh_due:
            return
        places = stack_plans.places(self)
        due = [p for p in parameters if self._due(places[p], group, self._age(p) + 1)]
        if (parameter := not_finite(due)) is not None:
            raise NotFiniteError(
                f"{type(self).__name__} renews its bases at this step, and a gradient of a parameter of shape "
                f"{tuple(parameter.shape)} holds NaN or infinity: skip the step"
            )

    def _step_stack(self, stack: Stack, group: dict[str, Any], refreshed: bool) -> None:
        """One step of a stack, whose bases are `refreshed` or have yet to be."""
        t, gradient = self._age(stack.parameters[0]) + 1, None
        if not refreshed and (places := self._due(stack.indices, group, t)):
            gradient = self._renew(stack, group, t, places)
            refreshed = True
        if not kernels.step_compiled(self, stack, group, t, accumulated=refreshed):
            gradient = stack.gradient() if gradient is None else gradient
            self._step_eagerly(stack, gradient, group, t, accumulated=refreshed)
        for parameter in stack.parameters:
            moment_draws.count(self, group, parameter)
            if self.traits.counts_steps:
                self.state[parameter]["step"] = t

    def _step_eagerly(
        self, stack: Stack, gradient: Tensor | None, group: dict[str, Any], t: int, *, accumulated: bool
    ) -> None:
        """The step after a refresh, if there was one: averages (unless they have had the gradient), update, weights."""
        if gradient is not None and not accumulated:
            with refusals.accumulating(self, stack.state, gradient, self._draws(stack, group)):
                self.accumulate(gradient, stack.state, group)
        direction = self._direction(stack, gradient, group, t)
        noise = self.rounding_noise(stack.parameters)
        stack.subtract(direction, gradient, group, self.traits.decays_first, noise)

    def _direction(self, stack: Stack, gradient: Tensor | None, group: dict[str, Any], t: int) -> Direction | None:
        """What `update` returns, and no state that is wide for it alone; None where no matrix is owned."""
        with self.inputs(stack, group) as state:
            if gradient is None:
                return None
            with refusals.in_place(f"{type(self).__name__}.update", state, gradient):
                direction = self.update(gradient, state, group, t)
            check_direction(direction, gradient, type(self).__name__)
        return direction

    @contextlib.contextmanager
    def inputs(self, stack: Stack, group: dict[str, Any]) -> Iterator[dict[str, Tensor]]:
        """What `update` gets as state: the stack's, its moments wide, and what the traits ask for beside it."""
        norms = stack.norms() if self.traits.reads_norms else None
        with wide_moments.wide(stack.state, stack.working_dtype, self._draws(stack, group)) as state:
            yield state if norms is None else {**state, "weight_norm": norms}

    def _draws(self, stack: Stack, group: dict[str, Any]) -> moment_draws.Draws:
        states = [self.state[p] for p in stack.owned for _ in range(len(p) if p.ndim == 3 else 1)]
        return moment_draws.draws(self, group, states, stack.indices)

    # ---- steps dealt to replicas

    def deal_steps(self, processes: dist.ProcessGroup) -> None:
        if self.traits.sharding != "owner" or processes.size() == 1:
            return
        if any(isinstance(parameter, DTensor) for parameter in self._parameters()):
            raise ValueError("deal_steps is for whole parameters; a sharded matrix is stepped by one process anyway")
        self._dealers, self._sender, self._plans = processes, None, {}
        for group in self.param_groups:
            self._deal(group)
        for parameter in self._owners:
            if parameter in self.state and not self.owns(parameter):
                self.state[parameter] = state_dicts.plain(self.state[parameter])

    def _deal(self, group: dict[str, Any]) -> None:
        super()._deal(group)
        if self._dealers is not None and group["algorithm"] != "adam":
            self._owners |= deal(self._trainable(group), self._owners, self._dealers.size())

    def _steps_here(self, parameter: Tensor) -> bool:
        """Whether this process takes part in the step of `parameter`."""
        return self._dealers is None or self.owns(parameter)

    def _count_received(self, stepped: list[Tensor], group: dict[str, Any]) -> None:
        """Count the steps of those of `stepped` that other processes step."""
        for parameter in stepped:
            if not self.owns(parameter):
                self._count_write(parameter)
                moment_draws.count(self, group, parameter)
                if self.traits.counts_steps:
                    self.state[parameter]["step"] += 1

    # ---- refreshes

    def _due(self, indices: Sequence[int], group: dict[str, Any], t: int) -> list[int]:
        """Which of the matrices with these indices get new bases at step t: their places in the list."""
        clocks = [refresh_clock(t, index, group.get("stagger", False)) for index in indices]
        return [place for place, clock in enumerate(clocks) if self.refresh_due(clock, group)]

    def _renew(self, stack: Stack, group: dict[str, Any], t: int, places: list[int]) -> Tensor:
        """Average the stack's gradients in, then refresh the bases of the matrices with the indices `places` in it.
        Returns the gradients, which are finite."""
        gradient = stack.gradient()
        assert gradient is not None, "a basis is due of a matrix that this process owns"
        draws = self._draws(stack, group)
        with refusals.accumulating(self, stack.state, gradient, draws):
            self.accumulate(gradient, stack.state, group)
        for part in evenly_spaced(places):
            sources = [generator(group.get("seed", 0), t, index) for index in stack.indices[part]]
            held = {key: tensor[part] for key, tensor in stack.state.items()}
            # Rounded before it is sent or updated: a process that gets it must update the same numbers.
            wide = wide_moments.wide(held, stack.working_dtype, draws.of_refresh(part), if_written=True)
            with wide as state, refusals.refreshing(self, state, gradient):
                self.refresh(gradient[part], state, group, t, sources)
        return gradient

    def _refresh_shared(self, stacks: list[Stack], group: dict[str, Any]) -> list[Stack]:
        """If processes share refreshes: refresh this one's share of the bases that are due, and receive the others'.

        Returns the stacks that had such bases.
        """
        if self._sharers is None:
            return []
        due = []
        for stack in stacks:
            if places := self._due(stack.indices, group, self._age(stack.parameters[0]) + 1):
                due.append((stack, places))

        def refresh(stack: Stack, places: list[int]) -> None:
            self._renew(stack, group, self._age(stack.parameters[0]) + 1, places)

        refresh_in_shares(due, refresh, eight_bit.stored(self.traits.refreshed), self._sharers)
        return [stack for stack, _ in due]

    # ---- stacks

    def _age(self, parameter: Tensor) -> int:
        return self.state.get(parameter, {}).get("step", 0)

    def _stepped_with(self, parameter: Tensor, group: dict[str, Any]) -> list[Tensor]:
        return [parameter] if group["algorithm"] == "adam" else stack_plans.together_with(self, parameter, group)

    def stepped_together(self, device_type: str) -> list[list[Tensor]]:
        lists = []
        for group in self.param_groups:
            trainable = self._trainable(group)
            adam = group["algorithm"] == "adam"
            lists += [[p] for p in trainable] if adam else stack_plans.alike(self, group, trainable, device_type)
        return lists


def not_finite(parameters: list[Tensor]) -> Tensor | None:
    """The first of `parameters` with a gradient that holds NaN or infinity, the same on every process."""
    return next((parameter for parameter, norm in gradient_norms(parameters) if not math.isfinite(norm)), None)


def gradient_norms(parameters: list[Tensor]) -> Iterator[tuple[Tensor, float]]:
    """Each of `parameters` with the norm of its whole gradient, those of one device after the other. Waits for each
    device once, and once more where there are both shards and whole parameters."""
    kinds: dict[tuple[Any, ...], list[Tensor]] = {}
    for parameter in parameters:
        kinds.setdefault((parameter.device, isinstance(parameter, DTensor)), []).append(parameter)
    for alike in kinds.values():
        norms = whole_norms([shards.local(p.grad) for p in alike if p.grad is not None], alike)
        yield from zip(alike, norms.tolist(), strict=True)


def refresh_clock(t: int, index: int, stagger: bool) -> int:
    """The step that the matrix at position `index` counts at step t (from 1), to know whether its refresh is due.

    With `stagger` matrices count ahead by their index, once all bases are in use (SOAP uses its own from step 2 on). So
    of P matrices with an interval of K steps at most ceil(P / K) are due in one step.
    """
    return t + index if stagger and t > 2 else t
