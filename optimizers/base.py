"""The step loop shared by every optimizer.

`BaseOptimizer` knows about groups, Adam for the rest, checks and the state dict. `MatrixOptimizer` adds what
all methods on matrices share: orientation, batching of same-shape matrices, the refresh of bases, and the
one place where weights are written. A method then is three things: `state_shapes`, `update` and, for
subspace methods, `refresh` - pure tensor code on stacks, without a host synchronisation.
"""

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from . import fused_adam, rounding, sharded, subspace
from .checks import check_betas, check_range
from .chunk import Chunk, Direction

# Matrices up to this size are stacked into one batched call of at most STACK_BYTES; larger ones are stepped
# one by one, in place. Stacking copies the gradients: it pays where a launch (CUDA) or a call (CPU) costs
# more than the copy, and the cap bounds the extra memory.
STACK_UP_TO = {"cpu": 1 << 18, "cuda": 1 << 24}
STACK_BYTES = 1 << 25


class BaseOptimizer(torch.optim.Optimizer):
    """Groups, checks and state; a group with algorithm="adam" is stepped by Adam, others by `step_group`.

    Such a group takes its own lr, betas, eps and weight_decay (default: Adam's), never the method's.
    State holds tensors and plain numbers only, so it loads with `weights_only=True`.
    """

    last_layer = "adam"  # who steps lm_head when nobody says: "method" or "adam" (optimizers.build)
    last_layer_refusal: str | None = None  # why the method cannot step lm_head
    steps_everything = False  # whether embeddings and norms too are the method's (optimizers.build)
    # Who steps a parameter whose rows are sharded over processes: each process its own "rows", or the "owner"
    # of the whole parameter (optimizers.sharded). None: the method cannot.
    sharding: str | None = None
    _sharers: dist.ProcessGroup | None = None
    rounds_stochastically = False  # whether the method's own groups can
    _rounding_seed: int | None = None

    def __init__(self, params: Iterable, options: dict[str, Any]):
        self._owners: dict[Tensor, int] = {}
        options = {**options, "algorithm": "method"}
        if not 0.0 <= options["lr"] < math.inf:
            raise ValueError(f"lr must be a finite number >= 0, got {options['lr']}")
        super().__init__(params, options)

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self.__dict__.setdefault("_owners", {})  # after unpickling

    @classmethod
    def check_options(cls, options: dict[str, Any]) -> None:
        """Raises ValueError, its text starting with the option's name, for a value out of range."""
        check_range("weight_decay", options["weight_decay"], low=0.0)

    def check_parameter(self, parameter: Tensor, group: dict) -> None:
        """Raises ValueError for a parameter the method cannot hold."""

    def allocate(self, parameter: Tensor, group: dict) -> dict[str, Any]:
        """The state of one parameter before its first step."""
        raise AssertionError(f"{type(self).__name__} does not say what state it holds")

    def step_group(self, group: dict, parameters: list[Tensor]) -> None:
        """One step of `parameters` (all with a gradient and allocated state) of a method's group."""
        raise AssertionError(f"{type(self).__name__} does not say how it steps")

    def add_param_group(self, param_group: dict) -> None:
        """As torch's, after checking the group. Raises ValueError for bad options, shapes or sharding."""
        adam = param_group.get("algorithm") == "adam"
        if adam:
            param_group = {**fused_adam.DEFAULTS, **param_group}
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            if adam:
                for key in self.defaults.keys() - fused_adam.DEFAULTS.keys() - {"algorithm"}:
                    group.pop(key, None)
                check_betas(group["betas"], 2)
            else:
                self.check_options(group)
                for parameter in group["params"]:
                    self.check_parameter(parameter, group)
                    sharded.check(parameter, self)
                if self.sharding == "owner":
                    self._owners |= sharded.owners(group["params"], first=len(self._owners))
        except ValueError:
            self.param_groups.pop()
            raise

    def allocate_state(self) -> None:
        """Create the state of every trainable parameter now, on its device, instead of at its first step."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.requires_grad:
                    self._allocated(parameter, group)

    def _allocated(self, parameter: Tensor, group: dict) -> None:
        if self.state.get(parameter):
            return
        if group["algorithm"] == "adam":
            self.state[parameter] = fused_adam.allocate(sharded.local(parameter))
        elif self.owner(parameter) is None:
            self.state[parameter] = self.allocate(sharded.local(parameter), group)
        elif self.owns(parameter):
            self.state[parameter] = self.allocate(parameter, group)
        elif parameter not in self.state:
            self.state[parameter] = sharded.plain(self.template(parameter, group))

    def owner(self, parameter: Tensor) -> int | None:
        """The process that steps a sharded `parameter` and holds its state; None: each its own rows, or all of it."""
        return self._owners.get(parameter)

    def owns(self, parameter: Tensor) -> bool:
        """Whether this process steps `parameter`, or its own rows of it."""
        return self.owner(parameter) in (None, sharded.process(parameter))

    def template(self, parameter: Tensor, group: dict) -> dict[str, Any]:
        """The state of the whole `parameter`, on the meta device."""
        return self.allocate(torch.empty(parameter.shape, dtype=parameter.dtype, device="meta"), group)

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None):
        """One step of every parameter that has a gradient. Returns the closure's value, if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameter in parameters:
                self._allocated(parameter, group)
            if parameters:
                self._step_together(group, parameters)
        return loss

    @torch.no_grad()
    def step_parameter(self, parameter: Tensor) -> None:
        """Step one parameter, whose gradient is complete, and free that gradient: none waits for the whole model's.

            for parameter in model.parameters():
                parameter.register_post_accumulate_grad_hook(optimizer.step_parameter)

        A matrix of a stack waits for the stack's last gradient, so weights and state are those of `step()` to the
        bit. `step()` after backward steps what still holds a gradient.
        """
        group = next(group for group in self.param_groups if any(p is parameter for p in group["params"]))
        together = self._companions(parameter, group)
        if any(p.grad is None for p in together):
            return
        for p in together:
            self._allocated(p, group)
        self._step_together(group, together)
        for p in together:
            p.grad = None

    def stepped_together(self, device_type: str) -> list[list[Tensor]]:
        """The trainable parameters, in the lists that `step_parameter` steps in one call on such a device."""
        return [[parameter] for parameter in self._parameters() if parameter.requires_grad]

    def _companions(self, parameter: Tensor, group: dict) -> list[Tensor]:
        """The parameters that must be stepped in one call with `parameter`, itself among them."""
        return [parameter]

    def _step_together(self, group: dict, parameters: list[Tensor]) -> None:
        if group["algorithm"] == "adam":
            self.step_adam(group, parameters)
        else:
            self.step_group(group, parameters)

    def step_adam(self, group: dict, parameters: list[Tensor]) -> None:
        """One fused AdamW step of `parameters`, by the group's lr, betas, eps and weight_decay."""
        noise = self.rounding_noise(parameters)
        if noise is None:
            fused_adam.step(self.state, group, parameters)
        else:
            for parameter, source in zip(parameters, noise, strict=True):
                fused_adam.step_rounded(self.state[parameter], group, parameter, source)

    def round_stochastically(self, seed: int) -> None:
        """From now on, round bfloat16 weights up or down at random, right on average (optimizers.rounding).

        The draws are a function of the seed, of how often a weight was written (`state[p]["writes"]`) and of its
        position. Raises ValueError where that is not possible.
        """
        name, parameters = type(self).__name__, self._parameters()
        if not self.rounds_stochastically:
            raise ValueError(f"stochastic_rounding is not possible with {name}, which writes its weights itself")
        if any(p.dtype != torch.bfloat16 for p in parameters):
            raise ValueError("stochastic_rounding is for bfloat16 parameters, all of them")
        if any(sharded.processes(p) > 1 for p in parameters):
            raise ValueError("stochastic_rounding is not possible with sharded parameters")
        self._rounding_seed = seed

    def rounding_noise(self, parameters: list[Tensor]) -> list[torch.Generator] | None:
        """The private random sources of the next write of each of `parameters`; None: round to nearest."""
        if self._rounding_seed is None:
            return None
        position, sources = {p: i for i, p in enumerate(self._parameters())}, []
        for p in parameters:
            writes = self.state[p]["writes"] = self.state[p].get("writes", 0) + 1
            sources.append(rounding.source(self._rounding_seed, writes, position[p], p.device))
        return sources

    def load_state_dict(self, state_dict: dict) -> None:
        """As torch's, but every tensor of state keeps the dtype it was saved in.

        torch casts floating-point state to the parameter's dtype, which would round the float32 averages
        of a bfloat16 model.
        """
        super().load_state_dict(state_dict)
        saved_ids = [i for group in state_dict["param_groups"] for i in group["params"]]
        for i, parameter in zip(saved_ids, self._parameters(), strict=True):
            for key, value in state_dict["state"].get(i, {}).items():
                if isinstance(value, Tensor):
                    self.state[parameter][key] = value.to(parameter.device, copy=True)

    def share_refreshes(self, processes: dist.ProcessGroup) -> None:
        """From the next step on, each of `processes` renews its share of the bases and sends them to the others.

        For processes that step the same gradients (DDP): bases then agree to the last bit whatever a solver does,
        so the weights cannot drift apart, and a refresh takes its part of the time. Every process must call it; for
        a method without bases it means nothing.
        """
        self._sharers = processes

    def full_state_dict(self) -> dict:
        """What `state_dict` of one process that holds everything would return. With sharded parameters every process
        must call it; the first gets it, their tensors on the CPU, and the others get {}."""
        return sharded.full_state_dict(self)

    def load_full_state_dict(self, state_dict: dict) -> None:
        """`load_state_dict` for what `full_state_dict` returned on any number of processes, sharded or not."""
        self.load_state_dict(sharded.local_state_dict(self, state_dict))


