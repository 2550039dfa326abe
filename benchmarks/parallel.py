"""Two processes against one: the same steps of an optimizer on a small LLaMA alone, under DDP and under FSDP2.

Sizes are odd, so that shards are uneven. Two processes add up in another order than one, so losses differ by rounding.
Runs in float64 show which differences are only rounding that a method amplifies.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypedDict

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

import optimizers
from analysis.tables.table import markdown, write_csv
from configs.schema import Model
from models.llama import LlamaForCausalLM, build_model
from optimizers import BaseOptimizer, registry
from training.processes.layout import Replicas, Shards
from training.processes.model_weights import set_initial_weights
from training.processes.world import World

MODEL = Model(
    name="odd sizes",
    vocab_size=101,
    hidden_size=36,
    intermediate_size=51,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=32,
)
ROWS, LENGTH = 8, 32  # of a step, all processes
# Intervals short enough that bases are refreshed within the steps.
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
    """Token ids [ROWS, LENGTH], also the labels; they have a pattern to learn."""
    source = torch.Generator().manual_seed(step)
    starts = torch.randint(MODEL.vocab_size, (ROWS, 1), generator=source)
    noise = torch.randint(3, (ROWS, LENGTH), generator=source)
    return (starts + 7 * torch.arange(LENGTH) + noise) % MODEL.vocab_size


def build(name: str, model: LlamaForCausalLM) -> BaseOptimizer:
    """The optimizer `name` at its defaults, apart from OPTIONS."""
    known = registry.options(name)
    small: dict[str, Any] = {key: value for key, value in OPTIONS.items() if key in known and known[key].default != 1}
    lr = 2e-3 if name.startswith("adam") else 0.01
    return optimizers.build(model, name, lr=lr, adam_lr=2e-3, **small)


class Share(TypedDict):
    """The part of each step that a process computes."""

    share: slice  # of the rows
    count: int  # processes
    total: Callable[[Tensor], Tensor]  # of a number over the processes


ALONE: Share = {"share": slice(None), "count": 1, "total": lambda loss: loss}


def share(world: World) -> Share:
    """The share of this process."""
    return {"share": slice(world.index, None, world.count), "count": world.count, "total": world.sum}


def train(
    forward: Callable[[Tensor, Tensor], Any],
    optimizer: BaseOptimizer,
    steps: range,
    *,
    share: slice,
    count: int,
    total: Callable[[Tensor], Tensor],
) -> list[float]:
    """Train on a share of each step's batch. Returns the loss per target of each step, over all processes."""
    losses, targets = [], ROWS * (LENGTH - 1)
    for step in steps:
        rows = batch(step)[share]
        loss_sum = forward(rows, rows).loss_sum
        (loss_sum * count / targets).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total(loss_sum.detach()).item() / targets)
    return losses


def lay_out(
    name: str, kind: type[Replicas | Shards], world: World, dtype: torch.dtype, **options: bool
) -> tuple[Replicas | Shards, BaseOptimizer]:
    """A fresh model on all processes, and its optimizer; `options` are the layout's."""
    layout = kind(build_model(MODEL, dtype=dtype, seed=0, device="meta"), world, **options)
    set_initial_weights(layout.unwrapped, MODEL, world, seed=0)
    optimizer = build(name, layout.unwrapped)
    layout.attach(optimizer)
    return layout, optimizer


def compare(name: str, world: World, steps: range, dtype: torch.dtype = torch.float32) -> Row:
    """Train by the optimizer `name` in the three ways. All processes call this together."""
    model = build_model(MODEL, dtype=dtype, seed=0)
    alone = build(name, model)
    reference = train(model, alone, steps, **ALONE)

    replicas, optimizer = lay_out(name, Replicas, world, dtype)
    ddp = train(replicas.model, optimizer, steps, **share(world))
    weights = torch.cat([parameter.detach().flatten() for parameter in replicas.unwrapped.parameters()])
    others = [torch.empty_like(weights) for _ in range(world.count)]
    dist.all_gather(others, weights)

    shards, optimizer = lay_out(name, Shards, world, dtype)
    fsdp2 = train(shards.model, optimizer, steps, **share(world))
    parameters = list(shards.unwrapped.parameters())
    return Row(
        optimizer=name,
        ddp_weights_equal=all(torch.equal(weights, other) for other in others),
        ddp_loss_difference=largest_difference(ddp, reference),
        fsdp2_loss_difference=largest_difference(fsdp2, ddp),
        bytes_alone=optimizers.state_bytes(alone),
        bytes_fsdp2=" ".join(str(held) for (held,) in world.all_gather(optimizers.state_bytes(optimizer))),
        sharded_parameters=f"{sum(isinstance(parameter, DTensor) for parameter in parameters)}/{len(parameters)}",
    )


def largest_difference(ours: list[float], theirs: list[float]) -> float:
    """Over the steps."""
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True))


def write(rows: list[Row], folder: Path, setting: str) -> None:
    """Write table.csv and table.md into `folder`; `setting`: the number of steps and their dtype."""
    write_csv(folder / "table.csv", [field.name for field in fields(Row)], [asdict(row).values() for row in rows])
    columns = (
        *("optimizer", "DDP: weights of both processes", "DDP: loss, from one process", "FSDP2: loss, from DDP"),
        *("state of one process", "FSDP2: state on each"),
    )
    heading = f"{setting} of a two-layer LLaMA of odd sizes on two processes (CPU, gloo); losses in nats per target."
    (folder / "table.md").write_text(f"{heading}\n\n{markdown(columns, map(_cells, rows))}\n")


def _cells(row: Row) -> list[str]:
    return [
        row.optimizer,
        "bitwise equal" if row.ddp_weights_equal else "DIFFERENT",
        f"{row.ddp_loss_difference:.1e}",
        f"{row.fsdp2_loss_difference:.1e}",
        f"{row.bytes_alone:,} B",
        " + ".join(f"{int(held):,}" for held in row.bytes_fsdp2.split()) + " B",
    ]
