"""Steps dealt to two processes, for every method: accelerate launch ... tests/distributed/dealt_worker.py OUT.json"""

import copy
import json
import os
import sys
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import optimizers
from benchmarks import parallel as check
from models.llama import build_model
from optimizers import GaLore, registry
from optimizers.parallel import host_memory
from optimizers.parallel.dealt_steps import SentWeights
from optimizers.parallel.tensor_messages import send_to_all
from tests.distributed.worker import same, whole_state
from training.processes.layout import Replicas
from training.processes.model_weights import load_weights
from training.processes.start import start_world

FIRST, LATER = range(4), range(4, 7)  # a refresh is due within each


def trained(name, world, steps, *, deal_steps, saved=None, dtype=torch.float32):
    """Replicas after `steps`, from the beginning or from a saved state; their optimizer and losses."""
    layout, optimizer = check.lay_out(name, Replicas, world, dtype, deal_steps=deal_steps)
    if dtype == torch.bfloat16:
        optimizer.round_stochastically(0)
    if saved is not None:
        weights, state = copy.deepcopy(saved)
        load_weights(layout.unwrapped, weights)
        optimizer.load_full_state_dict(state)
    return layout, optimizer, check.train(layout.model, optimizer, steps, **check.share(world))


def equal_everywhere(layout, world) -> bool:
    weights = torch.cat([parameter.detach().flatten() for parameter in layout.unwrapped.parameters()])
    others = [torch.empty_like(weights) for _ in range(world.count)]
    dist.all_gather(others, weights)
    return all(torch.equal(weights, other) for other in others)


def alone(name, saved) -> list[float]:
    """Losses of one process that goes on from a saved state."""
    model = build_model(check.MODEL, dtype=torch.float32, seed=1)
    optimizer = check.build(name, model)
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    return check.train(model, optimizer, LATER, **check.ALONE)


def compare(name: str, world) -> dict:
    found: dict = {}
    states = {}
    for dealt in (False, True):
        layout, optimizer, _ = trained(name, world, FIRST, deal_steps=dealt)
        states[dealt] = copy.deepcopy(whole_state(layout, optimizer, world))
        if dealt:
            found["equal"] = equal_everywhere(layout, world)
            found["held"] = [held for (held,) in world.all_gather(optimizers.state_bytes(optimizer))]
            found["dealt"] = [own for (own,) in world.all_gather(optimizers.state_bytes(optimizer, dealt=True))]
            found["counted"] = layout.state_bytes(optimizer)
    found["whole"] = optimizers.state_bytes(trained(name, world, range(1), deal_steps=False)[1])
    found["same"] = same(states[True], states[False])
    found["form"] = form(states[True][1]) == form(states[False][1])
    found["later"] = {
        f"saved {'dealt' if saved else 'whole'}, goes on {'dealt' if dealt else 'whole'}": trained(
            name, world, LATER, deal_steps=dealt, saved=states[saved]
        )[2]
        for saved in (False, True)
        for dealt in (False, True)
    }
    found["alone"] = alone(name, states[True])
    return found


def form(value):
    """A state without its numbers: keys in their order, types, and tensors' dtypes, shapes and devices."""
    if isinstance(value, torch.Tensor):
        return str((value.dtype, value.shape, value.device))
    if isinstance(value, dict):
        return [(key, form(held)) for key, held in value.items()]
    if isinstance(value, list | tuple):
        return [form(held) for held in value]
    return type(value).__name__


def rounded(name: str, world) -> dict:
    """Stochastic rounding draws by the count of writes, which a resume on the other setting needs."""
    states = {}
    for dealt in (False, True):
        layout, optimizer, _ = trained(name, world, FIRST, deal_steps=dealt, dtype=torch.bfloat16)
        states[dealt] = copy.deepcopy(whole_state(layout, optimizer, world))
    return {"same": same(states[True], states[False]), "equal": equal_everywhere(layout, world)}


