"""The plan of a run: its sizes, memory and work, counted on the meta device. No weight is allocated, no data opened."""

from typing import Literal, TypedDict

import torch
from torch import nn

import optimizers
from configs.schema import Config, Model
from models.kernels.cross_entropy import working_bytes
from models.llama import LlamaForCausalLM, build_model
from optimizers import BaseOptimizer, partition
from training.cluster.cards import CARDS, Card
from training.cluster.cluster_plan import Cluster, plan_cluster
from training.optimizer import build_optimizer
from training.run.cosines import BasisCosines


class Sizes(TypedDict):
    """Numbers of elements. `matrix_parameters` are stepped by the method, `adam_parameters` are all others."""

    model: str
    optimizer: str
    dtype: str
    parameters: int
    matrix_parameters: int
    adam_parameters: int
    destinations: list[str]  # lines of a table: who steps which parameters


class ForwardMemory(TypedDict):
    """Bytes that a forward pass keeps for the backward pass, see `forward_bytes`."""

    activation_bytes: int
    checkpointed_activation_bytes: int
    logits_bytes: int


class Memory(ForwardMemory):
    """Bytes of one of the processes, that which holds the most, with micro-batches of `micro_batch_rows` rows.

    Weights, gradients and the optimizer's state are exact. `layerwise_gradient_bytes` are the most bytes of gradients
    at once with train.layerwise, which one process can have alone, for the stacks of this machine's device. A
    checkpoint holds the weights and the state of all processes.
    """

    weight_bytes: int
    gradient_bytes: int
    layerwise_gradient_bytes: int
    optimizer_state_bytes: int
    checkpoint_bytes: int
    micro_batch_rows: int
    activation_checkpointing: bool


class Work(TypedDict):
    """`flops_per_position` of forward and backward, without recomputation: 6 an element of every matrix but the
    embedding, and 6 h x length a layer (all heads' width h) for attention, of which causality computes half."""

    steps: int
    batch_size: int
    sequence_length: int
    positions: int
    flops_per_position: int
    flops: int
    evaluation_steps: list[int]
    checkpoint_steps: list[int]


class Plan(Sizes, Memory, Work):
    """Everything that `plan_run` counts. Fit for JSON."""

    cluster: Cluster


def plan_run(config: Config, *, processes: int = 1, cards: list[Card] | None = None, resumed: bool = False) -> Plan:
    """The plan of the run that `config` describes; `cluster` is that of one of `processes`, which divide the batch, on
    each of `cards` (None: all that are known). `resumed`: from a checkpoint, so that model.init_from may be gone.

    Raises ValueError for a model or an optimizer that cannot be built, and ImportError for a missing package.
    """
    dtype = getattr(torch, config.train.dtype)
    model = build_model(config.model, dtype=dtype, seed=0, device="meta", resumed=resumed)
    optimizer = build_optimizer(model, config.optimizer)
    if config.train.stochastic_rounding:
        optimizer.round_stochastically(config.run.seed)
    optimizer.allocate_state()
    if config.run.record_basis_cosines:
        BasisCosines(optimizer)  # raises where no basis is kept, as in the run
    work = _work(config, model)
    row = forward_bytes(config.model, config.data.sequence_length, dtype.itemsize, device="cuda")
    cluster = plan_cluster(
        config,
        model,
        optimizer,
        processes=processes,
        cards=list(CARDS.values()) if cards is None else cards,
        activation_bytes=row[_activations(config)],
        flops_per_position=work["flops_per_position"],
    )
    memory = _memory(config, model, optimizer, cluster)
    return Plan(**_sizes(config, model, optimizer), **memory, **work, cluster=cluster)


def _activations(config: Config) -> Literal["activation_bytes", "checkpointed_activation_bytes"]:
    return "checkpointed_activation_bytes" if config.train.activation_checkpointing else "activation_bytes"


