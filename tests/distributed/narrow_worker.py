"""States of sharded parameters that need wholes, and dealt steps: accelerate launch ... narrow_worker.py OUT.json"""

import training.processes.repeatable_sums  # noqa: F401 - before torch

# isort: split
import copy
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import optimizers
from optimizers import registry
from optimizers.engine import BaseOptimizer
from optimizers.engine.options import LearningRate, Momentum, WeightDecay, declared
from optimizers.functional.numerics import average
from tests.optimizers.harness import gradient, parameters
from training.processes.start import start_world

# 71 rows are 36 and 35: a block of 256 elements spans the rows of both. The last is too small for bytes.
SHAPES = [(71, 70), (70, 71), (71, 70), (9, 7)]
NAMES = ("muon", "lion", "adam", "lamb", "alice", "unit")


class Unit(BaseOptimizer):
    """A new method for any shape that says nothing of shards: momentum of unit norm."""

    def __init__(self, params, lr: LearningRate = 0.01, *, momentum: Momentum = 0.9, weight_decay: WeightDecay = 0.0):
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay)

    def allocate(self, parameter, group):
        return {"step": 0, "exp_avg": torch.zeros_like(parameter)}

    def step_group(self, group, parameters):
        for parameter in parameters:
            self.state[parameter]["step"] += 1
            mean = average(self.state[parameter]["exp_avg"], parameter.grad, group["momentum"])
            parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(mean / mean.norm(), alpha=group["lr"])


SMALL = {"rank": 60, "leading": 20, "update_interval": 3}


def make(name, weights, bits):
    cls = Unit if name == "unit" else registry.get(name)[0]
    small = {key: value for key, value in SMALL.items() if key in declared(cls)}
    return cls(weights, lr=0.01, weight_decay=0.1, state_bits=bits, **small)


def sharded(weights, mesh):
    return [torch.nn.Parameter(distribute_tensor(weight.detach().clone(), mesh, [Shard(0)])) for weight in weights]


def step(optimizer, steps, mesh=None):
    for t in steps:
        for index, weight in enumerate(optimizer.param_groups[0]["params"]):
            whole = gradient(SHAPES[index], t, index).to(weight.dtype)
            weight.grad = whole if mesh is None else distribute_tensor(whole, mesh, [Shard(0)])
        optimizer.step()


def whole(optimizer):
    return [getattr(p.detach(), "full_tensor", p.detach)().clone() for p in optimizer.param_groups[0]["params"]]


def largest(first, second):
    return max((a - b).abs().max().item() for a, b in zip(first, second, strict=True))


def measured(name, world, mesh, bits=8):
    """Distances of sharded steps from those of one process, and of what goes on from a full state dict."""
    start = parameters(SHAPES, torch.float32)
    if bits == 32:  # of two dtypes
        start[1] = torch.nn.Parameter(start[1].detach().bfloat16())
    alone, shards = (
        make(name, [torch.nn.Parameter(w.detach().clone()) for w in start], bits),
        make(name, sharded(start, mesh), bits),
    )
    step(alone, range(1, 4)), step(shards, range(1, 4), mesh)
    whole_state = copy.deepcopy(shards.full_state_dict())
    saved = world.from_main(lambda: whole_state)
    weights = whole(shards)
    step(alone, range(4, 7)), step(shards, range(4, 7), mesh)
    again = make(name, sharded(weights, mesh), bits)
    again.load_full_state_dict(copy.deepcopy(saved))
    step(again, range(4, 7), mesh)
    single = make(name, [torch.nn.Parameter(weight.clone()) for weight in weights], bits)
    single.load_state_dict(copy.deepcopy(saved))
    step(single, range(4, 7))
    held = [state.get("exp_avg") for state in shards.state.values()]
    return {
        "from alone": largest(whole(shards), whole(alone)),
        "moved": largest(whole(alone), start),
        "resumed": largest(whole(again), whole(shards)),
        "resumed alone": largest(whole(single), whole(shards)),
        "bytes": [int(own) for (own,) in world.all_gather(optimizers.state_bytes(shards))],
        "bytes alone": optimizers.state_bytes(alone),
        "narrow": world.all_gather(sum(1 for moment in held if moment is not None and moment.dtype == torch.uint8)),
    }


def dealt(world):
    """Distances of dealt steps of Muon, whose momentum is rounded stochastically and whose steps are not counted, from
    those of one process; of what goes on from their full state dict; and the counts of roundings in that."""

    def muon(weights):
        return registry.get("muon")[0](weights, lr=0.01, momentum=0.99, state_bits=8)

    def copies(weights):
        return [torch.nn.Parameter(weight.detach().clone()) for weight in weights]

    start = parameters(SHAPES, torch.float32)
    alone, shared = muon(copies(start)), muon(copies(start))
    shared.deal_steps(dist.group.WORLD)
    step(alone, range(1, 4)), step(shared, range(1, 4))
    whole_state = copy.deepcopy(shared.full_state_dict())
    saved = world.from_main(lambda: whole_state)
    again, single = muon(copies(whole(shared))), muon(copies(whole(shared)))
    again.deal_steps(dist.group.WORLD)
    again.load_full_state_dict(copy.deepcopy(saved)), single.load_state_dict(copy.deepcopy(saved))
    for optimizer in (alone, shared, again, single):
        step(optimizer, range(4, 7))
    return {
        "from alone": largest(whole(shared), whole(alone)) / largest(whole(alone), start),
        "resumed": largest(whole(again), whole(shared)),
        "resumed alone": largest(whole(single), whole(shared)) / largest(whole(alone), start),
        "roundings": [state.get("roundings") for state in saved["state"].values()],
    }


def main(out: Path) -> None:
    world = start_world(seed=0, threads=1, deterministic=False, dtype="float32")
    mesh = init_device_mesh("cpu", (world.count,))
    found = {name: measured(name, world, mesh) for name in NAMES}
    found["wide"] = measured("unit", world, mesh, bits=32)
    found["dealt"] = dealt(world)
    if world.is_main:
        out.write_text(json.dumps(found))
    world.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
