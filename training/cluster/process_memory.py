"""The memory of one process on a GPU, by part: of that process which holds the most."""

from typing import Literal, TypedDict, get_args

from configs.schema import Config
from models.kernels.cross_entropy import working_bytes
from models.llama import LlamaForCausalLM
from optimizers import BaseOptimizer
from training.cluster.shares import Part, row_elements, state_bytes
from training.cluster.transients import transient_bytes

BUCKET = 25 << 20  # DDP's messages: bytes of gradients
Held = Literal["weight_bytes", "gradient_bytes", "accumulated_gradient_bytes", "optimizer_state_bytes"]
Passing = Literal["activation_bytes", "loss_bytes", "gathered_bytes", "reduction_bytes"]
HELD: tuple[Held, ...] = get_args(Held)
PASSING: tuple[Passing, ...] = get_args(Passing)


class ProcessMemory(TypedDict):
    """Bytes. Held from step to step: weights, gradients, states. During forward and backward there are the activations
    of a micro-batch, the loss's own buffers, with FSDP2 the gathered layers, and messages of gradients; during the
    optimizer's step its transients. `peak_bytes` is what is held and the larger of these two.

    `averaged_bytes`: with DDP in bfloat16 the float32 copies in which gradients are averaged. NCCL may hold all of them
    until the step has begun, so they are counted beside its transients.
    `accumulated_gradient_bytes`: with FSDP2 and more than one micro-batch the whole gradients are added up in float32.
    """

    weight_bytes: int
    gradient_bytes: int
    accumulated_gradient_bytes: int
    optimizer_state_bytes: int
    activation_bytes: int
    loss_bytes: int
    gathered_bytes: int
    reduction_bytes: int
    averaged_bytes: int
    transient_bytes: int
    peak_bytes: int


def process_memory(
    config: Config,
    model: LlamaForCausalLM,
    optimizer: BaseOptimizer,
    parts: list[list[Part]],
    *,
    positions: int,
    micro_batches: int,
    activation_bytes: int,
) -> ProcessMemory:
    """Memory of one of the processes that step `parts`, with micro-batches of `positions` positions.

    model, optimizer: of one process, on the meta device. `activation_bytes`: of a micro-batch.
    """
    parameters = list(model.parameters())
    width, processes = parameters[0].element_size(), len(parts)
    sharded = config.train.parallel == "fsdp2" and processes > 1
    whole = sum(parameter.nbytes for parameter in parameters)
    kept = width * row_elements(parameters, processes) if sharded else whole
    layers = [sum(p.nbytes for p in layer.parameters()) for layer in model.model.layers]
    found: ProcessMemory = {
        "weight_bytes": kept,
        "gradient_bytes": kept,
        "accumulated_gradient_bytes": whole // width * max(width, 4) if sharded and micro_batches > 1 else 0,
        "optimizer_state_bytes": max(state_bytes(optimizer, mine) for mine in parts),
        "activation_bytes": activation_bytes,
        "loss_bytes": working_bytes(
            positions,
            config.model.vocab_size,
            config.model.hidden_size,
            dtype=parameters[0].dtype,
            device="cuda",
        ),
        "gathered_bytes": _gathered(layers, whole) if sharded else 0,
        "reduction_bytes": _reduction(layers, whole, width, sharded) if processes > 1 else 0,
        "averaged_bytes": whole // width * 4 if processes > 1 and not sharded and width < 4 else 0,
        "transient_bytes": transient_bytes(config.optimizer.name, optimizer, processes=processes, sharded=sharded),
        "peak_bytes": 0,
    }
    found["peak_bytes"] = sum(found[key] for key in HELD) + max(
        sum(found[key] for key in PASSING), found["averaged_bytes"] + found["transient_bytes"]
    )
    return found


def _gathered(layers: list[int], whole: int) -> int:
    """FSDP2 keeps what is in no layer (embedding, last norm, lm_head) whole from forward to the end of backward. Beside
    it are the layer that computes, the next one, and the message that the next one comes in."""
    return whole - sum(layers) + 3 * max(layers)


def _reduction(layers: list[int], whole: int, width: int, sharded: bool) -> int:
    """Gradients on their way, averaged in float32: a layer of FSDP2 (or what is in none) with its copy, or two buckets
    of DDP, whose bfloat16 gradients are copied."""
    scale = 4 // min(width, 4)
    if sharded:
        return max(max(layers), whole - sum(layers)) * (1 + scale)
    return 2 * BUCKET * scale if scale > 1 else 0
