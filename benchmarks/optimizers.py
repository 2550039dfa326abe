"""How fast is each optimizer's step, against the least it could cost and against other implementations?

    python scripts/benchmark_optimizers.py [FILE.yaml ...] [key=value ...] [--optimizers alice,racs,...] [--no-peers]
        [--whole] [--rank R] [--leading L] [--rounds 15] [--refreshes 3] [--patience 20] [--threads N]
        [--results results/benchmarks]

The settings are those of train.py; model=llama_60m in float32 if there are none. Every optimizer of the registry, and
every peer that is installed, steps the attention and MLP matrices of that model, with the paper's rank for it, on the
same gradients. With --whole they step the rest as well, embeddings, norms and lm_head: methods for matrices by the Adam
of their package, and peers whose package has none for it are left out. They take turns, each round measures memory and
a matrix product too, and medians of rounds are shown (who has taken more than --patience seconds in three rounds or
more sits out the rest; the same for refreshes, after one):

    step      ms, no refresh       x adam     step time over that of torch's fused AdamW in the same round
    refresh   ms more in a step that renews the bases       mean   ms, step + refresh / update_interval
    x bound   step time over bytes / memory bandwidth + FLOPs / GEMM rate (scripts/optimizer_bounds.py)
    x ours    a peer's step time over that of the registry's optimizer of the same algorithm       (mean)  likewise
    share     of a training step of 131,072 positions at the GEMM rate, % (mean time; the paper's batch)
    state     MiB held             peak       MiB allocated at the most during a step, beyond what was held before
              (on a CPU by one thread: each holds that much for the matrix it steps)

Writes optimizers_<model>[_whole]_<device>_<dtype>.csv and .png into the results' folder.
"""

import argparse
import csv
import itertools
import platform
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import optimizers  # noqa: E402
from configs.schema import Config, SettingsError, load  # noqa: E402
from models import estimate  # noqa: E402
from models.llama import build_model  # noqa: E402
from optimizers import partition, registry  # noqa: E402
from optimizers.chunk import working_dtype  # noqa: E402
from scripts.machine import rates, seconds  # noqa: E402
from scripts.optimizer_bounds import BOUNDS  # noqa: E402
from scripts.optimizer_peers import LR, interval, peers, set_interval, state_bytes  # noqa: E402

PAPER_POSITIONS = 131_072
NEVER = 10**9  # an update_interval that no benchmark reaches


@dataclass
class Candidate:
    """An implementation in the race; `algorithm` is the registry's name of what it computes."""

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
        """What a step with refresh takes more."""
        return max(0.0, statistics.median(self.refresh_seconds) - self.step()) if self.refresh_seconds else 0.0

    def mean(self) -> float:
        """Seconds of a step, its share of a refresh included."""
        return self.step() + self.refresh() / (self.interval or 1)


@dataclass
class Machine:
    """Rates of one round each: bytes/s of memory (read and written), FLOP/s of a square product."""

    bandwidth: list[float] = field(default_factory=list)
    gemm: list[float] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help="as for train.py")
    parser.add_argument("--optimizers", default=",".join(registry.names()), help="names of the registry")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="only the registry's")
    parser.add_argument("--whole", action="store_true", help="all of the model, not the matrices alone")
    parser.add_argument("--rank", type=int, help="default: the paper's for the model")
    parser.add_argument("--leading", type=int, help="default: the paper's for the model")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--refreshes", type=int, default=3)
    parser.add_argument("--patience", type=float, default=20.0, help="seconds of steps for each, and of refreshes")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: torch's choice")
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "benchmarks")
    arguments = parser.parse_intermixed_args()
    torch.set_num_threads(arguments.threads)
    try:
        names = arguments.optimizers.split(",")
        for name in names:
            registry.get(name)
        config = load(arguments.settings or ["model=llama_60m"]).config
        paper = paper_settings(config)
    except (SettingsError, ValueError) as error:
        parser.error(str(error))
    rank = arguments.rank or paper.optimizer.rank
    leading = arguments.leading or min(paper.optimizer.leading, rank)

    model = parts(config, whole=arguments.whole)
    candidates = race(model, names, rank, leading, with_peers=arguments.peers)
    machine = Machine()
    measure(candidates, model, machine, arguments.rounds, arguments.refreshes, patience=arguments.patience)
    rows = evaluate(candidates, model, machine, config, rank)

    device, dtype = model.matrices[0].device.type, config.train.dtype
    rest = f" and {len(model.rest)} others" if model.rest else ""
    conditions = (
        f"{config.model.name}, {len(model.matrices)} matrices{rest}, rank {rank}, {dtype}; {device} "
        f"({torch.cuda.get_device_name() if device == 'cuda' else platform.machine()}), {arguments.threads} thread(s), "
        f"torch {torch.__version__}; memory {statistics.median(machine.bandwidth) / 1e9:.1f} GB/s, "
        f"GEMM {statistics.median(machine.gemm) / 1e9:.0f} GFLOP/s"
    )
    show(rows, conditions)
    arguments.results.mkdir(parents=True, exist_ok=True)
    whole = "_whole" if model.rest else ""
    path = arguments.results / f"optimizers_{config.model.name}{whole}_{device}_{dtype}.csv"
    with path.open("w", newline="") as file:
        file.write(f"# {conditions}\n")
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    draw(rows, conditions, path.with_suffix(".png"))
    print(path)


