"""What tables say of the runs of one row: means over seeds, and how soon they reach another run's final loss."""

import statistics
from collections.abc import Callable, Sequence

from scripts.records import Record


def mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def deviation(values: Sequence[float]) -> float | None:
    """Sample standard deviation; None for a single value."""
    return statistics.stdev(values) if len(values) > 1 else None


def perplexities(runs: Sequence[Record]) -> list[float]:
    return [run["summary"]["final_perplexity"] for run in runs]


def best_settings(runs: Sequence[Record]) -> list[Record]:
    """Those of one config hash, by seed: the settings with the lowest mean of the final loss over the seeds that all
    settings have (over each one's own where they share none)."""
    alike: dict[str, dict[int, Record]] = {}
    for run in runs:
        alike.setdefault(run["summary"]["config_hash"], {})[run["summary"]["seed"]] = run
    shared = set.intersection(*map(set, alike.values()))
    best = min(
        alike.values(),
        key=lambda seeds: statistics.fmean(seeds[seed]["summary"]["final_loss"] for seed in shared or seeds),
    )
    return [best[seed] for seed in sorted(best)]


def reached(run: Record, loss: float, key: str = "step") -> float | None:
    """`key` of the first evaluation at or below `loss`; None if there is none. The paper's way."""
    return next((row[key] for row in run["evaluations"] if row["loss"] <= loss), None)


def crossed(run: Record, loss: float, key: str = "step") -> float | None:
    """`key` where the line through the evaluations first meets `loss`; None if it never does."""
    before = None
    for row in run["evaluations"]:
        if row["loss"] <= loss:
            if before is None:
                return row[key]
            share = (before["loss"] - loss) / (before["loss"] - row["loss"])
            return before[key] + share * (row[key] - before[key])
        before = row
    return None


def speed_ups(runs: Sequence[Record], references: Sequence[Record], when: Callable, key: str = "step") -> list[float]:
    """Of each run, over the reference run of its seed: how many times sooner it is at the reference's final loss, by
    `when` (`reached` or `crossed`); 0 for one that never is."""
    by_seed = {reference["summary"]["seed"]: reference for reference in references}
    found = []
    for run in runs:
        reference = by_seed.get(run["summary"]["seed"])
        if reference is not None:
            target = reference["evaluations"][-1]
            at = when(run, target["loss"], key)
            found.append(target[key] / at if at else 0.0)
    return found


def effective_throughput(runs: Sequence[Record], references: Sequence[Record], when: Callable) -> list[float]:
    """Tokens that the reference run was trained on, over the seconds of training that a run takes to the reference's
    final loss; 0 for one that never gets there."""
    by_seed = {reference["summary"]["seed"]: reference for reference in references}
    found = []
    for run in runs:
        reference = by_seed.get(run["summary"]["seed"])
        if reference is not None:
            seconds = when(run, reference["summary"]["final_loss"], "train_seconds")
            found.append(reference["summary"]["tokens"] / seconds if seconds else 0.0)
    return found
