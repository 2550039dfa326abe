"""What the ledger of an arena has of its rows: the compared runs of each at its tuned point."""

import math
import statistics

from analysis.arena.entries import Entry, recipe, source_of_values, tuning
from analysis.arena.ledger import Ledger, Line
from analysis.arena.loss_curve import LossCurve, fit
from analysis.arena.spec import Cell, Spec, positions_per_step


def recorded(spec: Spec, ledger: Ledger, cell: Cell, tokens: int | None = None) -> dict[str, list[Line]]:
    """The ended runs of each row at its tuned point, by seed, with those that diverged; none of rows without any."""
    found = {}
    for row in spec.rows:
        tuned = tuning(spec, row, cell, ledger)
        if tuned.pending is None:
            entries = [Entry(row, cell, tokens or spec.tokens, tuned.best, seed) for seed in spec.seeds(row)]
            if lines := [ledger.lines[entry.name] for entry in entries if entry.name in ledger.lines]:
                found[row] = lines
    return found


def finished(lines: list[Line]) -> list[Line]:
    """Those that reached the end of their schedule."""
    return [line for line in lines if line["loss"] is not None]


def finals(spec: Spec, ledger: Ledger, cell: Cell) -> dict[str, list[Line]]:
    """The finished runs of each row at its tuned point, by seed; rows without any are left out."""
    return {row: ended for row, lines in recorded(spec, ledger, cell).items() if (ended := finished(lines))}


def loss_of(line: Line) -> float:
    """The final loss; infinite of a run that diverged."""
    return math.inf if line["loss"] is None else line["loss"]


def perplexities(lines: list[Line]) -> list[float]:
    """Of runs that reached the end."""
    return [math.exp(loss_of(line)) for line in lines]


def mean_loss(lines: list[Line]) -> float:
    """Over the runs that reached the end; infinite without any."""
    return statistics.fmean(map(loss_of, ended)) if (ended := finished(lines)) else math.inf


def mean_perplexity(lines: list[Line]) -> float:
    """Over the runs that reached the end; infinite without any."""
    return statistics.fmean(ended) if (ended := perplexities(finished(lines))) else math.inf


def reference_runs(spec: Spec, ledger: Ledger, cell: Cell) -> list[Line]:
    """The finished runs of the first row of `against` at all data ratios, on all seeds."""
    ratios = [recorded(spec, ledger, cell, tokens).get(spec.against[0], []) for tokens in {*spec.ladder, spec.tokens}]
    return [line for lines in ratios for line in finished(lines)]


def reference_curve(spec: Spec, ledger: Ledger, cell: Cell) -> LossCurve | None:
    """The loss curve of the first row of `against`."""
    lines = reference_runs(spec, ledger, cell)
    return fit([line["tokens"] for line in lines], list(map(loss_of, lines)))


def tuning_runs(spec: Spec, ledger: Ledger, row: str, cell: Cell) -> list[Line]:
    """All ended tuning runs of a row in a cell, those of walks from other starts too."""
    spec, ledger = source_of_values(spec, ledger)
    by_its_file = recipe(spec, row, cell).name
    return [
        line
        for line in ledger.of(row, cell)
        if (line["tokens"], line["seed"]) == (spec.tuning.tokens, 0) and line["name"] != by_its_file
    ]


def other_points(spec: Spec, ledger: Ledger, row: str, cell: Cell) -> list[list[Line]]:
    """The compared runs of a row that `recorded` leaves out, a list for each point: its walk is not over, or has gone
    on since. A tuning run of that length is one of them where runs with other seeds were made at its point."""
    tuned = tuning(spec, row, cell, ledger)
    at_best = {Entry(row, cell, spec.tokens, tuned.best, seed).name for seed in spec.seeds(row)}
    known = {recipe(spec, row, cell).name} | (at_best if tuned.pending is None else set())
    walked = {line["name"] for line in tuning_runs(spec, ledger, row, cell)} if spec.rows[row].rates_of is None else ()
    left: dict[str, list[Line]] = {}
    for line in ledger.of(row, cell):
        compared = line["seed"] in spec.seeds(row) or line["name"] not in walked
        if compared and line["name"] not in known and line["tokens"] == spec.tokens:
            left.setdefault(str(sorted(line["point"].items())), []).append(line)
    return [lines for lines in left.values() if any(line["name"] not in walked for line in lines)]


def title_among_arenas(spec: Spec, cell: Cell) -> str:
    """A cell in words, with its arena and the positions of a run."""
    return f"{spec.name}: {title_of(spec, cell)}, {spec.tokens / 1e6:.3g}M"


def title_of(spec: Spec, cell: Cell) -> str:
    """A cell in words."""
    return f"{cell.size.removeprefix('llama_')}, {positions_per_step(spec, cell):,} positions a step"