def paper_settings(config: Config) -> Config:
    """The paper's settings of Alice for the model, or Alice's own where the paper has none."""
    file = ROOT / "configs" / "experiment" / "table2" / config.model.name.removeprefix("llama_") / "alice.yaml"
    return load([str(file)] if file.is_file() else ["optimizer=alice"]).config


class Parts(NamedTuple):
    """Parameters with small weights, and gradients for them: for the matrices, then for the rest."""

    matrices: list[nn.Parameter]  # the method's
    rest: list[nn.Parameter]  # Adam's, or nothing
    gradients: list[torch.Tensor]


def parts(config: Config, *, whole: bool) -> Parts:
    """The attention and MLP matrices of the model and, of the `whole`, the rest."""
    dtype, device = getattr(torch, config.train.dtype), "cuda" if torch.cuda.is_available() else "cpu"
    model = build_model(config.model, dtype=dtype, seed=0, device="meta")
    groups = partition.parameter_groups(model, last_layer="adam")[: 2 if whole else 1]
    source = torch.Generator().manual_seed(0)

    def draw(shape: torch.Size) -> tuple[nn.Parameter, torch.Tensor]:
        weight, gradient = torch.randn(2, *shape, generator=source)
        # Rows and columns of different sizes, as real gradients have them.
        rows = torch.logspace(-3, -4, shape[0])
        gradient = gradient * (rows if len(shape) == 1 else rows[:, None] * torch.linspace(0.5, 2, shape[1]))
        return nn.Parameter((0.02 * weight).to(device, dtype)), gradient.to(device, dtype)

    drawn = [[draw(parameter.shape) for _, parameter in group["params"]] for group in groups]
    matrices, rest = ([parameter for parameter, _ in group] for group in (*drawn, [])[:2])
    return Parts(matrices, rest, [gradient for group in drawn for _, gradient in group])


def race(model: Parts, names: list[str], rank: int, leading: int, *, with_peers: bool) -> list[Candidate]:
    """Everybody, each with state of its own on the same parameters; torch's fused AdamW is the first."""
    fused = torch.optim.AdamW(model.matrices + model.rest, LR, fused=True)
    candidates = [Candidate("torch AdamW, fused", "adam", fused, None)]
    for name in names:
        cls, presets = registry.get(name)
        ranks = {"rank": rank, "leading": leading}
        known = {key: p.default for key, p in registry.options(name).items()}
        options = {key: value for key, value in ranks.items() if key in known and key not in presets}
        groups = [{"params": model.matrices}]
        if model.rest:
            groups.append({"params": model.rest, "lr": LR})
            groups[-1]["algorithm"] = "method" if cls.steps_everything else "adam"
        optimizer = cls(groups, lr=LR, **presets, **options)
        candidates.append(Candidate(name, name, optimizer, interval(optimizer)))
    if with_peers:
        for name, peer in peers().items():
            if peer.algorithm in names and (peer.takes_rest or not model.rest):
                optimizer = peer.make(model.matrices, model.rest, rank, leading)
                candidates.append(Candidate(name, peer.algorithm, optimizer, interval(optimizer)))
    return candidates


def measure(candidates: list[Candidate], model: Parts, machine: Machine, rounds: int, refreshes: int, *,
            patience: float) -> None:  # fmt: skip
    """Fill in the seconds of all candidates and of the machine, round by round."""
    parameters = model.matrices + model.rest

    def step(candidate: Candidate) -> float:
        # Some packages change gradients, and everybody finds them in the same state of the caches.
        for parameter, gradient in zip(parameters, model.gradients, strict=True):
            parameter.grad = gradient.clone() if parameter.grad is None else parameter.grad.copy_(gradient)
        return seconds(candidate.optimizer.step)

    for candidate in candidates:  # state and first bases; SOAP's first update is the second step
        step(candidate)
        set_interval(candidate.optimizer, NEVER)
        step(candidate), step(candidate)
    measure_rates = rates(parameters[0].device, working_dtype(parameters[0].dtype))
    for number in range(rounds):
        bandwidth, gemm = measure_rates()
        machine.bandwidth.append(bandwidth), machine.gemm.append(gemm)
        for candidate in candidates:
            if len(candidate.seconds) < 3 or sum(candidate.seconds.values()) < patience:
                candidate.seconds[number] = step(candidate)
    for candidate in itertools.chain.from_iterable([candidates] * refreshes):
        if candidate.interval and sum(candidate.refresh_seconds) < patience:
            set_interval(candidate.optimizer, 1)
            candidate.refresh_seconds.append(step(candidate))
            set_interval(candidate.optimizer, NEVER)
    for candidate in candidates:
        step(candidate)  # with gradients of its own in place
        candidate.peak_bytes = peak_bytes(candidate.optimizer.step, parameters[0].device)


