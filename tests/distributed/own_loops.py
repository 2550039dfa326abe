"""DDP, FSDP2 and torch.distributed.checkpoint as docs/in-your-own-loop.md shows them: torchrun ... own_loops.py FOLDER

The first process writes what it found to FOLDER/found.json.
"""

import training.processes.repeatable_sums  # noqa: F401 - before torch

# isort: split
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

import optimizers
from optimizers import registry
from tests.optimizers.harness import gradient, options_of, parameters
from tests.optimizers.test_partition import llama
from tests.snippets import batches, snippet

ORDERS = ((True, False), (False, True, True, False))
OPTIONS = {"lr": 0.02, "adam_lr": 1e-2, "rank": 8, "leading": 2, "update_interval": 2}


def model():
    torch.manual_seed(0)
    return llama()


def whole(model) -> list[torch.Tensor]:
    return [p.detach().full_tensor() if isinstance(p, DTensor) else p.detach() for p in model.parameters()]


def difference(first, second) -> float:
    pairs = zip(whole(first), whole(second), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


def train(model, optimizer, rows) -> None:
    for batch in rows:
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def run(heading: str, **names) -> dict:
    names = {"torch": torch, "optimizers": optimizers, **names}
    exec(snippet(heading), names)
    return names


def replicas(rows) -> dict:
    """Each process trains on half of every batch; alone, on all of it."""
    half = slice(4 * dist.get_rank(), 4 * dist.get_rank() + 4)
    shares = [{key: value[half] for key, value in batch.items()} for batch in rows]
    ours = run("DistributedDataParallel", model=model(), batches=shares)["model"]
    alone = model()
    optimizer = optimizers.build(alone, "alice", **OPTIONS)
    for batch in rows:
        alone(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    others: list = [None, None]
    dist.all_gather_object(others, [weight.tolist() for weight in whole(ours)])
    return {"replicas_equal": others[0] == others[1], "replicas_from_alone": difference(ours, alone)}


def shards(rows, folder: str) -> dict:
    """Four steps; after two of them the checkpoint is saved, from which others go on."""
    checkpoints = run("torch.distributed.checkpoint")
    alone = model()
    train(alone, optimizers.build(alone, "alice", **OPTIONS), rows)
    names = run("FSDP2", model=model(), batches=rows[:2])
    ours, optimizer = names["model"], names["optimizer"]
    checkpoints["save"](ours, optimizer, folder)
    train(ours, optimizer, rows[2:])

    torch.manual_seed(1)
    resumed = llama()
    for layer in resumed.model.layers:
        fully_shard(layer)
    fully_shard(resumed)
    again = optimizers.build(resumed, "alice", **OPTIONS)
    checkpoints["load"](resumed, again, folder)
    train(resumed, again, rows[2:])
    return {
        "shards_from_alone": difference(ours, alone),
        "resumed_from_on": difference(resumed, ours),
        "sharded": sum(isinstance(p, DTensor) for p in ours.parameters()),
        "whole": [weight.tolist() for weight in whole(ours)],
    }


def mixed(name: str, sharded: tuple[bool, ...]) -> float:
    """Three steps of parameters of which some are sharded, in one group: the largest difference from one process."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))

    def placed(tensor: torch.Tensor, number: int) -> torch.Tensor:
        return distribute_tensor(tensor, mesh, [Shard(0)]) if sharded[number] else tensor

    alone = parameters([(8, 12)] * len(sharded))
    ours = [torch.nn.Parameter(placed(weight.detach().clone(), i)) for i, weight in enumerate(alone)]
    optimizer, other = (registry.get(name)[0](weights, **options_of(name)) for weights in (ours, alone))
    for step in range(3):
        for i, (mine, theirs) in enumerate(zip(ours, alone, strict=True)):
            theirs.grad = gradient((8, 12), step, i)
            mine.grad = placed(theirs.grad.clone(), i)
        optimizer.step()
        other.step()
    pairs = ((p.full_tensor() if isinstance(p, DTensor) else p, q) for p, q in zip(ours, alone, strict=True))
    return max((mine - theirs).abs().max().item() for mine, theirs in pairs)


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    rows = batches(4)
    found = {**replicas(rows), **shards(rows, str(folder / "checkpoint"))}
    names = [name for name in registry.names() if registry.options(name)["state_bits"].default == 32]
    with torch.no_grad():
        found["mixed"] = {name: max(mixed(name, order) for order in ORDERS) for name in names}
    if dist.get_rank() == 0:
        (folder / "found.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
