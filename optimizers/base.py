"""What every optimizer shares: groups, Adam for the rest, checks, and state that outlives a process.

Methods on matrices build on `matrix.MatrixOptimizer`; methods that take any shape build on `BaseOptimizer` itself.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from . import fused_adam, rounding, sharded
from .checks import check_betas, check_choice, check_range


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
        super().__init__(params, {**options, "algorithm": "method"})

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
        algorithm = param_group.get("algorithm", "method")
        check_choice("algorithm", algorithm, ("method", "adam"))
        adam = algorithm == "adam"
        if adam:
            param_group = {**fused_adam.DEFAULTS, **param_group}
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            check_range("lr", group["lr"], low=0.0)
            if adam:
                for key in self.defaults.keys() - fused_adam.DEFAULTS.keys() - {"algorithm"}:
                    group.pop(key, None)
                check_betas(group["betas"], 2)
                check_range("eps", group["eps"], low=0.0)
                check_range("weight_decay", group["weight_decay"], low=0.0)
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
        empty = torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")
        return fused_adam.allocate(empty) if group["algorithm"] == "adam" else self.allocate(empty, group)

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

        A matrix of a stack waits for the stack's last gradient, and what `step()` leaves to one of a CPU's threads one
        thread steps here too, so weights and state are those of `step()` to the bit. `step()` after backward steps what
        still holds a gradient.
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
        """As torch's, but every tensor of state has the dtype that the method holds it in.

        torch casts floating-point state to the parameter's dtype, which would round the float32 averages
        of a bfloat16 model. Raises ValueError for tensors of other names or shapes than the parameter's state has.
        """
        super().load_state_dict(state_dict)
        saved = [i for group in state_dict["param_groups"] for i in group["params"]]
        for i, (parameter, group) in zip(saved, sharded.members(self), strict=True):
            whole = parameter if self.owner(parameter) is not None else sharded.local(parameter)
            held = sharded.tensors(self.template(whole, group))
            found = sharded.tensors(state_dict["state"].get(i, {}))
            if found and found.keys() != held.keys():
                raise ValueError(
                    f"state of parameter {i} holds {', '.join(sorted(found))}; {type(self).__name__} holds "
                    f"{', '.join(sorted(held)) or 'nothing'}"
                )
            for key, value in found.items():
                if value.shape != held[key].shape:
                    raise ValueError(
                        f"state of parameter {i}: {key} has the shape {tuple(value.shape)}, a parameter of "
                        f"{tuple(parameter.shape)} needs {tuple(held[key].shape)}"
                    )
                self.state[parameter][key] = value.to(parameter.device, held[key].dtype, copy=True)

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
