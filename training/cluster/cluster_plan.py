"""The plan of one of N processes on named cards: does it fit, how long does a step take at least, and what limits it?

Every time is a bound from data sheets and counts, not a measurement.
"""

from typing import TypedDict

from configs.schema import Config
from models.llama import LlamaForCausalLM
from optimizers import BaseOptimizer
from training.cluster.cards import GPUS_OF_A_MACHINE, Card
from training.cluster.process_memory import ProcessMemory, process_memory
from training.cluster.roofline import PassSeconds, Rows, communication_seconds, optimizer_seconds, pass_seconds
from training.cluster.shares import Part, part_of, parts_of_processes
from training.cluster.text_rate import filled, targets_per_core_second, targets_per_row
from training.compiler import long_enough


class LinkBounds(TypedDict):
    """`step_seconds`: the longer of forward with backward and of the messages, which may go on meanwhile, and the
    optimizer's step. `targets_per_second` is of all processes, `mfu` the share of the card's product rate."""

    communication_seconds: float
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
    is not padding. `compiled`: whether the layers are, on a machine with a compiler."""

    processes: int
    parallel: str
    micro_batch_rows: int
    micro_batches: int
    filled: float
    compiled: bool
    memory: ProcessMemory
    cards: dict[str, CardBounds]


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
    sharded = train.parallel == "fsdp2" and processes > 1
    whole = [part_of(optimizer, p, group) for group in optimizer.param_groups for p in group["params"]]
    parts = parts_of_processes(optimizer, processes) if sharded else [whole] * processes
    memory = process_memory(
        config,
        model,
        optimizer,
        parts,
        positions=micro * length,
        micro_batches=rows.micro_batches,
        activation_bytes=micro * activation_bytes,
    )
    bounds = {
        card.name: _card_bounds(config, model, parts, card, rows, memory, compiled, flops_per_position)
        for card in cards
    }
    return {
        "processes": processes,
        "parallel": train.parallel,
        "micro_batch_rows": micro,
        "micro_batches": rows.micro_batches,
        "filled": rows.filled,
        "compiled": compiled,
        "memory": memory,
        "cards": bounds,
    }


def _card_bounds(
    config: Config,
    model: LlamaForCausalLM,
    parts: list[list[Part]],
    card: Card,
    rows: Rows,
    memory: ProcessMemory,
    compiled: bool,
    flops_per_position: int,
) -> CardBounds:
    name = config.optimizer.name
    passes = pass_seconds(config, card, rows, compiled=compiled)
    distinct = parts if parts[0] is not parts[-1] else parts[:1]
    update = max(optimizer_seconds(name, mine, card) for mine in distinct)
    targets = config.train.batch_size * targets_per_row(config.data)
    flops = flops_per_position * rows.positions * rows.micro_batches
    rate = card.products(config.train.dtype, config.train.tf32)
    parts_of_pass = {
        "products": passes["products_seconds"],
        "elementwise": passes["elementwise_seconds"],
        "attention": passes["attention_seconds"],
        "loss": passes["loss_seconds"],
    }

    def over(link: float) -> LinkBounds:
        messages = _communication(config, model, link, len(parts), rows.micro_batches)
        together = sum(parts_of_pass.values())
        step = max(together, messages) + update
        named = {**parts_of_pass, "optimizer": update}
        if messages > together:
            named["communication"] = messages
        return {
            "communication_seconds": messages,
            "step_seconds": step,
            "targets_per_second": targets / step,
            "mfu": flops / (step * rate),
            "bottleneck": max(named, key=named.__getitem__),
        }

    links = {name: over(bytes_per_second) for name, bytes_per_second in _links(card, len(parts)).items()}
    eaten = max(link["targets_per_second"] for link in links.values()) / len(parts)
    return {
        **passes,
        "optimizer_seconds": update,
        "memory_bytes": int(card.memory),
        "fits": memory["peak_bytes"] <= card.memory,
        "links": links,
        "data_cores": eaten / targets_per_core_second(config.data, prepared=False),
        "prepared_data_cores": eaten / targets_per_core_second(config.data, prepared=True),
    }


def _links(card: Card, processes: int) -> dict[str, float]:
    """The links of a process, by name. Beyond one machine a ring is as fast as the network."""
    if processes == 1:
        return {"alone": card.nvlink}
    most = card.network if processes > GPUS_OF_A_MACHINE else card.nvlink
    return {"nvlink": min(card.nvlink, most), "pcie": min(card.pcie, most)}


def _communication(config: Config, model: LlamaForCausalLM, link: float, processes: int, micro_batches: int) -> float:
    parameters = sum(p.numel() for p in model.parameters())
    outside = parameters - sum(p.numel() for p in model.model.layers.parameters())
    return communication_seconds(
        config, link, parameters=parameters, outside=outside, processes=processes, micro_batches=micro_batches
    )
