"""Comparisons of runs: means over seeds, and how soon a run reaches another run's final loss."""

import statistics
from collections.abc import Callable, Iterator, Sequence

from analysis.arena.ledger import Line
from analysis.records import Clock, Evaluation, Record

Run = Record | Line  # a finished run of a study, or of an arena
When = Callable[[Run, float, Clock], float | None]  # `reached` or `crossed`


def mean(values: Sequence[float]) -> float | None:
    """None for no value."""
    return statistics.fmean(values) if values else None


def deviation(values: Sequence[float]) -> float | None:
    """Sample standard deviation; None for a single value."""
    return statistics.stdev(values) if len(values) > 1 else None


def perplexities(runs: Sequence[Run]) -> list[float]:
    """The final perplexity of each run."""
    return [run["summary"]["final_perplexity"] for run in runs]


def best_settings(runs: Sequence[Record]) -> list[Record]:
    """The runs of the best settings (one config hash and mixed precision), by seed.

    The best settings have the lowest mean of the final loss over the seeds that all settings share; where they share
    none, over the seeds of each.
    """
    alike: dict[tuple[str, str], dict[int, Record]] = {}
    for run in runs:
        summary = run["summary"]
        key = summary["config_hash"], summary.get("mixed_precision", "no")
        alike.setdefault(key, {})[summary["seed"]] = run
    shared = set.intersection(*map(set, alike.values()))
    best = min(
        alike.values(),
        key=lambda seeds: statistics.fmean(seeds[seed]["summary"]["final_loss"] for seed in shared or seeds),
    )
    return [best[seed] for seed in sorted(best)]


def reached(run: Run, loss: float, key: Clock = "step") -> float | None:
    """`key` of the first evaluation at or below `loss`, as the paper counts; None if there is none."""
    return next((row[key] for row in run["evaluations"] if row["loss"] <= loss), None)


def crossed(run: Run, loss: float, key: Clock = "step") -> float | None:
    """`key` where the line through the evaluations first meets `loss`; None if it never does."""
    return crossing(run["evaluations"], loss, key)


def crossing(evaluations: Sequence[Evaluation], loss: float, key: Clock) -> float | None:
    """`crossed` of a run with these evaluations."""
    before: Evaluation | None = None
    for row in evaluations:
        if row["loss"] <= loss:
            if before is None:
                return row[key]
            share = (before["loss"] - loss) / (before["loss"] - row["loss"])
            return before[key] + share * (row[key] - before[key])
        before = row
    return None


def speed_ups(runs: Sequence[Run], references: Sequence[Run], when: When) -> list[float]:
    """For each run, how many times sooner than the reference run of its seed it reaches that run's final loss.

    0 for a run that never gets there; runs whose seed has no reference are left out.
    """
    found = []
    for run, reference in _pairs(runs, references):
        target = reference["evaluations"][-1]
        at = when(run, target["loss"], "step")
        found.append(target["step"] / at if at else 0.0)
    return found


def effective_throughput(runs: Sequence[Run], references: Sequence[Run], when: When) -> list[float]:
    """Tokens of the reference run over the seconds of training that a run of its seed takes to its final loss.

    0 for a run that never gets there; runs whose seed has no reference are left out.
    """
    found = []
    for run, reference in _pairs(runs, references):
        seconds = when(run, reference["summary"]["final_loss"], "train_seconds")
        found.append(reference["summary"]["tokens"] / seconds if seconds else 0.0)
    return found


def _pairs(runs: Sequence[Run], references: Sequence[Run]) -> Iterator[tuple[Run, Run]]:
    """Each run with the reference run of its seed, where there is one."""
    by_seed = {reference["summary"]["seed"]: reference for reference in references}
    return ((run, by_seed[run["summary"]["seed"]]) for run in runs if run["summary"]["seed"] in by_seed)