def peak_bytes(call: Callable, device: torch.device) -> int:
    """The most that `call` has allocated at once, its kernels' buffers included."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return torch.cuda.max_memory_allocated() - before
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the profiler does not see others
    with torch.profiler.profile(profile_memory=True) as profile:
        call()
    torch.set_num_threads(threads)
    events = profile.profiler.kineto_results.events()
    changes = [event.nbytes() for event in events if event.name() == "[memory]"]
    return max(0, *itertools.accumulate(changes)) if changes else 0


def evaluate(candidates: list[Candidate], model: Parts, machine: Machine, config: Config, rank: int) -> list[dict]:
    """One row of the table for each candidate."""
    fused, median = candidates[0], statistics.median
    flops_of_training = estimate.plan(config)["flops_per_position"] * PAPER_POSITIONS
    width, rows = model.matrices[0].element_size(), []
    for candidate in candidates:
        bound = BOUNDS[candidate.algorithm]
        shapes = [sorted(parameter.shape) for parameter in model.matrices]
        work = [bound(m, n, min(rank, m), width) for m, n in shapes]
        others = bound if registry.get(candidate.algorithm)[0].steps_everything else BOUNDS["adam"]
        work += [others(1, parameter.numel(), 1, width) for parameter in model.rest]
        flops, moved = sum(w.flops for w in work), sum(w.bytes for w in work)
        bounds = [flops / gemm + moved / rate for gemm, rate in zip(machine.gemm, machine.bandwidth, strict=True)]
        mean = candidate.mean()

        def times(others: dict[int, float], candidate: Candidate = candidate) -> float:
            """Median ratio of its time to another's, over the rounds that it took part in."""
            return median(seconds / others[number] for number, seconds in candidate.seconds.items() if number in others)

        same = next((c for c in candidates if c.name == candidate.algorithm and c is not candidate), None)
        counted = isinstance(candidate.optimizer, optimizers.BaseOptimizer)
        rows.append(
            {
                "optimizer": candidate.name,
                "algorithm": candidate.algorithm,
                "step_ms": 1e3 * candidate.step(),
                "times_adam": times(fused.seconds),
                "refresh_ms": 1e3 * candidate.refresh(),
                "interval": candidate.interval,
                "mean_ms": 1e3 * mean,
                "bound_ms": 1e3 * median(bounds),
                "times_bound": times(dict(enumerate(bounds))),
                "times_ours": times(same.seconds) if same else None,
                "mean_times_ours": mean / same.mean() if same else None,
                "share_percent": 100 * mean / (mean + flops_of_training / median(machine.gemm)),
                "state_bytes": (optimizers.state_bytes if counted else state_bytes)(candidate.optimizer),
                "peak_bytes": candidate.peak_bytes,
            }
        )
    return rows


def show(rows: list[dict], conditions: str) -> None:
    """The table, on stdout."""
    heads = ("step", "x adam", "refresh", "mean", "bound", "x bound", "x ours", "(mean)", "share", "state", "peak")
    print(f"{conditions}\n{'':26}" + "".join(f"{head:>9}" for head in heads))
    for row in rows:
        numbers = [row[key] for key in ("step_ms", "times_adam", "refresh_ms", "mean_ms", "bound_ms", "times_bound")]
        cells = [f"{number:.2f}" for number in numbers]
        cells += [f"{row[key]:.2f}" if row[key] else "" for key in ("times_ours", "mean_times_ours")]
        cells += [f"{row['share_percent']:.3f}%"]
        cells += [f"{row[key] / 2**20:.1f}" for key in ("state_bytes", "peak_bytes")]
        print(f"{row['optimizer']:26}" + "".join(f"{cell:>9}" for cell in cells))


def draw(rows: list[dict], conditions: str, path: Path) -> None:
    """Bars of step times with the bounds marked, ours and others' in two colours."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    rows = sorted(rows, key=lambda row: row["step_ms"], reverse=True)
    figure = Figure(figsize=(7, 0.8 + 0.24 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(rows))
    colours = ["tab:blue" if row["optimizer"] in registry.names() else "tab:gray" for row in rows]
    axes.barh(places, [row["step_ms"] for row in rows], color=colours)
    axes.plot([row["bound_ms"] for row in rows], places, "k|", markersize=9, label="lower bound")
    axes.set_yticks(places, [row["optimizer"] for row in rows], fontsize=8)
    axes.set_xscale("log")
    crowded = rows[0]["step_ms"] > 1000 * rows[-1]["step_ms"]
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if crowded else (1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("ms a step, without refresh (blue: this repository)")
    axes.set_title(conditions.replace("; ", "\n"), fontsize=7)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
