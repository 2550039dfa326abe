"""The step loop shared by all methods on matrices: orientation, batching of same-shape matrices, the refresh of bases.

A method then is three things: `state_shapes`, `update` and, for subspace methods, `refresh` - pure tensor code on
stacks of matrices, without a host synchronisation.
"""

import itertools
import threading
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from . import sharded, subspace, threads
from .base import BaseOptimizer
from .chunk import Chunk, Direction, working_dtype
from .moments import column_sums

# Matrices up to this size are stacked into one batched call of at most STACK_BYTES; larger ones are stepped
# one by one, in place. Stacking copies the gradients: it pays where a launch (CUDA) or a call (CPU) costs
# more than the copy, and the cap bounds the extra memory.
STACK_UP_TO = {"cpu": 1 << 18, "cuda": 1 << 24}
STACK_BYTES = 1 << 25
# Squares of gradients are read over and over: as many are stacked as a cache holds, for one matrix is not copied
# either (an A100 has 40 MB, a core's share of a server's cache is some 4 MB).
CACHE_BYTES = {"cpu": 1 << 22, "cuda": 1 << 25}


class MatrixOptimizer(BaseOptimizer):
    """Steps stacks of same-shape matrices, oriented so that m <= n.

    A subclass says what it holds (`state_shapes`), what to subtract (`update`), and, if it keeps bases that
    are renewed now and then, when (`refresh_due`) and how (`refresh`).
    """

    sharding = "owner"
    rounds_stochastically = True
    takes_squares = False  # `update` is given G^2, and what it subtracts only scales rows and columns of G
    transpose_square = False  # GaLore's packages put the basis of a square matrix on its right side
    counts_steps = True  # whether the update or the refresh depends on t
    decay_first = False  # whether weights decay before the update, not after it
    refreshed: tuple[str, ...] = ("basis",)  # names of the state that `refresh` writes
    # Names of the state [r, n] that lies in memory as the gradient [m, n] does where a matrix is not stacked: products
    # of a tall matrix that keep its order are up to 12 % faster on a CPU.
    lie_with_gradient: tuple[str, ...] = ()

    def __init__(self, params: Iterable, options: dict[str, Any]):
        self._plans: dict[int, list[Chunk]] = {}
        self._memory: dict[int, Tensor] = {}
        super().__init__(params, options)

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self._plans, self._memory = {}, {}

    # ---- what a method says of itself

    def state_shapes(self, m: int, n: int, dtype: torch.dtype, group: dict) -> dict[str, tuple[tuple, torch.dtype]]:
        """Name -> (shape, dtype) of the tensors of state of an m x n matrix of `dtype`; all start at zero."""
        raise AssertionError(f"{type(self).__name__} does not say what state it holds")

    def accumulate(self, gradient: Tensor, state: dict[str, Tensor], group: dict) -> None:
        """Advance in place what the bases are made from, when that includes the gradient of the step itself."""

    def refresh_due(self, t: int, group: dict) -> bool:
        """Whether the bases are renewed at step t (from 1)."""
        return False

    def refresh(self, gradient: Tensor, state: dict[str, Tensor], group: dict, t: int,
                sources: list[torch.Generator]) -> None:  # fmt: skip
        """Renew the bases in `state` in place; `sources` are the matrices' private generators of this step."""

    def update(self, gradient: Tensor, state: dict[str, Tensor], group: dict, t: int) -> Direction:
        """Advance `state` in place by gradient [B, m, n] (float32 or float64) at step t; say what to subtract.

        With `takes_squares` it is the gradient's square that is given, and may be written over.
        """
        raise AssertionError(f"{type(self).__name__} does not say how it steps")

    def lr_factor(self, rows: int, columns: int, group: dict) -> float:
        """What multiplies the learning rate of a rows x columns matrix, as it lies in the model."""
        return 1.0

    # ---- the loop

    def check_parameter(self, parameter: Tensor, group: dict) -> None:
        if parameter.ndim != 2:
            raise ValueError(
                f"{type(self).__name__} steps matrices; a parameter of shape {tuple(parameter.shape)} belongs "
                'in a group with algorithm="adam"'
            )

    def allocate(self, parameter: Tensor, group: dict) -> dict[str, Any]:
        m, n = sorted(parameter.shape)
        state: dict[str, Any] = {"step": 0} if self.counts_steps else {}
        for key, (shape, dtype) in self.state_shapes(m, n, parameter.dtype, group).items():
            state[key] = torch.zeros(shape, dtype=dtype, device=parameter.device)
        return state

    def step_group(self, group: dict, parameters: list[Tensor]) -> None:
        chunks = self._chunks(group, parameters)
        refreshed = self._refresh_shared(chunks, group) if self._sharers is not None else set()
        beside = []
        for index, chunk in enumerate(chunks):
            if chunk.on_one_thread:
                beside.append((chunk, group, index in refreshed))
            else:
                self._step_chunk(chunk, group, index in refreshed)
        beside.sort(key=lambda item: -sum(parameter.numel() for parameter in item[0].parameters))  # to end together
        threads.for_each(self._step_chunk, beside)
        self._memory = {}

    def _step_chunk(self, chunk: Chunk, group: dict, refreshed: bool) -> None:
        """One step of a chunk, whose bases are `refreshed` or have yet to be."""
        t = self._age(chunk.parameters[0]) + 1
        gradients, direction = chunk.gradients(), None
        if gradients:
            given = self.squares(chunk, gradients) if self.takes_squares else chunk.stacked(gradients)
            if not refreshed:
                self.accumulate(given, chunk.state, group)
                self._refresh(chunk, given, group, t, self._due(chunk, group, t))
            direction = self.update(given, chunk.state, group, t)
            gradients = gradients if self.takes_squares else given
        noise = self.rounding_noise(chunk.parameters)
        chunk.descend(group["lr"], group["weight_decay"], self.decay_first, gradients, direction, noise)
        if self.counts_steps:
            for parameter in chunk.parameters:
                self.state[parameter]["step"] = t

    def squares(self, chunk: Chunk, gradients: list[Tensor]) -> Tensor:
        """G^2 [B, m, n], in memory that is used again at the next call of this or of `column_power`."""
        first = gradients[0]
        return chunk.squared(gradients, self._shared(len(gradients) * first.numel(), working_dtype(first.dtype), first))

    def column_power(self, gradient: Tensor) -> Tensor:
        """[B, m, n] -> [B, n]: sums of squares down the columns, without a new m x n tensor."""
        if sums := column_sums(gradient):
            return sums[0]
        memory = self._shared(gradient.numel(), gradient.dtype, gradient)
        lies_transposed = gradient.stride(-1) != 1  # as what is written does then
        memory = memory.view_as(gradient.mT).mT if lies_transposed else memory.view_as(gradient)
        return torch.mul(gradient, gradient, out=memory).sum(-2)

    def _shared(self, size: int, dtype: torch.dtype, like: Tensor) -> Tensor:
        """Memory of `size` elements for the matrices that a thread steps in turn. The system zeroes memory that is
        new, which on a CPU takes longer than to square a matrix."""
        thread = threading.get_ident()
        memory = self._memory.get(thread)
        if memory is None or memory.numel() < size or memory.dtype != dtype or memory.device != like.device:
            memory = self._memory[thread] = torch.empty(size, dtype=dtype, device=like.device)
        return memory[:size]

    def _due(self, chunk: Chunk, group: dict, t: int) -> list[int]:
        """The places in the chunk of the matrices that get a new basis at step t."""
        clocks = [subspace.refresh_clock(t, index, group.get("stagger", False)) for index in chunk.indices]
        return [place for place, clock in enumerate(clocks) if self.refresh_due(clock, group)]

    def _refresh(self, chunk: Chunk, gradient: Tensor, group: dict, t: int, places: list[int]) -> None:
        """Refresh the matrices at `places` of the chunk."""
        for part in _slices(places):
            sources = [subspace.generator(group.get("seed", 0), t, index) for index in chunk.indices[part]]
            state = {key: tensor[part] for key, tensor in chunk.state.items()}
            self.refresh(gradient[part], state, group, t, sources)

    def _refresh_shared(self, chunks: list[Chunk], group: dict) -> set[int]:
        """Refresh this process's share of what is due, and take over the others'; returns the chunks' indices."""
        me, count = self._sharers.rank(), self._sharers.size()
        due, results = set(), [[] for _ in range(count)]
        dealt = 0  # matrices so far: they are dealt in turn, across chunks
        for index, chunk in enumerate(chunks):
            t = self._age(chunk.parameters[0]) + 1
            places = self._due(chunk, group, t)
            if not places:
                continue
            due.add(index)
            gradient = chunk.stacked(chunk.gradients())
            self.accumulate(gradient, chunk.state, group)
            shares = [places[(process - dealt) % count :: count] for process in range(count)]
            self._refresh(chunk, gradient, group, t, shares[me])
            for share, result in zip(shares, results, strict=True):
                for part in _slices(share):
                    result += [chunk.state[key][part] for key in self.refreshed if key in chunk.state]
            dealt += len(places)
        for process, result in enumerate(results):
            if result:  # joined to messages of up to STACK_BYTES
                dist._broadcast_coalesced(self._sharers, result, STACK_BYTES, process)
        return due

    def _age(self, parameter: Tensor) -> int:
        return self.state[parameter].get("step", 0)

    def _companions(self, parameter: Tensor, group: dict) -> list[Tensor]:
        if group["algorithm"] == "adam":
            return [parameter]
        for chunk in self._plans.get(id(group), []):
            if any(p is parameter for p in chunk.parameters) and self._intact(chunk):
                return chunk.parameters
        trainable = [p for p in group["params"] if p.requires_grad]
        for p in trainable:
            self._allocated(p, group)
        self._plans[id(group)] = self._plan(group, trainable)
        return self._companions(parameter, group)

    def _chunks(self, group: dict, parameters: list[Tensor]) -> list[Chunk]:
        """The chunks that `parameters` make up, kept from step to step while they, their state and ages stay."""
        wanted = set(parameters)
        chunks = [chunk for chunk in self._plans.get(id(group), []) if not wanted.isdisjoint(chunk.parameters)]
        if {p for chunk in chunks for p in chunk.parameters} != wanted or not all(map(self._intact, chunks)):
            chunks = self._plans[id(group)] = self._plan(group, parameters)
        return chunks

    def _intact(self, chunk: Chunk) -> bool:
        """Whether the chunk's matrices are of one age and their state is still the chunk's."""
        return len({self._age(parameter) for parameter in chunk.parameters}) == 1 and all(
            self.state[parameter][key] is tensor
            for parameter, holder in zip(chunk.owned, chunk.holders, strict=True)
            for key, tensor in holder.items()
        )

    def stepped_together(self, device_type: str) -> list[list[Tensor]]:
        lists = []
        for group in self.param_groups:
            trainable = [p for p in group["params"] if p.requires_grad]
            adam = group["algorithm"] == "adam"
            lists += [[p] for p in trainable] if adam else self._stacks(group, trainable, device_type)
        return lists

    def _stacks(self, group: dict, parameters: list[Tensor], device_type: str) -> list[list[Tensor]]:
        """`parameters`, in order, in lists to be stacked on such a device."""
        alike: dict[tuple, list[Tensor]] = {}
        for p in parameters:
            factor = self.lr_factor(*p.shape, group)
            alike.setdefault((p.shape, factor, p.dtype, p.device, self._age(p)), []).append(p)
        stacks = []
        for members in alike.values():
            count = self._stackable(members[0], device_type) * sharded.processes(members[0])
            stacks += [members[i : i + count] for i in range(0, len(members), count)]
        return stacks

    def _stackable(self, parameter: Tensor, device_type: str) -> int:
        """How many matrices like `parameter` are stacked at the most."""
        if self.takes_squares:
            size = parameter.numel() * working_dtype(parameter.dtype).itemsize
            return max(1, CACHE_BYTES.get(device_type, 0) // size)
        size = parameter.numel() * parameter.element_size()
        return max(1, STACK_BYTES // size) if size <= STACK_UP_TO.get(device_type, 0) else 1

    def _plan(self, group: dict, parameters: list[Tensor]) -> list[Chunk]:
        position = {parameter: i for i, parameter in enumerate(self._parameters())}
        stacks = self._stacks(group, parameters, parameters[0].device.type)
        # Beside each other, each on one thread, but for what would keep the others waiting.
        share = sum(p.numel() for p in group["params"] if p.requires_grad) // torch.get_num_threads()
        return [self._chunk(stack, group, position, share) for stack in stacks]

    def _chunk(self, parameters: list[Tensor], group: dict, position: dict[Tensor, int], share: int) -> Chunk:
        owned = [parameter for parameter in parameters if self.owns(parameter)]
        holders = [self.state[parameter] for parameter in owned]
        keys = [key for key, value in holders[0].items() if isinstance(value, Tensor)] if owned else []
        (rows, columns), whole = parameters[0].shape, self.owner(parameters[0]) is None
        transposed = rows > columns or (self.transpose_square and rows == columns)
        if len(owned) == 1:
            for key in self.lie_with_gradient if transposed else ():
                holders[0][key] = holders[0][key].mT.contiguous().mT
            state = {key: holders[0][key].unsqueeze(0) for key in keys}
        else:
            state = {key: torch.stack([holder[key] for holder in holders]) for key in keys}
            for key in keys:
                for holder, view in zip(holders, state[key].unbind(0), strict=True):
                    holder[key] = view
        fields = {
            "parameters": parameters,
            "owned": owned,
            "transposed": transposed,
            "indices": [position[parameter] for parameter in owned],
            "lr_factor": self.lr_factor(*parameters[0].shape, group),
            "state": state,
            "holders": [{key: holder[key] for key in keys} for holder in holders],
            "on_one_thread": whole and parameters[0].is_cpu and len(parameters) * rows * columns <= share,
        }
        if not whole:
            exchange = sharded.Exchange(parameters, [self.owner(parameter) for parameter in parameters])
            return sharded.ShardedChunk(**fields, exchange=exchange)
        return Chunk(**fields)


def _slices(places: list[int]) -> list[slice]:
    """`places`, ascending, as one slice if they are evenly spaced, else one by one: a slice of a stack is a view."""
    if len({b - a for a, b in itertools.pairwise(places)}) > 1:
        return [slice(place, place + 1) for place in places]
    step = places[1] - places[0] if len(places) > 1 else 1
    return [slice(places[0], places[-1] + 1, step)] if places else []
