"""How the processes hold a model: each the whole of it (`Replicas`, DDP), or each its rows (`Shards`, FSDP2).

Both have the same attributes and methods, and take a model on the meta device: it gets memory here, for what this
process holds of it, and values in `model_weights`. Gradients are averaged over the processes, once a step.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributed import group
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from models.llama import LlamaForCausalLM, allocate
from models.unpadding import model_inputs
from optimizers import BaseOptimizer, state_bytes
from optimizers.parallel import shards
from training.processes.world import World


def norm_of_all(gradients: list[Tensor]) -> Tensor:
    """Scalar: the norm of all gradients together, in float32 at least; one in bfloat16 would have eight bits."""
    dtype = torch.promote_types(gradients[0].dtype, torch.float32)
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients, 2, dtype)))


class Replicas:
    """The whole model on every process. With one process, just the model.

    Attributes:
        unwrapped: the model itself.
        model: the module to call: the model or its wrapper.
        keeps_gradients: whether gradients are zeroed after a step, not freed: they are views of DDP's buckets, which
            stay, and micro-batches would make them once more beside the buckets.
    """

    def __init__(self, model: LlamaForCausalLM, world: World, *, deal_steps: bool = False):
        allocate(model, world.device)
        self._world, self.unwrapped, self.model = world, model, world.replicate(model)
        self._deal_steps = deal_steps
        self.keeps_gradients = world.count > 1
        if self.keeps_gradients:
            self._form_buckets()

    def _form_buckets(self) -> None:
        """Let DDP form its last buckets now, with weights that hold nothing yet.

        It forms them anew after the first backward pass, in the order in which gradients came, and three processes or
        more then add in another order. That must not happen at one step of a run and at another of its resumption. The
        second pass makes them, and leaves the gradients there.
        """
        ids = torch.zeros(1, 2, dtype=torch.long)
        for _ in range(2):
            with torch.compiler.set_stance("force_eager"):
                self.model(**model_inputs(ids, ids, self._world.device)).loss_sum.backward()
        self.model.zero_grad(set_to_none=False)

    def attach(self, optimizer: BaseOptimizer) -> None:
        """Keep the replicas equal: one process steps a matrix, or only refreshes its basis, and sends it to the
        others."""
        if self._world.count > 1:
            assert group.WORLD is not None
            if self._deal_steps:
                optimizer.deal_steps(group.WORLD)
            else:
                optimizer.share_refreshes(group.WORLD)

    def no_sync(self) -> contextlib.AbstractContextManager:
        """Around forward and backward of every micro-batch but the last: processes do not exchange gradients yet."""
        return self._world.accelerator.no_sync(self.model)

    def gradient_norm(self, parameters: list[nn.Parameter], largest: float | None) -> Tensor:
        """Scalar: the norm of all gradients together, which are scaled down if it is above `largest`."""
        norm = norm_of_all([parameter.grad for parameter in parameters if parameter.grad is not None])
        if largest is not None:
            nn.utils.clip_grads_with_norm_(parameters, largest, norm)
        return norm

    def state_bytes(self, optimizer: BaseOptimizer) -> int:
        """Bytes of the state of one copy of the model. All processes call it."""
        owned = state_bytes(optimizer, dealt=True)
        return state_bytes(optimizer) - owned + sum(share for (share,) in self._world.all_gather(owned))


class Shards:
    """Each process holds its rows of every parameter, as DTensors; a layer is whole only while it computes.

    It calls torch's `fully_shard` directly: accelerate's FSDP2 is DDP on a CPU and casts bfloat16 weights to float32.
    The optimizer must be built from the parameters of the sharded model.
    """

    keeps_gradients = False

    def __init__(self, model: LlamaForCausalLM, world: World):
        self._world, self.unwrapped, self.model = world, model, model
        mesh = init_device_mesh(world.device.type, (world.count,))
        precision = MixedPrecisionPolicy(reduce_dtype=torch.promote_types(model.dtype, torch.float32))
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh, mp_policy=precision)
        self._sharded = fully_shard(model, mesh=mesh, mp_policy=precision)
        allocate(model, world.device)
        world.autocast(model)

    def attach(self, optimizer: BaseOptimizer) -> None:
        """Nothing to do: each matrix is stepped by one process."""

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """As `Replicas.no_sync`. The whole gradients of all layers are held meanwhile."""
        self._sharded.set_requires_gradient_sync(False)
        yield
        self._sharded.set_requires_gradient_sync(True)

    def gradient_norm(self, parameters: list[nn.Parameter], largest: float | None) -> Tensor:
        """As `Replicas.gradient_norm`, from the local rows and one reduction."""
        gradients = [shards.local(parameter.grad) for parameter in parameters if parameter.grad is not None]
        norm = self._world.sum(norm_of_all(gradients).square()).sqrt()
        if largest is not None:
            torch._foreach_mul_(gradients, (largest / (norm + 1e-6)).clamp(max=1.0))  # as clip_grads_with_norm_
        return norm

    def state_bytes(self, optimizer: BaseOptimizer) -> int:
        """As `Replicas.state_bytes`."""
        return sum(share for (share,) in self._world.all_gather(state_bytes(optimizer)))


Layout = Replicas | Shards


def lay_out(model: LlamaForCausalLM, world: World, *, parallel: str, deal_steps: bool = False) -> Layout:
    """Put `model`, still without memory, on the processes as `parallel` says: "ddp" or "fsdp2". A single process holds
    all of it either way.

    To be called before the parameters are handed to an optimizer: shards are other parameters than those of `model`.
    """
    if parallel == "fsdp2" and world.count > 1:
        return Shards(model, world)
    return Replicas(model, world, deal_steps=deal_steps)