def refused(world, kind: str) -> dict:
    """A gradient that holds NaN on the second process where bases are due: steps of dealt or sharded matrices."""
    mesh = init_device_mesh("cpu", (world.count,))

    def placed(whole: torch.Tensor) -> torch.Tensor:
        return distribute_tensor(whole, mesh, [Shard(0)]) if kind == "sharded" else whole.clone()

    source = torch.Generator().manual_seed(0)
    starts, gradients = torch.randn(3, 8, 12, generator=source), torch.randn(6, 3, 8, 12, generator=source)
    gradients[2, 1, 7, 3] = torch.nan  # steps 1, 3 and 5 are due; row 7 is the second process's
    weights, alone = ([torch.nn.Parameter(place(start)) for start in starts] for place in (placed, torch.clone))
    optimizer, other = (GaLore(each, lr=0.1, rank=2, update_interval=2) for each in (weights, alone))
    if kind == "dealt":
        optimizer.deal_steps(dist.group.WORLD)
    stepped = 0
    for of_step in gradients:
        for weight, single, gradient in zip(weights, alone, of_step, strict=True):
            weight.grad, single.grad = placed(gradient), gradient.clone()
        try:
            optimizer.step()
            stepped += 1
        except ValueError:
            continue
        other.step()
    ends = [weight.full_tensor() if kind == "sharded" else weight for weight in weights]
    right = all(torch.allclose(end, single) for end, single in zip(ends, alone, strict=True))
    return {"stepped and right": world.all_gather(stepped, right)}


def messages(world) -> bool:
    """Whether every process gets all that the others send: large and small, of several dtypes, in any memory order."""

    def tensors(process: int) -> list[torch.Tensor]:
        value = float(process + 1)
        large, wide = torch.full((600, 512), value), torch.full((512, 600), value).mT
        small = [torch.full((3, k), value, dtype=dtype) for k in (1, 5) for dtype in (torch.bfloat16, torch.float32)]
        return [large, wide, *small, torch.full((4, 6), value)[::2].mT]

    held = [[torch.zeros_like(each) for each in tensors(process)] for process in range(world.count)]
    held[world.index] = tensors(world.index)
    for message in send_to_all(held, dist.group.WORLD):
        message.finish()
    return same(held, [tensors(process) for process in range(world.count)])


@torch.no_grad()
def large_weights(world, folder: Path) -> dict:
    """Three weights above the size that is moved to shared memory and a small one, sent twice by their owners."""
    shapes = {(600, 512): torch.float32, (1024, 1024): torch.bfloat16, (512, 600): torch.float32, (3, 4): torch.float32}
    weights = [torch.nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape, dtype in shapes.items()]
    owners = dict(zip(weights, (0, 0, 1, 1), strict=True))
    right, messages = [], []
    with mock.patch.object(host_memory, "FILES", folder):
        sender = SentWeights(owners, dist.group.WORLD)
    for value in (1.0, 2.0):
        for weight, owner in owners.items():
            if owner == world.index:
                weight.fill_(value)
        messages = sender.send(weights)
        for message in messages:
            message.finish()
        right.append(all(bool((weight == value).all()) for weight in weights))
        weights[0].data = weights[0].clone()  # as `module.to` may do
    left = len(list(folder.iterdir()))
    dist.barrier()  # the other process begins its next files when both have counted
    shared = any(isinstance(message, host_memory.Reading) for message in messages)
    return {"right": right, "shared": shared, "left behind": left}


def with_and_without_shared_memory(world, folder: Path) -> dict:
    """`large_weights` where all goes well, and where the second process has too little memory or another host."""
    folder.mkdir(exist_ok=True)
    failures = {"too little": (os, "posix_fallocate"), "another host": (host_memory, "_window")}
    found = {"one host": large_weights(world, folder)}
    for case, (owner, name) in failures.items():
        failing = mock.patch.object(
            owner, name, side_effect=OSError if world.index == 1 else None, wraps=getattr(owner, name)
        )
        with failing:
            found[case] = large_weights(world, folder)
    return found


def main(out: Path) -> None:
    world = start_world(seed=0, threads=1, deterministic=False, dtype="float32")
    names = [name for name in registry.names() if registry.get(name)[0].traits.sharding == "owner"]
    found = {"methods": {name: compare(name, world) for name in names}}
    found["rounded"] = {name: rounded(name, world) for name in ("racs", "galore")}  # GaLore's moments are, too
    found["refused"] = {kind: refused(world, kind) for kind in ("dealt", "sharded")}
    found["messages"] = world.all_gather(messages(world))
    found["large"] = with_and_without_shared_memory(world, out.parent / "memory")
    if world.is_main:
        out.write_text(json.dumps(found))
    world.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
