"""The least time of a step on a GPU: each kernel takes the longer of its FLOPs and its bytes at the card's rates.

Not counted: launches, the optimizer's refreshes, reads of a cache, waiting. `ELEMENTWISE` for eager layers was counted
on fake CUDA tensors, that for compiled layers is what their fused kernels cannot do without (docs/gpu.md).
"""

import math
from typing import NamedTuple, TypedDict

import torch

from configs.schema import Config, Model
from models.kernels.cross_entropy import CHUNK
from optimizers import registry
from training.cluster.bounds import BOUNDS, Work
from training.cluster.cards import Card
from training.cluster.shares import Part


class Elementwise(NamedTuple):
    """Bytes of the passes between the products of a layer, for a position. Of each, hidden_size (h) or
    intermediate_size (f) times: bytes of float32 numbers, and numbers of the model's dtype."""

    h_bytes: int
    h_numbers: int
    f_numbers: int
    h_padding: int  # numbers more where padding is left out and put back for attention

    def bytes(self, section: Model, width: int, *, unpadded: bool) -> int:
        h, f = section.hidden_size, section.intermediate_size
        numbers = self.h_numbers + (self.h_padding if unpadded else 0)
        return h * self.h_bytes + width * (h * numbers + f * self.f_numbers)


# Forward and backward, and what the second forward of activation checkpointing adds.
ELEMENTWISE = {
    "eager": (Elementwise(274, 65, 28, 32), Elementwise(89, 15, 5, 18)),
    "compiled": (Elementwise(0, 32, 9, 32), Elementwise(0, 13, 3, 18)),
}
# Passes over the logits: bytes a logit of the model's width b.
LOGIT_BYTES = {"eager": lambda width: 12 + width, "compiled": lambda width: 12}


class PassSeconds(TypedDict):
    """Of a step of one process: all its micro-batches."""

    products_seconds: float
    elementwise_seconds: float
    attention_seconds: float
    loss_seconds: float


class Rows(NamedTuple):
    """What a process computes in a step: `micro_batches` of `rows` rows each, of which a share holds text."""

    micro_batches: int
    rows: int
    length: int
    filled: float

    @property
    def positions(self) -> float:
        """Of a micro-batch, padding left out."""
        return self.rows * self.length * self.filled


def pass_seconds(config: Config, card: Card, rows: Rows, *, compiled: bool) -> PassSeconds:
    """Forward and backward of a step."""
    section, train = config.model, config.train
    width, form = getattr(torch, train.dtype).itemsize, "compiled" if compiled else "eager"
    positions, layers = rows.positions, section.num_hidden_layers
    rate = card.products(train.dtype, train.tf32)
    again = train.activation_checkpointing
    products = sum(_product(card, rate, positions, i, o, width) for i, o in _matrices(section)) * (4 if again else 3)
    plain, recomputed = ELEMENTWISE[form]
    passes = plain.bytes(section, width, unpadded=rows.filled < 1)
    passes += recomputed.bytes(section, width, unpadded=rows.filled < 1) if again else 0
    times = rows.micro_batches
    return {
        "products_seconds": times * layers * products,
        "elementwise_seconds": times * layers * positions * passes / card.bandwidth,
        "attention_seconds": times * layers * _attention(section, card, rate, rows, width, again),
        "loss_seconds": times * _loss(section, card, rate, positions, width, form),
    }


def _matrices(section: Model) -> list[tuple[int, int]]:
    """Inputs and outputs of the matrices of a layer."""
    h, f = section.hidden_size, section.intermediate_size
    heads, shared, width = section.heads()
    q, kv = heads * width, shared * width
    return [(h, q), (h, kv), (h, kv), (q, h), (h, f), (h, f), (f, h)]


def _product(card: Card, rate: float, positions: float, inputs: int, outputs: int, width: int) -> float:
    """Seconds of one of the three products of a matrix; the operands of all three are of the same sizes."""
    moved = width * (positions * (inputs + outputs) + inputs * outputs)
    return max(2 * positions * inputs * outputs / rate, moved / card.bandwidth)


def _attention(section: Model, card: Card, rate: float, rows: Rows, width: int, again: bool) -> float:
    """Of a layer. The flash kernel makes two products forward and five backward, of each the causal half. It reads and
    writes q, k, v and the output once forward, and these and their gradients backward. Padding is computed too."""
    heads, _, each = section.heads()
    positions, size = rows.rows * rows.length, heads * each
    flops = positions * size * rows.length * (9 if again else 7)
    moved = positions * size * width * (16 if again else 12)
    return max(flops / rate, moved / card.bandwidth)


def _loss(section: Model, card: Card, rate: float, positions: float, width: int, form: str) -> float:
    """Three products, of which the first writes float32, passes over the logits, and the weight's gradient, which each
    chunk adds to in float32."""
    h, vocabulary = section.hidden_size, section.vocab_size
    chunks = math.ceil(positions / CHUNK["cuda"])
    logits = max(2 * positions * h * vocabulary / rate, positions * (4 * vocabulary + width * h) / card.bandwidth)
    gradients = 2 * _product(card, rate, positions, h, vocabulary, width)
    moved = positions * vocabulary * LOGIT_BYTES[form](width) + chunks * 12 * h * vocabulary
    return logits + gradients + moved / card.bandwidth


def optimizer_seconds(name: str, parts: list[Part], card: Card) -> float:
    """A plain step of the tensors that a process steps: of each the bound, at the float32 rate unless its products are
    in bfloat16 (`ns_dtype`). Refreshes are left out."""
    total = 0.0
    for part in parts:
        work = step_work(name, part)
        low = part.group.get("ns_dtype", "float32") != "float32"
        total += max(work.flops / (card.bfloat16 if low else card.float32), work.bytes / card.bandwidth)
    return total


def step_work(name: str, part: Part) -> Work:
    """The bound of a step of one tensor; without one for the method, that of reading a gradient and writing weights.

    Moments that are bytes are read and written as such. The bounds of names whose moments always are know it.
    """
    tensor, group, byte_elements = part
    width, elements = tensor.element_size(), tensor.numel()
    if group["algorithm"] == "adam":
        return BOUNDS["adam"](1, elements, 1, width)
    if name not in BOUNDS:
        return Work(0, 3 * width * elements)
    m, n = sorted(tensor.shape) if tensor.ndim == 2 else (1, elements)
    bound = BOUNDS[name](m, n, min(group.get("rank", 1), m), width)
    saved = 0 if registry.get(name)[0].traits.state_bits == 8 else 2 * (width - 1) * byte_elements
    return Work(bound.flops, bound.bytes - saved)


def communication_seconds(
    config: Config, link: float, *, parameters: int, outside: int, processes: int, micro_batches: int
) -> float:
    """Messages of a step, each process sending and receiving (N - 1) / N of them in a ring at `link` bytes/s.

    DDP: gradients, averaged in float32, there and back. FSDP2: layers are gathered for forward and for backward of each
    micro-batch, the `outside` elements that are in no layer once, and gradients are scattered in float32 once. The
    optimizer's own messages are left out.
    """
    width = getattr(torch, config.train.dtype).itemsize
    if config.train.parallel == "ddp":
        moved = 2 * max(width, 4) * parameters
    else:
        gathered = width * (2 * parameters - outside) * micro_batches
        moved = gathered + max(width, 4) * parameters
    return ring_seconds(moved, processes, link)


def ring_seconds(moved: float, processes: int, link: float) -> float:
    """Of `moved` bytes, of which each process sends and receives (N - 1) / N at `link` bytes/s."""
    return moved * (processes - 1) / processes / link
