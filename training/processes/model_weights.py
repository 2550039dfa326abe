"""The weights of a model that is laid out on the processes: at the start of a run, from a checkpoint and to one.

Beside what it keeps, a process holds one whole weight at a time. Only the main process holds the whole model: to read
`model.init_from`, and to save.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from models.llama import LlamaForCausalLM, drawn_weights, saved_weights
from models.model_settings import Model
from optimizers.parallel import shards
from training.processes.world import World


@torch.no_grad()
def set_initial_weights(model: LlamaForCausalLM, section: Model, world: World, *, seed: int) -> None:
    """Give `model` the weights of `build_model(section, seed=seed)`. All processes call it.

    The main process draws or reads them and sends them to all, so that replicas agree to the last bit.
    Raises ValueError on every process if `section.init_from` cannot be read.
    """
    read: list[Tensor] = []
    if section.init_from is not None:
        world.from_main(lambda: read.extend(saved_weights(section, model.dtype)))
    source = iter(read) if read else drawn_weights(model, seed)
    for parameter in model.parameters():
        if world.is_main:
            whole = next(source).to(world.device, parameter.dtype)
        else:
            whole = torch.empty(parameter.shape, dtype=parameter.dtype, device=world.device)
        if world.count > 1:
            dist.broadcast(whole, src=0)
        shards.local(parameter).copy_(whole[shards.rows(parameter, shards.process(parameter))])


def check_weights(model: LlamaForCausalLM, weights: dict[str, Tensor]) -> None:
    """Raises ValueError unless `weights` are those of such a model, by names and shapes."""
    held = _saved_once(model)
    for name in sorted(held.keys() ^ weights.keys()):
        has, lacks = ("this", "the saved") if name in held else ("the saved", "this")
        raise ValueError(f"{has} model has {name}, {lacks} model has not")
    for name, weight in weights.items():
        if weight.shape != held[name].shape:
            raise ValueError(f"{name} has the shape {tuple(weight.shape)}, this model needs {tuple(held[name].shape)}")


@torch.no_grad()
def load_weights(
    model: LlamaForCausalLM, weights: dict[str, Tensor], read: Callable[[Tensor], Tensor] = torch.clone
) -> None:
    """Give `model` the checked `weights`. `read` makes a tensor of its own of the part of each that this process keeps;
    `weights` may be on the meta device."""
    for name, parameter in _saved_once(model).items():
        mine = weights[name][shards.rows(parameter, shards.process(parameter))]
        shards.local(parameter).copy_(read(mine))


def whole_weights(model: LlamaForCausalLM, world: World) -> dict[str, Tensor]:
    """The state dict of the whole `model` with tied weights once, on the main process; {} on the others. All processes
    call it. Sharded weights are gathered to the CPU; of others it holds the live tensors."""
    weights = {}
    for name, parameter in _saved_once(model).items():
        whole = parameter.full_tensor().cpu() if isinstance(parameter, DTensor) else parameter
        if world.is_main:
            weights[name] = whole
    return weights


def _saved_once(model: LlamaForCausalLM) -> dict[str, Tensor]:
    """The weights without the second name of each tied one: a file of safetensors holds no tensor twice."""
    return {name: weight for name, weight in model.state_dict().items() if name not in model.all_tied_weights_keys}
