"""Evaluation perplexity over training: the paper's curves and those of our records, under the same row names."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from analysis.arena.ledger import Line
from analysis.comparison import best_settings
from analysis.panels import Panel
from analysis.paper import POSITIONS_A_STEP, paper_table
from analysis.records import Record
from analysis.rows import ByRow


@dataclass(frozen=True, eq=False)
class Curve:
    """Evaluation perplexity of a row over training.

    ours: false for the paper's; tokens: targets trained on, for the paper's curves positions; seconds: of training,
    empty where unknown; perplexity: mean over the seeds; low, high: their extremes.
    """

    row: str
    label: str
    ours: bool
    seeds: int
    step: list[int]
    tokens: list[float]
    seconds: list[float]
    perplexity: list[float]
    low: list[float]
    high: list[float]


def our_curves(rows: ByRow, panel: Panel) -> list[Curve]:
    """The curve of each row that a panel shows: of its best settings, through the evaluations that all seeds have."""
    return [of_seeds(row, panel.label(row), best_settings(runs)) for row, runs in rows.items() if panel.shows(row)]


def of_seeds(row: str, label: str, seeds: Sequence[Record | Line]) -> Curve:
    """The mean curve of runs of one row, through the evaluations that all of them have."""
    runs = [
        {
            found["step"]: (found["tokens"], found["train_seconds"], found["perplexity"])
            for found in record["evaluations"]
            if found["perplexity"] is not None
        }
        for record in seeds
    ]
    steps = sorted(set.intersection(*map(set, runs)))
    tokens, seconds, perplexities = ([[run[step][k] for run in runs] for step in steps] for k in range(3))
    return Curve(
        row,
        label,
        ours=True,
        seeds=len(seeds),
        step=steps,
        tokens=[statistics.fmean(values) for values in tokens],
        seconds=[statistics.fmean(values) for values in seconds],
        perplexity=[statistics.fmean(values) for values in perplexities],
        low=[min(values) for values in perplexities],
        high=[max(values) for values in perplexities],
    )


def paper_curves(panel: Panel) -> list[Curve]:
    """The paper's curves of a panel. Their seconds follow from the throughput it prints, where it prints one."""
    printed = [cells for cells in paper_table("table2_throughput.csv") if cells["model"] == panel.size]
    rates = {cells["method"]: float(cells["tokens_per_second"]) for cells in printed}
    points: dict[str, list[tuple[int, float]]] = {}
    for cells in paper_table(f"curves/{panel.file}.csv"):
        points.setdefault(cells["method"], []).append((int(cells["step"]), float(cells["eval_ppl"])))
    curves = []
    for row, name in panel.rows.items():
        steps = [step for step, _ in points[name]]
        perplexities = [perplexity for _, perplexity in points[name]]
        tokens = [float(step * POSITIONS_A_STEP) for step in steps]
        seconds = [count / rates[row] for count in tokens] if row in rates else []
        curves.append(
            Curve(
                row,
                panel.label(row),
                ours=False,
                seeds=1,
                step=steps,
                tokens=tokens,
                seconds=seconds,
                perplexity=perplexities,
                low=perplexities,
                high=perplexities,
            )
        )
    return curves
