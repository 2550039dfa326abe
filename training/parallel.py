"""How a model lies on the processes: whole on each (`Replicas`, DDP), or its rows dealt out (`Shards`, FSDP2).

The training loop sees the same few things of both; gradients are averaged over the processes, once a step.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributed import group
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from models.llama import LlamaForCausalLM
from optimizers import BaseOptimizer
from optimizers.parallel import shards
from training.distributed import World


class Replicas:
    """The whole model on every process. With one process, just the model.

    `model` is what is called: the bare model or its wrapper. `state_device` is where a checkpoint is read to.
    """

    def __init__(self, model: LlamaForCausalLM, world: World):
        self._world, self.bare, self.model = world, model, world.replicate(model)
        self.state_device = world.device

    def adopt(self, optimizer: BaseOptimizer) -> None:
        """Keep the replicas alike: a basis is renewed once for all processes, not by each for itself."""
        if self._world.count > 1:
            optimizer.share_refreshes(group.WORLD)

    def unreduced(self) -> contextlib.AbstractContextManager:
        """Around the forward and backward passes of micro-batches whose gradients wait for the last one's."""
        return self._world.accelerator.no_sync(self.model)

    def gradient_norm(self, parameters: list[nn.Parameter], largest: float | None) -> Tensor:
        """Scalar: the norm of all gradients together, which are scaled down if it is above `largest`."""
        norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        if largest is not None:
            nn.utils.clip_grads_with_norm_(parameters, largest, norm)
        return norm

    def held(self, number: int) -> int:
        """What all processes hold together, of replicas one, where this one holds `number`."""
        return number

    def weights(self) -> dict[str, Tensor]:
        """The whole state dict of the model. All processes call it; the main one gets it."""
        return self.bare.state_dict()

    def load(self, weights: dict[str, Tensor]) -> None:
        """Take over what `weights` returned on this or another layout. RuntimeError if it is another model's."""
        self.bare.load_state_dict(weights)


class Shards:
    """Each process holds its rows of every parameter, as DTensors; a layer is whole only while it computes.

    torch's `fully_shard` directly: accelerate's FSDP2 is DDP on a CPU, and turns bfloat16 weights into float32.
    The optimizer must be built from the parameters of the sharded model.
    """

    def __init__(self, model: LlamaForCausalLM, world: World):
        self._world, self.bare, self.model = world, model, model
        self.state_device = torch.device("cpu")  # whole tensors need not fit on the device
        mesh = init_device_mesh(world.device.type, (world.count,))
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        model.to(world.device)
        if world.mixed_precision != "no":
            model.forward = torch.autocast(world.device.type, torch.bfloat16)(model.forward)

    def adopt(self, optimizer: BaseOptimizer) -> None:
        """Nothing to do: each matrix is stepped by one process."""

    @contextlib.contextmanager
    def unreduced(self) -> Iterator[None]:
        """As `Replicas.unreduced`. Whole gradients of all layers are held meanwhile."""
        self.model.set_requires_gradient_sync(False)
        yield
        self.model.set_requires_gradient_sync(True)

    def gradient_norm(self, parameters: list[nn.Parameter], largest: float | None) -> Tensor:
        """As `Replicas.gradient_norm`, from the local rows and one reduction."""
        gradients = [shards.local(parameter.grad) for parameter in parameters if parameter.grad is not None]
        norm = self._world.sum(nn.utils.get_total_norm(gradients).float().square()).sqrt()
        if largest is not None:
            torch._foreach_mul_(gradients, (largest / (norm + 1e-6)).clamp(max=1.0))  # as clip_grads_with_norm_
        return norm

    def held(self, number: int) -> int:
        """As `Replicas.held`."""
        return sum(share for (share,) in self._world.exchange(number))

    def weights(self) -> dict[str, Tensor]:
        """As `Replicas.weights`, on the CPU; {} on all processes but the main one."""
        return get_model_state_dict(self.model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))

    def load(self, weights: dict[str, Tensor]) -> None:
        """As `Replicas.load`."""
        # Of a copy, because it puts shards in the place of what it is given.
        set_model_state_dict(self.model, dict(weights), options=StateDictOptions(full_state_dict=True))


def lay_out(model: LlamaForCausalLM, world: World, *, parallel: str) -> Replicas | Shards:
    """Put `model` on the processes as `parallel` says: "ddp" or "fsdp2". One process holds all of it either way."""
    return Shards(model, world) if parallel == "fsdp2" and world.count > 1 else Replicas(model, world)
