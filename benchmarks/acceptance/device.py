"""Models, parameters, times and kernels on the device that is checked."""

import statistics
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._C._autograd import DeviceType
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from benchmarks.machine import seconds
from configs.schema import Config, load
from models.llama import LlamaForCausalLM, build_model
from models.unpadding import model_inputs
from training.cluster.text_rate import MEDIAN, SPREAD


class Size(NamedTuple):
    """A model of the paper: rows of a micro-batch that one card holds, and the rank of its methods."""

    model: str
    rows: int
    rank: int


SIZES = {
    "60m": Size("llama_60m", 256, 128),
    "130m": Size("llama_130m", 128, 256),
    "350m": Size("llama_350m", 128, 256),
    "1_3b": Size("llama_1_3b", 32, 512),
}
LENGTH = 256


def config_of(size: Size, *settings: str) -> Config:
    """Settings of a run of that model in bfloat16."""
    given = {setting.partition("=")[0] for setting in settings}
    defaults = ["data=builtin", "optimizer=adam", "train.dtype=bfloat16", f"model={size.model}"]
    return load([*(each for each in defaults if each.partition("=")[0] not in given), *settings]).config


def random_model(
    size: Size, device: torch.device, dtype: torch.dtype = torch.bfloat16, *, checkpointing: bool = False
) -> LlamaForCausalLM:
    """A model drawn on the device itself: the CPU would draw a billion numbers one after the other."""
    section = load([f"model={size.model}", "optimizer=adam"]).config.model
    model = build_model(section, dtype=dtype, seed=0, activation_checkpointing=checkpointing, device="meta")
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                weight = torch.empty(parameter.shape, dtype=dtype, device=device)
                module._parameters[name] = nn.Parameter(
                    weight.normal_(std=0.02) if weight.ndim == 2 else weight.fill_(1)
                )
    model.model.rotary_emb = LlamaRotaryEmbedding(model.config).to(device)
    return model


def rows_of_text(rows: int, *, padded: bool, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random ids and labels [rows, LENGTH] on the CPU; padded: documents of C4's lengths, one a row."""
    source = torch.Generator().manual_seed(seed)
    ids = torch.randint(32_000, (rows, LENGTH), generator=source)
    labels = ids.clone()
    if padded:
        lengths = torch.exp(torch.log(torch.tensor(MEDIAN)) + SPREAD * torch.randn(rows, generator=source))
        labels[torch.arange(LENGTH) >= lengths.clamp(min=2)[:, None]] = -100
        labels[0] = ids[0]
        labels[0, LENGTH // 2 :] = -100  # never all full
    return ids, labels


class MicroBatch(NamedTuple):
    """The arguments of a model's forward on the device, and the number of targets."""

    inputs: dict[str, Tensor]
    targets: int


def micro_batch(rows: int, device: torch.device, *, padded: bool, seed: int = 0) -> MicroBatch:
    """`rows_of_text` on the device."""
    ids, labels = rows_of_text(rows, padded=padded, seed=seed)
    return MicroBatch(model_inputs(ids, labels, device), int((labels[:, 1:] != -100).sum()))


def median_seconds(call: Callable[[], object], repeats: int = 5) -> float:
    """Of `repeats` calls, the device's work included, after one that is not counted."""
    seconds(call)
    return statistics.median(seconds(call) for _ in range(repeats))


def set_gradients(parameters: list[Tensor]) -> None:
    """Random gradients with rows and columns of different sizes."""
    for parameter in parameters:
        gradient = torch.randn_like(parameter)
        if gradient.ndim == 2:
            gradient *= torch.linspace(0.5, 2, gradient.shape[1], device=gradient.device).to(gradient.dtype)
        parameter.grad = gradient.mul_(1e-3)


class Kernels(NamedTuple):
    """What a profiler saw on the device: kernels, seconds in them, and seconds from the first to the last."""

    launches: int
    busy: float
    span: float

    @property
    def idle(self) -> float:
        """The share of the span without a kernel."""
        return 1 - self.busy / self.span


def kernels_of(call: Callable[[], object]) -> Kernels | None:
    """None without a CUDA device: then no profiler sees kernels."""
    if not torch.cuda.is_available():
        return None
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        call()
        torch.cuda.synchronize()
    events = profile.profiler.kineto_results.events()
    # torch's own name for a whole step is a span of the device too.
    on_device = [event for event in events if event.device_type() == DeviceType.CUDA and not event.is_user_annotation()]
    return covered([(event.start_ns() / 1e9, event.end_ns() / 1e9) for event in on_device])


def covered(spans: list[tuple[float, float]]) -> Kernels:
    """Kernels from their beginnings and ends in seconds, which may overlap."""
    busy, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return Kernels(len(spans), busy, end - min(start for start, _ in spans))