def forward_bytes(section: Model, positions: int, element_bytes: int, *, device: str) -> ForwardMemory:
    """Bytes that a forward pass over `positions` positions keeps for backward on "cpu" or "cuda", by the eager graph.

    With P positions, b bytes an element, width h, MLP width f, a heads and c heads of keys and values of width d (a in
    float32 on CUDA, whose kernel wants them repeated), and vocabulary V:
        a layer keeps P (8 h + 4 b h + 2 b d (a + c) + 4 b f + 4 a + 8): two norms (a float32 input and 4 bytes of scale
            each, the normalised values, the output), q, k, v and the attention's output, its 4 a of log-sums, four MLP
            tensors;
        `activation_bytes` = layers x that, and P (4 h + 2 b h + 4) for the final norm and the loss's gradient of it;
        `checkpointed_activation_bytes` = the same with P b h for each layer (its input), and one whole layer;
        `logits_bytes` = what the loss holds (models/kernels/cross_entropy.py).

    Temporary buffers of single operations are left out. So is what padding saves (models/unpadding.py).
    """
    h, f, layers, b = section.hidden_size, section.intermediate_size, section.num_hidden_layers, element_bytes
    heads, shared, width = section.heads()
    shared = heads if b >= 4 and device == "cuda" else shared
    layer = positions * (8 * h + 4 * b * h + 2 * b * width * (heads + shared) + 4 * b * f + 4 * heads + 8)
    outside = positions * (4 * h + 2 * b * h + 4)
    return {
        "activation_bytes": layers * layer + outside,
        "checkpointed_activation_bytes": layers * positions * b * h + layer + outside,
        "logits_bytes": working_bytes(
            positions, section.vocab_size, h, dtype=torch.float32 if b >= 4 else torch.bfloat16, device=device
        ),
    }


def _sizes(config: Config, model: nn.Module, optimizer: BaseOptimizer) -> Sizes:
    parameters = sum(p.numel() for p in model.parameters())
    method = (group for group in optimizer.param_groups if group["algorithm"] != "adam")
    matrix_parameters = sum(p.numel() for group in method for p in group["params"])
    return {
        "model": config.model.name,
        "optimizer": config.optimizer.name,
        "dtype": config.train.dtype,
        "parameters": parameters,
        "matrix_parameters": matrix_parameters,
        "adam_parameters": parameters - matrix_parameters,
        "destinations": partition.describe(optimizer).splitlines(),
    }


def _memory(config: Config, model: LlamaForCausalLM, optimizer: BaseOptimizer, cluster: Cluster) -> Memory:
    train, held, rows = config.train, cluster["memory"], cluster["micro_batch_rows"]
    element_bytes = getattr(torch, train.dtype).itemsize
    return {
        "weight_bytes": held["weight_bytes"],
        "gradient_bytes": held["gradient_bytes"],
        "layerwise_gradient_bytes": _layerwise_gradient_bytes(model, optimizer),
        "optimizer_state_bytes": held["optimizer_state_bytes"],
        "checkpoint_bytes": sum(p.nbytes for p in model.parameters()) + optimizers.state_bytes(optimizer),
        "micro_batch_rows": rows,
        "activation_checkpointing": train.activation_checkpointing,
        **forward_bytes(config.model, rows * config.data.sequence_length, element_bytes, device=_device()),
    }


def _work(config: Config, model: nn.Module) -> Work:
    train, length, section = config.train, config.data.sequence_length, config.model
    heads, _, width = section.heads()
    multiplied = sum(p.numel() for p in model.parameters() if p.ndim == 2)
    if not section.tie_word_embeddings:
        multiplied -= section.vocab_size * section.hidden_size
    flops_per_position = 6 * multiplied + 6 * section.num_hidden_layers * heads * width * length
    positions = train.steps * train.batch_size * length
    return {
        "steps": train.steps,
        "batch_size": train.batch_size,
        "sequence_length": length,
        "positions": positions,
        "flops_per_position": flops_per_position,
        "flops": flops_per_position * positions,
        "evaluation_steps": _multiples(train.eval_every, train.steps),
        "checkpoint_steps": _multiples(train.checkpoint_every, train.steps),
    }


def _layerwise_gradient_bytes(model: nn.Module, optimizer: BaseOptimizer) -> int:
    """The most bytes of gradients at once, when backward goes from the last parameter to the first and each gradient is
    freed as soon as its stack is stepped."""
    lists = optimizer.stepped_together(_device())
    together = {parameter: members for members in lists for parameter in members}
    arrived, held, most = set(), 0, 0
    for parameter in reversed(list(model.parameters())):
        arrived.add(parameter)
        held += parameter.nbytes
        most = max(most, held)
        if arrived.issuperset(together[parameter]):
            held -= sum(p.nbytes for p in together[parameter])
    return most


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _multiples(interval: int, steps: int) -> list[int]:
    """The multiples of `interval` up to `steps`, and `steps` itself; for an interval of 0, `steps` alone."""
    return [*range(interval, steps, interval), steps] if interval else [steps]
