"""Two processes against one: every optimizer on a small LLaMA under DDP and FSDP2, written as a table.

    accelerate launch --config_file configs/accelerate/cpu_2.yaml scripts/check_parallel.py [--steps N] [--out FOLDER]
        [--dtype float64]

For each optimizer the same steps are made by one process alone, by DDP and by FSDP2; sizes are odd, so that shards are
uneven. FOLDER (results/parallel) gets table.csv and table.md. What two processes add up in another order differs by
rounding; float64 shows which differences are only that, amplified by a method.
"""

import argparse
import csv
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

import optimizers
from models.llama import LlamaForCausalLM, build_model
from optimizers import BaseOptimizer, registry
from training import distributed
from training.distributed import World
from training.parallel import Replicas, Shards

MODEL = SimpleNamespace(
    vocab_size=101,
    hidden_size=36,
    intermediate_size=51,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=32,
    rms_norm_eps=1e-6,
    rope_theta=10000.0,
    initializer_range=0.02,
    init_from=None,
)
ROWS, LENGTH = 8, 32  # of a step, all processes
# Small enough for refreshes within the steps.
OPTIONS = {"rank": 8, "leading": 3, "update_interval": 5, "history": 3}


@dataclass(frozen=True)
class Row:
    """Losses are in nats per target; bytes are of optimizer state."""

    optimizer: str
    ddp_weights_equal: bool  # on all processes, bit by bit, after the last step
    ddp_loss_difference: float  # largest over the steps, from one process
    fsdp2_loss_difference: float  # the same from DDP
    bytes_alone: int
    bytes_fsdp2: str  # on each process
    sharded_parameters: str  # of all


def batch(step: int) -> Tensor:
    """Token ids [ROWS, LENGTH], also the labels; of some pattern, so that there is something to learn."""
    source = torch.Generator().manual_seed(step)
    starts = torch.randint(MODEL.vocab_size, (ROWS, 1), generator=source)
    noise = torch.randint(3, (ROWS, LENGTH), generator=source)
    return (starts + 7 * torch.arange(LENGTH) + noise) % MODEL.vocab_size


def build(name: str, model: LlamaForCausalLM) -> BaseOptimizer:
    """The optimizer `name` at its defaults but for OPTIONS."""
    known = registry.options(name)
    small = {key: value for key, value in OPTIONS.items() if key in known and known[key].default != 1}
    lr = 2e-3 if name.startswith("adam") else 0.01
    return optimizers.build(model, name, lr=lr, adam_lr=2e-3, **small)


def train(
    forward: Callable, optimizer: BaseOptimizer, steps: range, *, share: slice, count: int, total: Callable
) -> list[float]:
    """The loss per target of each step, all processes; this one computes the rows `share` of it, one of `count`."""
    losses, targets = [], ROWS * (LENGTH - 1)
    for step in steps:
        rows = batch(step)[share]
        loss_sum = forward(rows, rows).loss_sum
        (loss_sum * count / targets).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total(loss_sum.detach()).item() / targets)
    return losses


def share(world: World) -> dict:
    """What `train` needs to know of this process's share."""
    return {"share": slice(world.index, None, world.count), "count": world.count, "total": world.sum}


ALONE = {"share": slice(None), "count": 1, "total": lambda loss: loss}


def lay_out(
    name: str, kind: type[Replicas | Shards], world: World, dtype: torch.dtype
) -> tuple[Replicas | Shards, BaseOptimizer]:
    """A fresh model on all processes, and its optimizer."""
    layout = kind(build_model(MODEL, dtype=dtype, seed=0), world)
    optimizer = build(name, layout.bare)
    layout.adopt(optimizer)
    return layout, optimizer


def compare(name: str, world: World, steps: range, dtype: torch.dtype = torch.float32) -> Row:
    """Train by the optimizer `name` in the three ways. For all processes together."""
    model = build_model(MODEL, dtype=dtype, seed=0)
    alone = build(name, model)
    reference = train(model, alone, steps, **ALONE)

    replicas, optimizer = lay_out(name, Replicas, world, dtype)
    ddp = train(replicas.model, optimizer, steps, **share(world))
    weights = torch.cat([parameter.detach().flatten() for parameter in replicas.bare.parameters()])
    others = [torch.empty_like(weights) for _ in range(world.count)]
    dist.all_gather(others, weights)

    shards, optimizer = lay_out(name, Shards, world, dtype)
    fsdp2 = train(shards.model, optimizer, steps, **share(world))
    parameters = list(shards.bare.parameters())
    return Row(
        optimizer=name,
        ddp_weights_equal=all(torch.equal(weights, other) for other in others),
        ddp_loss_difference=largest_difference(ddp, reference),
        fsdp2_loss_difference=largest_difference(fsdp2, ddp),
        bytes_alone=optimizers.state_bytes(alone),
        bytes_fsdp2=" ".join(str(held) for (held,) in world.exchange(optimizers.state_bytes(optimizer))),
        sharded_parameters=f"{sum(isinstance(parameter, DTensor) for parameter in parameters)}/{len(parameters)}",
    )


def largest_difference(ours: list[float], theirs: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True))


def write(rows: list[Row], folder: Path, setting: str) -> None:
    """table.csv and table.md in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [field.name for field in fields(Row)]
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    lines = [
        f"{setting} of a two-layer LLaMA of odd sizes on two processes (CPU, gloo); losses in nats per target.",
        "",
        "| optimizer | DDP: weights of both processes | DDP: loss, from one process | FSDP2: loss, from DDP "
        "| state of one process | FSDP2: state on each |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        equal = "bitwise equal" if row.ddp_weights_equal else "DIFFERENT"
        lines.append(
            f"| {row.optimizer} | {equal} | {row.ddp_loss_difference:.1e} | {row.fsdp2_loss_difference:.1e} "
            f"| {row.bytes_alone:,} B | {' + '.join(f'{int(held):,}' for held in row.bytes_fsdp2.split())} B |"
        )
    (folder / "table.md").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("results/parallel"))
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    arguments = parser.parse_args()
    world = distributed.start(seed=0, threads=1, deterministic=False, dtype="float32")
    if world.count < 2:
        sys.exit("one process: launch with configs/accelerate/cpu_2.yaml")
    dtype = getattr(torch, arguments.dtype)
    rows = [compare(name, world, range(arguments.steps), dtype) for name in registry.names()]
    if world.is_main:
        write(rows, arguments.out, f"{arguments.steps} steps in {arguments.dtype}")
        print((arguments.out / "table.md").read_text())
    world.close()


if __name__ == "__main__":
    main()
