"""State on the way to and from files: of one process, and of sharded parameters as one process would hold it."""

import numbers
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from ..engine import adamw
from . import shards

if TYPE_CHECKING:
    from ..engine.base import BaseOptimizer

# What a group says beside options that its parameters' state may depend on.
SHAPING_KEYS = {"role", "heads", "stacked"}
# Names of state in checkpoints from before version 0.2, and the names of today that each may have become.
RENAMED = {
    "m1": ("exp_avg",),
    "v": ("exp_avg_sq",),
    "momentum_buffer": ("exp_avg",),
    "m1_absmax": ("exp_avg_absmax",),
    "v_absmax": ("exp_avg_sq_absmax",),
    "column_power": ("residual_sumsq", "column_scale"),
    "row_power": ("row_scale",),
}


def plain(state: dict[str, Any]) -> dict[str, Any]:
    """The items that are not tensors. Every process knows them, whoever owns the parameter."""
    return {key: value for key, value in state.items() if not isinstance(value, Tensor)}


def tensors(state: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors. Only the process that steps the parameter, or its own rows of it, holds them."""
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}


def members(optimizer: "BaseOptimizer") -> Iterator[tuple[Tensor, dict[str, Any]]]:
    """Every parameter with its group, in the order of a state_dict's."""
    return ((parameter, group) for group in optimizer.param_groups for parameter in group["params"])


# ---- shards


def with_shards(optimizer: "BaseOptimizer", state_dict: dict[str, Any]) -> dict[str, Any]:
    """`state_dict` of this process, state by rows as DTensors: torch.distributed.checkpoint takes plain tensors of one
    name for copies, and saves one of them."""
    state = dict(state_dict["state"])
    for i, (parameter, _) in enumerate(members(optimizer)):
        if i in state and isinstance(parameter, DTensor) and optimizer.owner(parameter) is None:
            state[i] = {
                key: _sharded(value, parameter) if _by_rows(value) else value for key, value in state[i].items()
            }
    return {**state_dict, "state": state}


def without_shards(state_dict: dict[str, Any]) -> dict[str, Any]:
    """The inverse: DTensors as the rows that this process holds."""
    check_form(state_dict)
    state = {
        i: {key: shards.local(value) if isinstance(value, Tensor) else value for key, value in held.items()}
        for i, held in state_dict["state"].items()
    }
    return {**state_dict, "state": state}


# ---- loading


def check_form(state_dict: Any) -> None:
    """Raises ValueError unless `state_dict` is put together as torch puts one together."""
    parts = state_dict if isinstance(state_dict, dict) else {}
    state, groups = parts.get("state"), parts.get("param_groups")
    if not isinstance(state, dict) or not isinstance(groups, list | tuple):
        raise ValueError(
            'this is not the state_dict of an optimizer: it needs a dict "state" and a list "param_groups"'
        )
    if not all(isinstance(group, dict) and isinstance(group.get("params"), list | tuple) for group in groups):
        raise ValueError('a group of the saved optimizer has no list "params"')
    if strangers := state.keys() - {i for group in groups for i in group["params"]}:
        raise ValueError(f"the saved state of parameter {strangers.pop()!r} belongs to no group")
    if not all(isinstance(held, dict) for held in state.values()):
        raise ValueError("the saved state of a parameter is not a dict of its tensors and numbers")


def checked(optimizer: "BaseOptimizer", state_dict: dict[str, Any]) -> dict[str, Any]:
    """`state_dict` with today's names of state. Raises ValueError unless it fits `optimizer`, which is not changed."""
    name = type(optimizer).__name__
    groups = [
        {**{key: value for key, value in own.items() if key not in ("params", "algorithm")}, **saved}
        for own, saved in zip(optimizer.param_groups, state_dict["param_groups"], strict=False)
    ]
    if len(groups) != len(optimizer.param_groups) or len(groups) != len(state_dict["param_groups"]):
        raise ValueError(
            f"the saved optimizer has {len(state_dict['param_groups'])} groups of parameters, this one has "
            f"{len(optimizer.param_groups)}"
        )
    for i, (own, saved) in enumerate(zip(optimizer.param_groups, groups, strict=True)):
        if saved.get("algorithm") != own["algorithm"]:
            raise ValueError(
                f"group {i} was saved by another optimizer, not by {name} with algorithm={own['algorithm']!r}"
            )
        if len(saved["params"]) != len(own["params"]):
            raise ValueError(f"group {i} was saved with {len(saved['params'])} parameters and has {len(own['params'])}")
        if own["algorithm"] == "method":
            optimizer.check(saved)
            if saved["state_bits"] != own["state_bits"]:
                raise ValueError(
                    f"group {i} was saved with state_bits={saved['state_bits']}, this {name} has "
                    f"state_bits={own['state_bits']}"
                )
        else:
            adamw.check(saved)
    saved_indices = [i for group in groups for i in group["params"]]
    state = dict(state_dict["state"])
    for i, (parameter, group) in zip(saved_indices, members(optimizer), strict=True):
        if i in state:
            state[i] = _checked_state(optimizer, i, parameter, group, state[i])
    for i, (own, saved) in enumerate(zip(optimizer.param_groups, groups, strict=True)):
        for parameter in {(p.shape, p.dtype): p for p in own["params"]}.values():
            if names := reshaping(optimizer, parameter, own, saved):
                raise ValueError(
                    f"group {i} was saved with {names[0]}={saved[names[0]]}, by which its state is another"
                )
    return {**state_dict, "state": state, "param_groups": groups}


def reshaping(optimizer: "BaseOptimizer", parameter: Tensor, before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What the parameter's group says otherwise `now` than `before`, and would give it another state."""
    if before["algorithm"] == "adam":
        return []

    def held(said: dict[str, Any]) -> dict[str, tuple[torch.Size, torch.dtype]]:
        template = _template(optimizer, parameter, {**before, **said})
        return {key: (value.shape, value.dtype) for key, value in tensors(template).items()}

    names = optimizer.defaults.keys() | SHAPING_KEYS
    changed = [name for name in sorted(names & now.keys()) if name != "lr" and before.get(name) != now[name]]
    return [name for name in changed if held({name: now[name]}) != held({})]


def _checked_state(
    optimizer: "BaseOptimizer", index: int, parameter: Tensor, group: dict[str, Any], state: dict[str, Any]
) -> dict[str, Any]:
    """The saved state of one parameter under today's names. Raises ValueError if the parameter holds another state."""
    template = _template(optimizer, parameter, group)
    held = tensors(template)
    renamed = {key: next((new for new in RENAMED[key] if new in held), key) for key in RENAMED if key not in held}
    state = {renamed.get(key, key): value for key, value in state.items()}
    found = tensors(state)
    unknown = found.keys() - held.keys()
    others = unknown & _names_of_methods() if unknown else set()
    if (found or (state and optimizer.owns(parameter))) and (held.keys() - found.keys() or others):
        raise ValueError(
            f"state of parameter {index} holds {', '.join(sorted(found)) or 'no tensor'}; "
            f"{type(optimizer).__name__} holds {', '.join(sorted(held)) or 'nothing'}"
        )
    for key, value in ((key, found[key]) for key in held if key in found):
        if value.shape != held[key].shape:
            raise ValueError(
                f"state of parameter {index}: {key} has the shape {tuple(value.shape)}, a parameter of "
                f"{tuple(parameter.shape)} needs {tuple(held[key].shape)}"
            )
        if value.is_complex() or value.is_floating_point() != held[key].is_floating_point():
            raise ValueError(f"state of parameter {index}: {key} is {value.dtype}, it needs {held[key].dtype}")
        if not value.is_meta and bool(value.isnan().any()):
            raise ValueError(f"state of parameter {index}: {key} holds NaN")
    if state and (missing := plain(template).keys() - state.keys()):
        raise ValueError(f"state of parameter {index} lacks {', '.join(sorted(missing))}")
    for key in ("step", "writes", "roundings"):
        count = state.get(key, 0)
        if not isinstance(count, Tensor) and not (type(count) is int and count >= 0):
            raise ValueError(f"state of parameter {index}: {key} is {count!r}, not a number of steps")
    return state


def _names_of_methods() -> set[str]:
    """The names of tensors that the methods here hold as state. What has another name was put there by other code."""
    from ..engine import registry  # which imports this module

    return {*RENAMED}.union(*map(_names_of, registry.names()))


@cache
def _names_of(name: str) -> frozenset[str]:
    """Of one method; none of one that cannot be made here, for want of a package or of a matrix that suits it."""
    from ..engine import registry

    cls, presets = registry.get(name)
    try:
        optimizer = cls([torch.empty(64, 80, device="meta")], **presets)
        (group,) = optimizer.param_groups
        return frozenset(tensors(optimizer.template(group["params"][0], group)))
    except Exception:  # whatever fails in a method is for those who use it to hear
        return frozenset()


def placed(
    optimizer: "BaseOptimizer",
    parameter: Tensor,
    group: dict[str, Any],
    state: dict[str, Any],
    read: Callable[[Tensor], Tensor],
) -> dict[str, Any]:
    """The checked `state` on the parameter's device, its tensors `read` and in the dtypes that the method holds."""
    held = _template(optimizer, parameter, group)
    return {
        key: read(value).to(parameter.device, held.get(key, value).dtype) if isinstance(value, Tensor) else value
        for key, value in state.items()
    }


def _template(optimizer: "BaseOptimizer", parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:
    """The state that this process holds of `parameter`, on the meta device."""
    return optimizer.template(parameter if optimizer.owner(parameter) is not None else shards.local(parameter), group)


def local_state_dict(optimizer: "BaseOptimizer", state_dict: dict[str, Any]) -> dict[str, Any]:
    """This process's part of a full state dict, for `load_state_dict`."""
    check_form(state_dict)
    state = dict(state_dict["state"])
    saved = (i for group in state_dict["param_groups"] for i in group["params"])
    for i, (parameter, _) in zip(saved, members(optimizer), strict=False):  # load_state_dict refuses other numbers
        if i not in state:
            continue
        if not optimizer.owns(parameter):
            state[i] = plain(state[i])
        elif isinstance(parameter, DTensor) and optimizer.owner(parameter) is None:
            mine = shards.rows(parameter, shards.process(parameter))
            state[i] = {key: value[mine] if _by_rows(value) else value for key, value in state[i].items()}
    return {**state_dict, "state": state}


# ---- saving


def with_plain_numbers(state_dict: dict[str, Any]) -> dict[str, Any]:
    """`state_dict` with Python's numbers in its groups, not numpy's, which `weights_only=True` does not load."""
    groups = [{key: _plain_number(value) for key, value in group.items()} for group in state_dict["param_groups"]]
    return {**state_dict, "param_groups": groups}


def _plain_number(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(map(_plain_number, value))
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return value
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def full_state_dict(optimizer: "BaseOptimizer") -> dict[str, Any]:
    """`BaseOptimizer.full_state_dict`. A process holds one parameter's whole tensors at a time."""
    state_dict, first = optimizer.state_dict(), True
    for i, (parameter, group) in enumerate(members(optimizer)):
        if (holders := optimizer.holders(parameter)) is not None:
            first = holders.rank() == 0
            if parameter in optimizer.state:
                whole = _whole_state(optimizer, parameter, group)
                state_dict["state"][i] = {key: _on_host(value) if first else None for key, value in whole}
    return state_dict if first else {}


def _whole_state(optimizer: "BaseOptimizer", parameter: Tensor, group: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The state of `parameter` as one process would hold it, item by item, on every process that holds a part."""
    held, owner = optimizer.state[parameter], optimizer.owner(parameter)
    if owner is None:
        assert isinstance(parameter, DTensor)
        for key, value in held.items():
            yield key, _sharded(value, parameter).full_tensor() if _by_rows(value) else value
        return
    template = optimizer.template(parameter, group)
    for key in template | plain(held):
        if isinstance(value := template.get(key), Tensor):
            owned = optimizer.owns(parameter)
            value = held[key].contiguous() if owned else torch.empty_like(value, device=parameter.device)
            dist.broadcast(value, group=optimizer.holders(parameter), group_src=owner)
            yield key, value
        else:
            yield key, held[key]


def _by_rows(value: Any) -> bool:
    """Whether an item of the state of a parameter without an owner is sharded by rows, as the parameter is."""
    return isinstance(value, Tensor) and value.ndim > 0


def _sharded(shard: Tensor, like: DTensor) -> DTensor:
    return DTensor.from_local(
        shard, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def _on_host(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else value