class MatrixOptimizer(BaseOptimizer):
    """Steps stacks of same-shape matrices, oriented so that m <= n.

    A subclass says what it holds (`state_shapes`), what to subtract (`update`), and, if it keeps bases that
    are renewed now and then, when (`refresh_due`) and how (`refresh`).
    """

    sharding = "owner"
    rounds_stochastically = True
    transpose_square = False  # GaLore's packages put the basis of a square matrix on its right side
    counts_steps = True  # whether the update or the refresh depends on t
    decay_first = False  # whether weights decay before the update, not after it
    refreshed: tuple[str, ...] = ("basis",)  # names of the state that `refresh` writes

    def __init__(self, params: Iterable, options: dict[str, Any]):
        self._plans: dict[int, list[Chunk]] = {}
        super().__init__(params, options)

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self._plans = {}

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
        """Advance `state` in place by gradient [B, m, n] (float32 or float64) at step t; say what to subtract."""
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
        shared = self._refresh_shared(chunks, group) if self._sharers is not None else set()
        for index, chunk in enumerate(chunks):
            t = self._age(chunk.parameters[0]) + 1
            gradient, direction = chunk.gradients(), None
            if gradient is not None:
                if index not in shared:
                    self.accumulate(gradient, chunk.state, group)
                    self._refresh(chunk, gradient, group, t, self._due(chunk, group, t))
                direction = self.update(gradient, chunk.state, group, t)
            noise = self.rounding_noise(chunk.parameters)
            chunk.descend(group["lr"], group["weight_decay"], self.decay_first, gradient, direction, noise)
            if self.counts_steps:
                for parameter in chunk.parameters:
                    self.state[parameter]["step"] = t

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
            gradient = chunk.gradients()
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
            alike.setdefault((*sorted(p.shape), factor, p.dtype, p.device, self._age(p)), []).append(p)
        stacks = []
        for members in alike.values():
            size = members[0].numel() * members[0].element_size()
            stackable = size <= STACK_UP_TO.get(device_type, 0)
            step = max(1, STACK_BYTES // size) if stackable else 1
            step *= sharded.processes(members[0])
            stacks += [members[i : i + step] for i in range(0, len(members), step)]
        return stacks

    def _plan(self, group: dict, parameters: list[Tensor]) -> list[Chunk]:
        position = {parameter: i for i, parameter in enumerate(self._parameters())}
        stacks = self._stacks(group, parameters, parameters[0].device.type)
        return [self._chunk(stack, group, position) for stack in stacks]

    def _chunk(self, parameters: list[Tensor], group: dict, position: dict[Tensor, int]) -> Chunk:
        owned = [parameter for parameter in parameters if self.owns(parameter)]
        holders = [self.state[parameter] for parameter in owned]
        keys = [key for key, value in holders[0].items() if isinstance(value, Tensor)] if owned else []
        if len(owned) == 1:
            state = {key: holders[0][key].unsqueeze(0) for key in keys}
        else:
            state = {key: torch.stack([holder[key] for holder in holders]) for key in keys}
            for key in keys:
                for holder, view in zip(holders, state[key].unbind(0), strict=True):
                    holder[key] = view
        fields = {
            "parameters": parameters,
            "owned": owned,
            "transposed": [
                p.shape[0] > p.shape[1] or (self.transpose_square and p.shape[0] == p.shape[1]) for p in owned
            ],
            "indices": [position[parameter] for parameter in owned],
            "lr_factor": self.lr_factor(*parameters[0].shape, group),
            "state": state,
            "holders": [{key: holder[key] for key in keys} for holder in holders],
        }
        if self.owner(parameters[0]) is not None:
            exchange = sharded.Exchange(parameters, [self.owner(parameter) for parameter in parameters])
            return sharded.ShardedChunk(**fields, exchange=exchange)
        return Chunk(**fields)


def _slices(places: list[int]) -> list[slice]:
    """`places`, ascending, as one slice if they are evenly spaced, else one by one: a slice of a stack is a view."""
    if len({b - a for a, b in itertools.pairwise(places)}) > 1:
        return [slice(place, place + 1) for place in places]
    step = places[1] - places[0] if len(places) > 1 else 1
    return [slice(places[0], places[-1] + 1, step)] if places else []
