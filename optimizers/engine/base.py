"""The base of every optimizer: groups, Adam for the rest, checks, and state that outlives a process.

Methods for matrices build on `matrix.MatrixOptimizer`; methods for any shape build on `BaseOptimizer` itself.
"""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from itertools import chain
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from ..parallel import shards, state_dicts
from ..parallel.dealt_steps import Sent
from . import adamw, eight_bit, hooks, moment_draws, refusals, whole_steps
from .generators import rounding_source
from .options import SHARED, Params, check_all, taking_shared
from .precision import ieee_products
from .refusals import Form
from .traits import Traits


class BaseOptimizer(torch.optim.Optimizer):
    """Groups, checks and state; a group with algorithm="adam" is stepped by Adam, others by `step_group`.

    An Adam group takes its own lr, betas, eps and weight_decay (default: Adam's), never the method's. State holds
    tensors and plain numbers only, so it loads with `weights_only=True`.
    """

    traits: ClassVar[Traits] = Traits()
    # Whether state belongs to matrices, which are stepped in stacks, or to whole parameters.
    by_matrix: ClassVar[bool] = False

    # The devices on which steps are compiled.
    compiled_on: Collection[str] = ()
    # The processes that share refreshes, those that steps are dealt to, the seed of stochastic rounding; None: none.
    _sharers: dist.ProcessGroup | None = None
    _dealers: dist.ProcessGroup | None = None
    _rounding_seed: int | None = None
    # Options of every method that were given to a constructor which does not name them.
    _shared: Mapping[str, Any] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "__init__" in vars(cls):
            setattr(cls, "__init__", taking_shared(cls.__init__))  # noqa: B010

    def __init__(self, params: Params, **options: Any):
        self._owners: dict[Tensor, int] = {}
        self._forms: dict[Tensor, Form] = {}
        self._said: dict[Tensor, dict[str, Any]] = {}  # what a parameter's group said when it was checked last
        self._sent: list[Sent] = []
        self._state_names: dict[Any, frozenset[str]] = {}  # of state that other processes hold
        shared = {name: getattr(self.traits, name) for name in SHARED}
        super().__init__(params, {**shared, **self._shared, **options, "algorithm": "method"})

    def __getstate__(self) -> dict[str, Any]:
        if self._dealers is not None:
            raise ValueError("steps are dealt, and this process holds a part of the state: copy by full_state_dict")
        return {**super().__getstate__(), "_rounding_seed": self._rounding_seed, "compiled_on": self.compiled_on}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._owners, self._sent, self._state_names = {}, [], {}
        self._said = refusals.said_of_all(self)
        self._forms = {parameter: Form.of(parameter) for parameter in self._parameters()}
        for group in self.param_groups:
            self._deal(group)

    # ---- a method overrides these

    @classmethod
    def check_options(cls, options: dict[str, Any]) -> None:
        """Check relations between options. Raises ValueError, its text starting with an option's name.

        Bounds and types are declared in the constructor's signature and are already checked.
        """

    def check_parameter(self, parameter: Tensor, group: dict[str, Any]) -> None:
        """Raises ValueError for a parameter that the method cannot step."""

    def check_gradients(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        """Raises ValueError for gradients that the method cannot step. Asked of every group before any is stepped."""

    def allocate(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """The state of one parameter before its first step."""
        raise AssertionError(f"{type(self).__name__} must define allocate")

    def step_group(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        """One step of `parameters`, all with a gradient and allocated state, of a method's group."""
        raise AssertionError(f"{type(self).__name__} must define step_group")

    def step_narrow(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        """`step_group` of parameters whose moments are held in 8 bits. A method that steps bytes overrides it."""
        with whole_steps.wide_states(self, group, parameters):
            self.step_group(group, parameters)
        for parameter in parameters:
            moment_draws.count(self, group, parameter)

    # ---- groups

    @classmethod
    def check(cls, options: dict[str, Any]) -> None:
        """Raises ValueError, its text starting with the option's name, for options that are refused."""
        check_all(cls, options)
        cls.check_options(options)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's, after checking the group. Raises ValueError for bad options, shapes, dtypes or sharding."""
        refusals.check_group(param_group, self.traits, type(self).__name__, self.defaults)
        if adam := param_group.get("algorithm") == "adam":
            param_group = {**adamw.DEFAULTS, **param_group}
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            refusals.check_added(self, group, self._rounding_seed)
        except BaseException:
            self.param_groups.pop()
            raise
        if adam:
            for key in self.defaults.keys() - adamw.DEFAULTS.keys() - {"algorithm"}:
                group.pop(key, None)
        self._deal(group)
        self._said |= dict.fromkeys(group["params"], refusals.said(self, group))

    def _deal(self, group: dict[str, Any]) -> None:
        """Give each sharded parameter of a method's group an owner, if the method needs whole matrices."""
        if self.steps_whole(group):
            self._owners |= shards.owners(group["params"], first=len(self._owners))

    def steps_whole(self, group: dict[str, Any]) -> bool:
        """Whether a sharded parameter of `group` is stepped as a whole, by its owner. In 8 bits it is: a block of
        elements may span the rows of two processes."""
        if group["algorithm"] == "adam":
            return False
        whole = self.traits.sharding == "owner" or group.get("role") in self.traits.whole_roles
        return whole or eight_bit.is_narrow(group)

    def owner(self, parameter: Tensor) -> int | None:
        """The process that steps all of a sharded or dealt `parameter`; None: each process steps what it has of it."""
        return self._owners.get(parameter)

    def owns(self, parameter: Tensor) -> bool:
        """Whether this process steps `parameter`, or its own rows of it."""
        me = shards.process(parameter) if self._dealers is None else self._dealers.rank()
        return self.owner(parameter) in (None, me)

    def holders(self, parameter: Tensor) -> dist.ProcessGroup | None:
        """The processes that each hold a part of the state of a sharded or dealt `parameter`; None: all is here."""
        if isinstance(parameter, DTensor):
            group: dist.ProcessGroup = parameter.device_mesh.get_group()
            return group
        return None if self.owner(parameter) is None else self._dealers

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    # ---- state

    def allocate_state(self) -> None:
        """Create the state of every trainable parameter now, on its device, instead of at its first step."""
        for group in self.param_groups:
            refusals.check_unchanged(self, group, self._trainable(group), self._said)
            for parameter in self._trainable(group):
                self._allocated(parameter, group)

    def _trainable(self, group: dict[str, Any]) -> list[Tensor]:
        return [parameter for parameter in group["params"] if parameter.requires_grad and parameter.numel() > 0]

    def _allocated(self, parameter: Tensor, group: dict[str, Any]) -> None:
        if self.state.get(parameter):
            return
        self._forms[parameter] = Form.of(parameter)
        self._said[parameter] = refusals.said(self, group)
        if not self.owns(parameter):
            if parameter not in self.state:
                self.state[parameter] = state_dicts.plain(self.template(parameter, group))
            return
        new = self._new_state((shards.local if self.owner(parameter) is None else shards.whole)(parameter), group)
        if new or parameter not in self.state:  # the empty state of a stateless method stays the one that stacks know
            self.state[parameter] = new

    def _new_state(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """The state of a whole `parameter`, or of rows stepped by themselves, before the first step."""
        if group["algorithm"] == "adam":
            return adamw.allocate(parameter)
        state = self.allocate(parameter, group)
        refusals.check_numbers(type(self).__name__, state)
        if not eight_bit.is_narrow(group):
            return state
        matrices_from = max(0, parameter.ndim - 2) if self.by_matrix else None
        return eight_bit.narrowed(state, self.traits.exact, matrices_from=matrices_from)

    def template(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """The state of the whole `parameter`, on the meta device."""
        empty = torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")
        return self._new_state(empty, group)

    def state_dict(self) -> dict[str, Any]:
        """As torch's. State that a process holds by rows, as its parameter is sharded, is a DTensor in it. Numbers are
        Python's, also where numpy's were given."""
        with hooks.set_aside(self, hooks.AFTER_SAVING) as (after,):
            state_dict = state_dicts.with_plain_numbers(state_dicts.with_shards(self, super().state_dict()))
        return hooks.changed(state_dict, after, self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, but every tensor of state gets the dtype and device that the method holds it in.

        torch would round the float32 averages of a bfloat16 model to bfloat16. Names of state from before version 0.2
        are understood. Raises ValueError, and changes nothing, for groups of another method or size, and for tensors of
        other names or shapes than the parameters' state has.
        """
        self._load(state_dict, state_dicts.without_shards, torch.clone)

    def _load(
        self,
        state_dict: dict[str, Any],
        localised: Callable[[dict[str, Any]], dict[str, Any]],
        read: Callable[[Tensor], Tensor],
    ) -> None:
        with hooks.set_aside(self, hooks.BEFORE_LOADING, hooks.AFTER_LOADING) as (before, after):
            state_dict = state_dicts.checked(self, localised(hooks.changed(state_dict, before, self)))
            super().load_state_dict({**state_dict, "state": {i: {} for i in state_dict["state"]}})
            saved = (i for group in state_dict["param_groups"] for i in group["params"])
            for i, (parameter, group) in zip(saved, state_dicts.members(self), strict=True):
                if i in state_dict["state"]:
                    self.state[parameter] = state_dicts.placed(self, parameter, group, state_dict["state"][i], read)
            self._said = refusals.said_of_all(self)
        for told in after.values():
            told(self)

    def full_state_dict(self) -> dict[str, Any]:
        """The `state_dict` of one process that holds everything. With sharded parameters every process must call it;
        the first gets it, with tensors on the CPU, and the others get {}."""
        with hooks.set_aside(self, hooks.AFTER_SAVING) as (after,):
            state_dict = state_dicts.full_state_dict(self)
        return hooks.changed(state_dict, after, self) if state_dict else {}

    def load_full_state_dict(self, state_dict: dict[str, Any], read: Callable[[Tensor], Tensor] = torch.clone) -> None:
        """`load_state_dict` of a `full_state_dict` made on any number of processes, sharded or not.

        `read`: makes a tensor of its own of each tensor, or part of one, that this process keeps. They are read one
        after the other, when all has been checked, so the tensors of `state_dict` may be on the meta device, and their
        values in a file.
        """
        self._load(state_dict, partial(state_dicts.local_state_dict, self), read)

    # ---- step

    @torch.compiler.disable
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of every parameter that has a gradient. Returns the closure's value, if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        stepped = [[p for p in group["params"] if p.grad is not None and p.numel() > 0] for group in self.param_groups]
        for parameter in chain.from_iterable(stepped):  # a refusal comes before anything has moved
            refusals.check_step(self, parameter, self._forms)
        for group, parameters in zip(self.param_groups, stepped, strict=True):
            refusals.check_unchanged(self, group, parameters, self._said)
            self.check_gradients(group, parameters)
        for group, parameters in zip(self.param_groups, stepped, strict=True):
            for parameter in parameters:
                self._allocated(parameter, group)
            if parameters:
                self._step_together(group, parameters)
        for message in self._sent:
            message.finish()
        self._sent.clear()
        return loss

    @torch.compiler.disable
    @torch.no_grad()
    def step_parameter(self, parameter: Tensor) -> None:
        """Step one parameter, whose gradient is complete, and free that gradient, so that the gradients of the whole
        model never exist at once.

            for parameter in model.parameters():  # that require a gradient
                parameter.register_post_accumulate_grad_hook(optimizer.step_parameter)

        A matrix of a stack waits for the stack's last gradient. Weights and state are those of `step()` to the bit,
        unless a matrix has missed a step before; torch's step hooks are not called. `step()` after backward steps the
        parameters that still hold a gradient.
        Raises ValueError where steps are dealt to several processes, and for a parameter of no group.
        """
        if self._dealers is not None:
            raise ValueError("step_parameter steps every parameter on this process; do not call deal_steps before")
        if parameter.numel() == 0:
            parameter.grad = None
            return
        group = next((group for group in self.param_groups if any(p is parameter for p in group["params"])), None)
        if group is None:
            raise ValueError(f"a parameter of shape {tuple(parameter.shape)} is in no group of this optimizer")
        refusals.check_step(self, parameter, self._forms)
        refusals.check_unchanged(self, group, [parameter], self._said)  # before a stack's state is made
        together = self._stepped_with(parameter, group)
        if any(p.grad is None for p in together):
            return
        refusals.check_unchanged(self, group, together, self._said)
        self.check_gradients(group, together)
        for p in together:
            self._allocated(p, group)
        self._step_together(group, together)
        for p in together:
            p.grad = None

    def stepped_together(self, device_type: str) -> list[list[Tensor]]:
        """The trainable parameters, in the lists that `step_parameter` steps in one call on a device of this type."""
        return [[parameter] for group in self.param_groups for parameter in self._trainable(group)]

    def _stepped_with(self, parameter: Tensor, group: dict[str, Any]) -> list[Tensor]:
        """The parameters that must be stepped in one call with `parameter`, itself among them."""
        return [parameter]

    def _step_together(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        with ieee_products(parameters[0].device.type), eight_bit.in_order(parameters[0].device, group):
            if group["algorithm"] == "adam":
                self.step_adam(group, parameters)
            elif self.steps_whole(group) and not self.by_matrix:
                whole_steps.step(self, group, parameters)
            else:
                self.step_group(group, parameters)

    def step_adam(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        """One fused AdamW step of `parameters`, by the group's lr, betas, eps and weight_decay."""
        noise = self.rounding_noise(parameters)
        if noise is None:
            adamw.step(self.state, group, parameters)
        else:
            slow = moment_draws.slow(self, group)
            for parameter, source in zip(parameters, noise, strict=True):
                adamw.step_rounded(self.state[parameter], group, parameter, source, slow)

    # ---- switches of a run

    def round_stochastically(self, seed: int) -> None:
        """From now on, round bfloat16 weights and slow moments at random, right on average (docs/numerics.md).

        The draws are a function of the seed, of how often a weight was written (`state[p]["writes"]`) and of its
        position. Raises ValueError where that is not possible.
        """
        if not refusals.can_round(type(self)):
            raise ValueError(f"stochastic_rounding is not possible with {type(self).__name__}")
        refusals.check_rounding(self._parameters(), seed)
        self._rounding_seed = seed

    @property
    def rounds(self) -> bool:
        """Whether weights are rounded stochastically."""
        return self._rounding_seed is not None

    def rounding_noise(self, parameters: list[Tensor]) -> list[torch.Generator] | None:
        """The private random sources of the next write of each of `parameters`; None: round to nearest."""
        if self._rounding_seed is None:
            return None
        position, sources = {p: i for i, p in enumerate(self._parameters())}, []
        for p in parameters:
            self._count_write(p)
            sources.append(rounding_source(self._rounding_seed, self.state[p]["writes"], position[p], p.device))
        return sources

    def _count_write(self, parameter: Tensor) -> None:
        if self._rounding_seed is not None:
            self.state[parameter]["writes"] = self.state[parameter].get("writes", 0) + 1

    def compile_steps(self, on: Collection[str]) -> None:
        """From the next step on, compile the steps of matrices that are on devices of these types; (): none, as before.

        A step is eager where the compiler (triton) or a graph of the method is missing, of sharded parameters, vectors
        and stacks in one tensor, with stochastic rounding, and inside `kernels.disabled()`. Raises ValueError for what
        are no types of devices.
        """
        refusals.check_device_types(on)
        self.compiled_on = on

    def share_refreshes(self, processes: dist.ProcessGroup) -> None:
        """From the next step on, each of `processes` refreshes its share of the bases and sends them to the others.

        For processes that step the same gradients (DDP); every one must call it. Their bases then agree to the last bit
        whatever a solver does, so weights cannot drift apart. For a method without bases it changes nothing.
        """
        self._sharers = processes

    def deal_steps(self, processes: dist.ProcessGroup) -> None:
        """From the next step on, each of `processes` steps its share of the matrices, holds their state, and sends
        their new weights to the others.

        For processes that have the same gradients (DDP); every one must call it. Parameters stepped by Adam, and
        methods that work element by element, are not dealt: to send a weight takes as long as to step it. `state_dict`
        holds the state of this process; `full_state_dict` that of all. On a CPU the first step moves weights to memory
        that processes of one host share. Raises ValueError for sharded parameters.
        """
