"""A race of optimizer steps: all candidates take turns on the same parameters and gradients."""

import itertools
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn

import optimizers
from analysis.paths import EXPERIMENTS
from benchmarks.machine import rates, seconds
from benchmarks.peers import LR, interval, peers, set_interval
from configs.schema import Config, load
from models.llama import build_model
from optimizers import partition, registry
from optimizers.functional.numerics import working_dtype

NEVER = 10**9  # an update_interval that no benchmark reaches


@dataclass
class Candidate:
    """An implementation in the race; `algorithm` is the registry's name of its method."""

    name: str
    algorithm: str
    optimizer: torch.optim.Optimizer
    interval: int | None
    seconds: dict[int, float] = field(default_factory=dict)  # of steps without refresh, by round
    refresh_seconds: list[float] = field(default_factory=list)  # of steps with one
    peak_bytes: int = 0

    def step(self) -> float:
        """Median seconds without refresh."""
        return statistics.median(self.seconds.values())

    def refresh(self) -> float:
        """Seconds that a step with refresh takes more."""
        return max(0.0, statistics.median(self.refresh_seconds) - self.step()) if self.refresh_seconds else 0.0

    def mean(self) -> float:
        """Seconds of a step, its share of a refresh included."""
        return self.step() + self.refresh() / (self.interval or 1)


@dataclass
class Machine:
    """Rates of one round each: bytes/s of memory (read and written), FLOP/s of a square product."""

    bandwidth: list[float] = field(default_factory=list)
    gemm: list[float] = field(default_factory=list)


def paper_settings(config: Config) -> Config:
    """The paper's settings of Alice for the model, or Alice's own where the paper has none."""
    file = EXPERIMENTS / "table2" / config.model.name.removeprefix("llama_") / "alice.yaml"
    return load([str(file)] if file.is_file() else ["optimizer=alice"]).config


class Parts(NamedTuple):
    """Parameters with small weights, and gradients for them: for the matrices, then for the rest."""

    matrices: list[nn.Parameter]  # the method's
    rest: list[nn.Parameter]  # Adam's, or nothing
    gradients: list[torch.Tensor]


def parts(config: Config, *, whole: bool) -> Parts:
    """The attention and MLP matrices of the model and, if `whole`, the rest."""
    dtype, device = getattr(torch, config.train.dtype), "cuda" if torch.cuda.is_available() else "cpu"
    model = build_model(config.model, dtype=dtype, seed=0, device="meta")
    groups = partition.parameter_groups(model, last_layer="adam")[: 2 if whole else 1]
    source = torch.Generator().manual_seed(0)

    def drawn(shape: torch.Size) -> tuple[nn.Parameter, torch.Tensor]:
        weight, gradient = torch.randn(2, *shape, generator=source)
        # Rows and columns of different sizes, as real gradients have them.
        rows = torch.logspace(-3, -4, shape[0])
        gradient = gradient * (rows if len(shape) == 1 else rows[:, None] * torch.linspace(0.5, 2, shape[1]))
        return nn.Parameter((0.02 * weight).to(device, dtype)), gradient.to(device, dtype)

    pairs = [[drawn(parameter.shape) for _, parameter in group["params"]] for group in groups]
    matrices, rest = ([parameter for parameter, _ in group] for group in (*pairs, [])[:2])
    return Parts(matrices, rest, [gradient for group in pairs for _, gradient in group])


def race(model: Parts, names: list[str], rank: int, leading: int, *, with_peers: bool) -> list[Candidate]:
    """All candidates, each with its own state on the same parameters; the first is torch's fused AdamW."""
    fused = torch.optim.AdamW(model.matrices + model.rest, LR, fused=True)
    candidates = [Candidate("torch AdamW, fused", "adam", fused, None)]
    for name in names:
        optimizer = _registered(name, model, {"rank": rank, "leading": leading})
        candidates.append(Candidate(name, name, optimizer, interval(optimizer)))
    if with_peers:
        for name, peer in peers().items():
            if peer.algorithm in names and (peer.takes_rest or not model.rest):
                other = peer.make(model.matrices, model.rest, rank, leading)
                candidates.append(Candidate(name, peer.algorithm, other, interval(other)))
    return candidates


def _registered(name: str, model: Parts, ranks: dict[str, int]) -> optimizers.BaseOptimizer:
    """The registry's optimizer, with those of `ranks` that are its options and not fixed by its name."""
    cls, presets = registry.get(name)
    options = {key: value for key, value in ranks.items() if key in registry.options(name) and key not in presets}
    groups: list[dict[str, Any]] = [{"params": model.matrices}]
    if model.rest:
        algorithm = "method" if cls.traits.steps_everything else "adam"
        groups.append({"params": model.rest, "lr": LR, "algorithm": algorithm})
    return cls(groups, lr=LR, **presets, **options)


def measure(candidates: list[Candidate], model: Parts, machine: Machine, rounds: int, refreshes: int, *,
            patience: float) -> None:  # fmt: skip
    """Fill in the seconds of all candidates and of the machine, round by round.

    A candidate that has taken more than `patience` seconds in three rounds or more sits out the other rounds; one that
    has taken more in its refreshes sits out the other refreshes.
    """
    parameters = model.matrices + model.rest
    for candidate in candidates:  # state and first bases; SOAP's first update is the second step
        _step(candidate, model)
        set_interval(candidate.optimizer, NEVER)
        for _ in range(2):
            _step(candidate, model)
    measure_rates = rates(parameters[0].device, working_dtype(parameters[0].dtype))
    for number in range(rounds):
        bandwidth, gemm = measure_rates()
        machine.bandwidth.append(bandwidth)
        machine.gemm.append(gemm)
        for candidate in candidates:
            if len(candidate.seconds) < 3 or sum(candidate.seconds.values()) < patience:
                candidate.seconds[number] = _step(candidate, model)
    for candidate in itertools.chain.from_iterable([candidates] * refreshes):
        if candidate.interval and sum(candidate.refresh_seconds) < patience:
            set_interval(candidate.optimizer, 1)
            candidate.refresh_seconds.append(_step(candidate, model))
            set_interval(candidate.optimizer, NEVER)
    for candidate in candidates:
        _step(candidate, model)  # sets fresh gradients
        candidate.peak_bytes = peak_bytes(candidate.optimizer.step, parameters[0].device)


def _step(candidate: Candidate, model: Parts) -> float:
    """Seconds of a step on fresh copies of the gradients.

    Some packages change gradients, and every candidate should find them in the same state of the caches.
    """
    for parameter, gradient in zip(model.matrices + model.rest, model.gradients, strict=True):
        parameter.grad = gradient.clone() if parameter.grad is None else parameter.grad.copy_(gradient)
    return seconds(candidate.optimizer.step)


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """The most that `call` has allocated at once, its kernels' buffers included."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return torch.cuda.max_memory_allocated() - before
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the profiler sees only one thread
    with torch.profiler.profile(profile_memory=True) as profile:
        call()
    torch.set_num_threads(threads)
    events = profile.profiler.kineto_results.events()
    changes = [event.nbytes() for event in events if event.name() == "[memory]"]
    return max(0, *itertools.accumulate(changes)) if changes else 0
