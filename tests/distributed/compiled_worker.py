"""Losses of two processes, eager and compiled: accelerate launch ... tests/distributed/compiled_worker.py OUT.json"""

import training.processes.repeatable_sums  # noqa: F401 - before torch

# isort: split
import itertools
import json
import sys
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import parallel as check
from models.llama import build_model
from models.unpadding import model_inputs
from training.processes.layout import Replicas, Shards
from training.processes.model_weights import set_initial_weights
from training.processes.start import start_world
from training.processes.world import World

BACKENDS = (None, "aot_eager", "inductor")  # None: not compiled
STEPS = range(3)
CPU = torch.device("cpu")


def micro_batches(step: int, world: World, packing: bool) -> list[tuple[Tensor, Tensor]]:
    """Ids and labels of this process, in two parts. Not packed, each row ends in padding of another length."""
    ids = check.batch(step)
    labels = ids.clone()
    if not packing:
        lengths = torch.randint(3, check.LENGTH, (check.ROWS, 1), generator=torch.Generator().manual_seed(step))
        labels[torch.arange(check.LENGTH) >= lengths] = -100
    ids, labels = (tensor[world.index :: world.count] for tensor in (ids, labels))
    return list(zip(ids.chunk(2), labels.chunk(2), strict=True))


def losses(
    kind: type[Replicas | Shards], world: World, *, packing: bool, checkpointing: bool, backend: str | None
) -> list[float]:
    """The mean loss of all processes at each step, each step of two micro-batches."""
    torch._dynamo.reset()
    model = build_model(check.MODEL, dtype=torch.float32, seed=0, activation_checkpointing=checkpointing, device="meta")
    if backend is not None:
        model.compile(dynamic=False, backend=backend)
    layout = kind(model, world)
    set_initial_weights(model, check.MODEL, world, seed=0)
    optimizer = check.build("adam", layout.unwrapped)
    layout.attach(optimizer)
    found = []
    for step in STEPS:
        parts = micro_batches(step, world, packing)
        targets = world.sum(sum((labels[:, 1:] != -100).sum() for _, labels in parts))
        first, last = (model_inputs(*part, CPU) for part in parts)
        with layout.no_sync():
            total = layout.model(**first).loss_sum
            (total * world.count / targets).backward()
        loss_sum = layout.model(**last).loss_sum
        (loss_sum * world.count / targets).backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append((world.sum((total + loss_sum).detach()) / targets).item())
    return found


def main(out: Path) -> None:
    world = start_world(seed=0, threads=1, deterministic=False, dtype="float32")
    backends = BACKENDS if sys.argv[2:] == ["inductor"] else BACKENDS[:2]
    found = {}
    for kind, packing, checkpointing in itertools.product((Replicas, Shards), (True, False), (True, False)):
        found[f"{kind.__name__}-{packing}-{checkpointing}"] = [
            losses(kind, world, packing=packing, checkpointing=checkpointing, backend=backend)
            for backend in (backends if kind is Shards and checkpointing else BACKENDS[:2])
        ]
    if world.is_main:
        out.write_text(json.dumps(found))
    world.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
