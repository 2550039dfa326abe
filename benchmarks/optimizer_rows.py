"""The table and the picture of a race of optimizer steps."""

import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch

import optimizers
from analysis.tables.table import write_csv
from benchmarks.optimizers import Candidate, Machine, Parts
from benchmarks.peers import state_bytes
from configs.schema import Config
from optimizers import registry
from training.cluster.bounds import BOUNDS
from training.plan import plan_run
from training.run.drawing import BLUE, MUTED, default_style

PAPER_POSITIONS = 131_072  # of a training step


@dataclass(frozen=True)
class Row:
    """One candidate. Times are medians of rounds; ratios are medians of the ratios of each round."""

    optimizer: str
    algorithm: str
    step_ms: float  # without refresh
    times_adam: float  # over torch's fused AdamW
    refresh_ms: float  # more in a step with refresh
    interval: int | None
    mean_ms: float  # its share of a refresh included
    bound_ms: float | None  # None for an algorithm without a bound
    times_bound: float | None
    times_ours: float | None  # of a peer, over the registry's optimizer
    mean_times_ours: float | None
    share_percent: float  # of a training step
    state_bytes: int
    peak_bytes: int


def evaluate(candidates: list[Candidate], model: Parts, machine: Machine, config: Config, rank: int) -> list[Row]:
    """A row for each candidate of a measured race, whose first is torch's fused AdamW."""
    fused = candidates[0]
    training = plan_run(config)["flops_per_position"] * PAPER_POSITIONS / statistics.median(machine.gemm)
    rows = []
    for candidate in candidates:
        bounds = _bounds(candidate, model, machine, rank)
        same = next((c for c in candidates if c.name == candidate.algorithm and c is not candidate), None)
        mean = candidate.mean()
        rows.append(
            Row(
                optimizer=candidate.name,
                algorithm=candidate.algorithm,
                step_ms=1e3 * candidate.step(),
                times_adam=_times(candidate, fused.seconds),
                refresh_ms=1e3 * candidate.refresh(),
                interval=candidate.interval,
                mean_ms=1e3 * mean,
                bound_ms=1e3 * statistics.median(bounds) if bounds else None,
                times_bound=_times(candidate, dict(enumerate(bounds))) if bounds else None,
                times_ours=_times(candidate, same.seconds) if same else None,
                mean_times_ours=mean / same.mean() if same else None,
                share_percent=100 * mean / (mean + training),
                state_bytes=_state_bytes(candidate.optimizer),
                peak_bytes=candidate.peak_bytes,
            )
        )
    return rows


def _state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of optimizer state, ours counted by the package's own function."""
    if isinstance(optimizer, optimizers.BaseOptimizer):
        return optimizers.state_bytes(optimizer)
    return state_bytes(optimizer)


def _bounds(candidate: Candidate, model: Parts, machine: Machine, rank: int) -> list[float]:
    """Seconds of the least possible step, by the rates of each round; none where the algorithm has no bound."""
    bound = BOUNDS.get(candidate.algorithm)
    if bound is None:
        return []
    width = model.matrices[0].element_size()
    work = [bound(m, n, min(rank, m), width) for m, n in (sorted(matrix.shape) for matrix in model.matrices)]
    others = bound if registry.get(candidate.algorithm)[0].traits.steps_everything else BOUNDS["adam"]
    work += [others(1, parameter.numel(), 1, width) for parameter in model.rest]
    flops, moved = sum(part.flops for part in work), sum(part.bytes for part in work)
    return [flops / gemm + moved / rate for gemm, rate in zip(machine.gemm, machine.bandwidth, strict=True)]


def _times(candidate: Candidate, others: dict[int, float]) -> float:
    """Median ratio of its time to another's, over the rounds that both took part in."""
    ratios = (seconds / others[number] for number, seconds in candidate.seconds.items() if number in others)
    return statistics.median(ratios)


def describe_conditions(model: Parts, machine: Machine, config: Config, rank: int) -> str:
    """What was stepped, on which machine."""
    device = model.matrices[0].device.type
    rest = f" and {len(model.rest)} others" if model.rest else ""
    name = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    return (
        f"{config.model.name}, {len(model.matrices)} matrices{rest}, rank {rank}, {config.train.dtype}; {device} "
        f"({name}), {torch.get_num_threads()} thread(s), torch {torch.__version__}; "
        f"memory {statistics.median(machine.bandwidth) / 1e9:.1f} GB/s, "
        f"GEMM {statistics.median(machine.gemm) / 1e9:.0f} GFLOP/s"
    )


def show(rows: Sequence[Row], conditions: str) -> None:
    """The table, on stdout."""
    heads = ("step", "x adam", "refresh", "mean", "bound", "x bound", "x ours", "(mean)", "share", "state", "peak")
    print(f"{conditions}\n{'':26}" + "".join(f"{head:>9}" for head in heads))
    for row in rows:
        numbers = (row.step_ms, row.times_adam, row.refresh_ms, row.mean_ms, row.bound_ms, row.times_bound,
                   row.times_ours, row.mean_times_ours)  # fmt: skip
        cells = ["" if number is None else f"{number:.2f}" for number in numbers]
        cells += [f"{row.share_percent:.3f}%"]
        cells += [f"{held / 2**20:.1f}" for held in (row.state_bytes, row.peak_bytes)]
        print(f"{row.optimizer:26}" + "".join(f"{cell:>9}" for cell in cells))


def write(rows: Sequence[Row], conditions: str, path: Path) -> None:
    """Write the rows as CSV under their conditions."""
    write_csv(path, [field.name for field in fields(Row)], [asdict(row).values() for row in rows], conditions)


def draw(rows: Sequence[Row], conditions: str, path: Path) -> None:
    """Bars of step times with the bounds marked, ours and others' in two colours."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    rows = sorted(rows, key=lambda row: row.step_ms, reverse=True)
    places = range(len(rows))
    bounds = [(row.bound_ms, place) for row, place in zip(rows, places, strict=True) if row.bound_ms is not None]
    crowded = rows[0].step_ms > 1000 * rows[-1].step_ms
    with default_style():
        figure = Figure(figsize=(7, 0.8 + 0.24 * len(rows)), layout="constrained")
        axes = figure.subplots()
        colours = [BLUE if row.optimizer in registry.names() else MUTED for row in rows]
        axes.barh(places, [row.step_ms for row in rows], color=colours)
        axes.plot(*zip(*bounds, strict=True), "k|", markersize=9, label="lower bound")
        axes.set_yticks(places, [row.optimizer for row in rows], fontsize=8)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1,) if crowded else (1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("ms a step, without refresh (blue: this repository)")
        axes.set_title(conditions.replace("; ", "\n"), fontsize=7)
        axes.legend(fontsize=8)
        figure.savefig(path, dpi=150)
