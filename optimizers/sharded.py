"""Parameters sharded by rows over processes, as `torch.distributed.fsdp.fully_shard` leaves them: DTensors with
placement Shard(0) on a one-dimensional mesh of W processes.

What works element by element (Adam) steps the rows that a process holds. A method that needs whole matrices has
an owner for each: matrices of one shape are dealt to the processes in turn. One all-to-all brings the owners the
gradients of up to W times as many matrices as are stacked at once, the owner steps its stack as if nothing were
sharded, and a second one hands every process its rows of the change. Only the owner holds state.

Rows lie as torch.chunk cuts them: ceil(rows / W) for each process, fewer or none for the last ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from .chunk import Chunk, Direction, working_dtype


def local(tensor: Tensor) -> Tensor:
    """The rows of `tensor` that this process holds: all, unless it is sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def processes(parameter: Tensor) -> int:
    """Over how many processes `parameter` is sharded."""
    return parameter.device_mesh.size() if isinstance(parameter, DTensor) else 1


def process(parameter: Tensor) -> int:
    """This process's place among them."""
    return parameter.device_mesh.get_local_rank() if isinstance(parameter, DTensor) else 0


def check(parameter: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Raises ValueError if `parameter` is sharded in a way that nobody here can step."""
    if not isinstance(parameter, DTensor):
        return
    if optimizer.sharding is None:
        raise ValueError(f"{type(optimizer).__name__} cannot step sharded parameters")
    if parameter.device_mesh.ndim != 1 or parameter.placements != (Shard(0),):
        raise ValueError(
            f"sharded parameters must lie by rows, Shard(0), on a mesh of one dimension; got {parameter.placements}"
        )


def owners(parameters: list[Tensor], first: int) -> dict[Tensor, int]:
    """The owner of each sharded one of `parameters`: those of one shape (or its transpose) take turns, and the next
    shape goes on where the last one ended, from process `first` mod W."""
    alike: dict[tuple[int, ...], list[Tensor]] = {}
    for parameter in parameters:
        if isinstance(parameter, DTensor):
            alike.setdefault(tuple(sorted(parameter.shape)), []).append(parameter)
    in_turn = (parameter for members in alike.values() for parameter in members)
    return {parameter: (first + i) % processes(parameter) for i, parameter in enumerate(in_turn)}


def rows(parameter: Tensor, process: int) -> slice:
    """The rows of the whole `parameter` that `process` holds."""
    each, total = -(-parameter.shape[0] // processes(parameter)), parameter.shape[0]
    return slice(min(process * each, total), min((process + 1) * each, total))


class Exchange:
    """Carries `parameters`-shaped tensors from shards to owners and back. All processes must take part."""

    def __init__(self, parameters: list[DTensor], owners: list[int]):
        mesh = parameters[0].device_mesh
        self._group, self._me, count = mesh.get_group(), mesh.get_local_rank(), mesh.size()
        self._device = parameters[0].device
        self._shapes = [parameter.shape for parameter in parameters]
        self._rows = [[rows(parameter, process) for process in range(count)] for parameter in parameters]
        self._of = [[i for i, owner in enumerate(owners) if owner == process] for process in range(count)]

    def gather(self, shards: list[Tensor]) -> list[Tensor]:
        """This process's rows of every parameter -> the whole ones of those it owns."""
        mine = self._of[self._me]
        sent = torch.cat([shards[i].flatten() for owned in self._of for i in owned])
        given = [self._elements(owned, self._me) for owned in self._of]
        taken = [self._elements(mine, process) for process in range(len(self._of))]
        received = sent.new_empty(sum(map(sum, taken)))
        self._all_to_all(received, sent, taken, given)
        # By process, and of each process by parameter.
        parts = received.split([elements for of_process in taken for elements in of_process])
        return [torch.cat(parts[k :: len(mine)]).view(self._shapes[i]) for k, i in enumerate(mine)]

    def scatter(self, wholes: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
        """Whole tensors of the parameters that this process owns, of `dtype` -> its rows of every parameter's."""
        mine = self._of[self._me]
        send = [
            whole[self._rows[i][process]].flatten()
            for process in range(len(self._of))
            for i, whole in zip(mine, wholes, strict=True)
        ]
        given = [self._elements(mine, process) for process in range(len(self._of))]
        taken = [self._elements(owned, self._me) for owned in self._of]
        sent = torch.cat(send) if send else torch.empty(0, dtype=dtype, device=self._device)
        received = sent.new_empty(sum(map(sum, taken)))
        self._all_to_all(received, sent, taken, given)
        parts = iter(received.split([elements for of_owner in taken for elements in of_owner]))
        shards = {i: next(parts) for owned in self._of for i in owned}
        return [shards[i].view(-1, *shape[1:]) for i, shape in enumerate(self._shapes)]

    def _elements(self, parameters: list[int], process: int) -> list[int]:
        """Of each of `parameters`, the elements in the rows of `process`."""
        spans = (self._rows[i][process] for i in parameters)
        return [
            (span.stop - span.start) * self._shapes[i][1:].numel() for i, span in zip(parameters, spans, strict=True)
        ]

    def _all_to_all(self, received: Tensor, sent: Tensor, taken: list[list[int]], given: list[list[int]]) -> None:
        dist.all_to_all_single(received, sent, [*map(sum, taken)], [*map(sum, given)], group=self._group)


def exchanges(parameters: list[Tensor], optimizer: torch.optim.Optimizer) -> Iterator[tuple[Exchange, list[Tensor]]]:
    """An exchange, and the parameters that it carries, for each W of `parameters`: one for each owner, mostly."""
    step = processes(parameters[0]) if parameters else 1
    for i in range(0, len(parameters), step):
        members = parameters[i : i + step]
        yield Exchange(members, [optimizer.owner(parameter) for parameter in members]), members


@dataclass
class ShardedChunk(Chunk):
    """A chunk of sharded matrices: `state`, `indices`, ... are those of the ones that this process owns."""

    exchange: Exchange

    def gradients(self) -> list[Tensor]:
        return self.exchange.gather([parameter.grad.to_local() for parameter in self.parameters])

    def descend(self, lr: float, weight_decay: float, decay_first: bool, gradients: Tensor | list[Tensor],
                direction: Direction | None, noise: None) -> None:  # fmt: skip
        weights, changes = [parameter.to_local() for parameter in self.parameters], []
        if direction is not None:
            stack = gradients if isinstance(gradients, Tensor) else self.stacked(gradients)
            formed = direction.formed(stack).mul(lr * self.lr_factor * direction.scale)
            changes = list(self.oriented(formed).unbind(0))
        changes = self.exchange.scatter(changes, working_dtype(weights[0].dtype))
        if weight_decay and decay_first:
            torch._foreach_mul_(weights, 1 - lr * weight_decay)
        torch._foreach_sub_(weights, changes)
        if weight_decay and not decay_first:
            torch._foreach_mul_(weights, 1 - lr * weight_decay)


def whole_norms(shards: list[Tensor], parameters: list[Tensor]) -> list[Tensor]:
    """Frobenius norms of tensors that lie as `parameters` do, from the rows that this process holds: one all-reduce."""
    norms = torch._foreach_norm(shards)
    if not isinstance(parameters[0], DTensor):
        return norms
    squares = torch.stack(norms).square_()
    dist.all_reduce(squares, group=parameters[0].device_mesh.get_group())
    return list(squares.sqrt_().unbind())


# ---- states


def plain(state: dict[str, Any]) -> dict[str, Any]:
    """What is not a tensor: what every process knows, whoever owns the parameter."""
    return {key: value for key, value in state.items() if not isinstance(value, Tensor)}


def tensors(state: dict[str, Any]) -> dict[str, Tensor]:
    """The rest: what only the process holds that steps the parameter, or its rows."""
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}


def full_state_dict(optimizer: torch.optim.Optimizer) -> dict:
    """`BaseOptimizer.full_state_dict`. A process holds one parameter's whole tensors at a time."""
    state_dict, first = optimizer.state_dict(), True
    for i, (parameter, group) in enumerate(members(optimizer)):
        if isinstance(parameter, DTensor):
            first = process(parameter) == 0
            if parameter in optimizer.state:
                whole = _whole_state(optimizer, parameter, group)
                state_dict["state"][i] = {key: _on_host(value) if first else None for key, value in whole}
    return state_dict if first else {}


def local_state_dict(optimizer: torch.optim.Optimizer, state_dict: dict) -> dict:
    """This process's part of a full state dict, for `load_state_dict`."""
    state = dict(state_dict["state"])
    saved = (i for group in state_dict["param_groups"] for i in group["params"])
    for i, (parameter, _) in zip(saved, members(optimizer), strict=False):  # load_state_dict refuses other numbers
        if i not in state or not isinstance(parameter, DTensor):
            continue
        if not optimizer.owns(parameter):
            state[i] = plain(state[i])
        elif optimizer.owner(parameter) is None:
            mine = rows(parameter, process(parameter))
            state[i] = {key: value[mine] if _by_rows(value) else value for key, value in state[i].items()}
    return {**state_dict, "state": state}


def members(optimizer: torch.optim.Optimizer) -> Iterator[tuple[Tensor, dict]]:
    """Every parameter with its group, in the order of a state_dict's."""
    return ((parameter, group) for group in optimizer.param_groups for parameter in group["params"])


def _whole_state(optimizer: torch.optim.Optimizer, parameter: DTensor, group: dict) -> Iterator[tuple[str, Any]]:
    """The state of `parameter` as one process would hold it, item by item, on every process."""
    held, owner, mesh = optimizer.state[parameter], optimizer.owner(parameter), parameter.device_mesh
    if owner is None:
        for key, value in held.items():
            yield key, _joined(value, parameter) if _by_rows(value) else value
        return
    for key, value in optimizer.template(parameter, group).items():
        if isinstance(value, Tensor):
            owned = optimizer.owns(parameter)
            value = held[key].contiguous() if owned else torch.empty_like(value, device=parameter.device)
            dist.broadcast(value, dist.get_global_rank(mesh.get_group(), owner), mesh.get_group())
            yield key, value
        else:
            yield key, held[key]


def _by_rows(value: Any) -> bool:
    """Whether an item of the state of a parameter without an owner lies as the parameter does."""
    return isinstance(value, Tensor) and value.ndim > 0


def _joined(shard: Tensor, like: DTensor) -> Tensor:
    whole = DTensor.from_local(
        shard, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )
    return whole.full_tensor()


def _on_host(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else value
