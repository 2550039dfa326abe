"""The plan of one of N processes on named cards: does it fit, how long does a step take at least, and what limits it?

Every time is a bound from data sheets and counts, not a measurement.
"""

from dataclasses import dataclass
from typing import TypedDict

from configs.schema import Config
from models.llama import LlamaForCausalLM
from optimizers import BaseOptimizer
from training.cluster.bounds import BOUNDS
from training.cluster.cards import GPUS_OF_A_MACHINE, Card
from training.cluster.process_memory import ProcessMemory, process_memory
from training.cluster.roofline import (
    PassSeconds,
    Rows,
    communication_seconds,
    optimizer_seconds,
    pass_seconds,
    ring_seconds,
)
from training.cluster.shares import Part, Sharing, dealt_bytes, parts_of_processes
from training.cluster.text_rate import filled, targets_per_core_second, targets_per_row
from training.cluster.transients import COPIES
from training.compiler import long_enough
from training.train_settings import deals_steps


class LinkBounds(TypedDict):
    """`dealing_seconds`: to send the weights that other processes stepped. `step_seconds`: the longer of forward with
    backward and of the messages, which may go on meanwhile; then the optimizer's step and dealing.
    `targets_per_second` is of all processes, `mfu` the share of the card's product rate."""

    communication_seconds: float
    dealing_seconds: float
    step_seconds: float
    targets_per_second: float
    mfu: float
    bottleneck: str


class CardBounds(PassSeconds):
    """`links`: "nvlink" and "pcie", or "alone" for one process. `data_cores`: that each process needs to tokenise its
    text as fast, over the fastest link; `prepared_data_cores`: to read it from a prepared store."""

    optimizer_seconds: float
    memory_bytes: int
    fits: bool
    links: dict[str, LinkBounds]
    data_cores: float
    prepared_data_cores: float


class Cluster(TypedDict):
    """A step of a process is `micro_batches` of `micro_batch_rows` rows; `filled` is the share of their positions that
    is not padding. `compiled`: whether the layers are, on a machine with a compiler. `optimizer_counted`: whether the
    work of the method's step and its transients are known."""

    processes: int
    parallel: str
    micro_batch_rows: int
    micro_batches: int
    filled: float
    compiled: bool
    optimizer_counted: bool
    memory: ProcessMemory
    cards: dict[str, CardBounds]


@dataclass(frozen=True)
class Step:
    """What the processes do in one step, on whatever card. Of one process: `rows`, `peak_bytes` of memory, and `flops`
    of forward and backward. `parts`: of the optimizer's step, a list for each process. `dealt_bytes`: weights that are
    sent after it."""

    config: Config
    model: LlamaForCausalLM
    rows: Rows
    compiled: bool
    parts: list[list[Part]]
    dealt_bytes: int
    peak_bytes: int
    flops: float


def plan_cluster(
    config: Config,
    model: LlamaForCausalLM,
    optimizer: BaseOptimizer,
    *,
    processes: int,
    cards: list[Card],
    activation_bytes: int,
    flops_per_position: int,
) -> Cluster:
    """The plan of one of `processes`. model, optimizer: on the meta device.

    `activation_bytes` are of a row; `flops_per_position` as in `training.plan.Work`.
    """
    train, length = config.train, config.data.sequence_length
    share = train.batch_size // processes
    micro = min(train.micro_batch_size or share, share)
    rows = Rows(share // micro, micro, length, filled(config.data))
    compiled = train.compile is True or (train.compile == "auto" and long_enough(model, train, length, "cuda"))
    sharing = _sharing(config, processes)
    parts = parts_of_processes(optimizer, processes, sharing)
    memory = process_memory(
        config,
        model,
        optimizer,
        parts,
        positions=micro * length,
        micro_batches=rows.micro_batches,
        activation_bytes=micro * activation_bytes,
    )
    step = Step(
        config,
        model,
        rows,
        compiled,
        parts,
        dealt_bytes=dealt_bytes(optimizer) if sharing == "dealt" else 0,
        peak_bytes=memory["peak_bytes"],
        flops=flops_per_position * rows.positions * rows.micro_batches,
    )
    return {
        "processes": processes,
        "parallel": train.parallel,
        "micro_batch_rows": micro,
        "micro_batches": rows.micro_batches,
        "filled": rows.filled,
        "compiled": compiled,
        "optimizer_counted": config.optimizer.name in BOUNDS and config.optimizer.name in COPIES,
        "memory": memory,
        "cards": {card.name: card_bounds(step, card) for card in cards},
    }


def _sharing(config: Config, processes: int) -> Sharing:
    if processes == 1:
        return "whole"
    if config.train.parallel == "fsdp2":
        return "rows"
    return "dealt" if deals_steps(config.run, config.train) else "whole"


def card_bounds(step: Step, card: Card) -> CardBounds:
    """The bounds of `step` on `card`."""
    data, processes = step.config.data, len(step.parts)
    passes = pass_seconds(step.config, card, step.rows, compiled=step.compiled)
    update = max(optimizer_seconds(step.config.optimizer.name, mine, card) for mine in step.parts)
    links = {
        name: _link_bounds(step, card, passes, update, bytes_per_second)
        for name, bytes_per_second in _links(card, processes).items()
    }
    eaten = max(link["targets_per_second"] for link in links.values()) / processes
    return {
        **passes,
        "optimizer_seconds": update,
        "memory_bytes": int(card.memory),
        "fits": step.peak_bytes <= card.memory,
        "links": links,
        "data_cores": eaten / targets_per_core_second(data, prepared=False),
        "prepared_data_cores": eaten / targets_per_core_second(data, prepared=True),
    }


def _link_bounds(step: Step, card: Card, passes: PassSeconds, update: float, link: float) -> LinkBounds:
    """`update`: seconds of the optimizer's step of the slowest process. `link`: bytes per second."""
    train, processes = step.config.train, len(step.parts)
    computed = {
        "products": passes["products_seconds"],
        "elementwise": passes["elementwise_seconds"],
        "attention": passes["attention_seconds"],
        "loss": passes["loss_seconds"],
    }
    computing = sum(computed.values())
    messages = _communication(step, link)
    dealing = ring_seconds(step.dealt_bytes, processes, link)
    seconds = max(computing, messages) + update + dealing
    named = {**computed, "optimizer": update + dealing}
    if messages > computing:
        named["communication"] = messages
    return {
        "communication_seconds": messages,
        "dealing_seconds": dealing,
        "step_seconds": seconds,
        "targets_per_second": train.batch_size * targets_per_row(step.config.data) / seconds,
        "mfu": step.flops / (seconds * card.products(train.dtype, train.tf32)),
        "bottleneck": max(named, key=named.__getitem__),
    }


def _links(card: Card, processes: int) -> dict[str, float]:
    """The links of a process, by name. Beyond one machine a ring is as fast as the network."""
    if processes == 1:
        return {"alone": card.nvlink}
    most = card.network if processes > GPUS_OF_A_MACHINE else card.nvlink
    return {"nvlink": min(card.nvlink, most), "pcie": min(card.pcie, most)}


def _communication(step: Step, link: float) -> float:
    parameters = sum(p.numel() for p in step.model.parameters())
    return communication_seconds(
        step.config,
        link,
        parameters=parameters,
        outside=parameters - sum(p.numel() for p in step.model.model.layers.parameters()),
        processes=len(step.parts),
        micro_batches=step.rows.micro_batches,
    )
