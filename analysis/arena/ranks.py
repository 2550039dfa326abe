"""Rows in every cell of every arena, and in the nano study: does an order at one batch size hold at another?"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from analysis.arena.ledger import Ledger, Line
from analysis.arena.outcomes import finished, mean_perplexity, recorded, title_among_arenas
from analysis.arena.spec import Spec, cells
from analysis.arena.standings import SCALE
from analysis.comparison import perplexities
from analysis.rows import style
from analysis.tables.cells import text
from analysis.tables.nano_size import nano_study
from analysis.tables.table import Table


class Mean(NamedTuple):
    """A row's mean perplexity, infinite where all seeds diverged, and as the table shows it."""

    perplexity: float
    shown: str


Column = Mapping[str, Mean]  # by the row's label


def ranks(arenas: Sequence[tuple[Spec, Ledger]]) -> Table:
    """Perplexity and rank of each row that two columns have, by the mean share of the others that are before it."""
    columns = _comparable(_columns(arenas))
    places = {title: _places(column) for title, column in columns.items()}

    def share(label: str) -> float:
        return statistics.fmean((found[label] - 1) / (len(found) - 1) for found in places.values() if label in found)

    labels = {label for column in columns.values() for label in column}
    rows = []
    for label in sorted(labels, key=lambda label: (share(label), label)):
        cells = [
            f"{column[label].shown} ({places[title][label]})" if label in column else ""
            for title, column in columns.items()
        ]
        rows.append([label, *cells])
    return Table(
        "ranks",
        "Ranks across arenas",
        "Mean perplexity over seeds at the tuned point, in brackets the rank among the column's rows in this table, "
        "whose number its heading has. Of a row with seeds that diverged the number of the others follows its mean. "
        "Rows are those of two columns or more, by the mean share of a column's other rows that are before them; a "
        "column with one of them is left out, and so are arenas that tune at another length than they compare. The "
        "nano study is tuned in another way: `results/nano/table2.md`.",
        ["method", *(f"{title}, {len(column)} rows" for title, column in columns.items())],
        rows,
        SCALE,
    )


def _comparable(columns: Mapping[str, Column]) -> dict[str, Column]:
    """The columns of two rows or more, each row in two columns or more."""
    labels = [label for column in columns.values() for label in column]
    shared: dict[str, Column] = {
        title: {label: mean for label, mean in column.items() if labels.count(label) > 1}
        for title, column in columns.items()
    }
    kept = {title: column for title, column in shared.items() if len(column) > 1}
    return kept if kept == columns else _comparable(kept)  # without a column a row may be in one alone


def _places(column: Column) -> dict[str, int]:
    """The rank of each row, by perplexity."""
    ordered = sorted(column, key=lambda label: (column[label], label))
    return {label: place for place, label in enumerate(ordered, start=1)}


def _mean(lines: list[Line]) -> Mean:
    """Of a row's runs; where some diverged it says how many did not."""
    ended, mean = len(finished(lines)), mean_perplexity(lines)
    part = "" if ended == len(lines) else f", {ended} of {len(lines)}"
    return Mean(mean, f"{text(mean)}{part}" if math.isfinite(mean) else "diverged")


def _columns(arenas: Sequence[tuple[Spec, Ledger]]) -> dict[str, Column]:
    """The rows of every cell with compared runs, and of the nano study, by the column's title."""
    columns: dict[str, Column] = {}
    for spec, ledger in arenas:
        for cell in cells(spec):
            found = recorded(spec, ledger, cell)
            title = title_among_arenas(spec, cell)
            columns[title] = {spec.label(row): _mean(lines) for row, lines in found.items()}
    study = nano_study()
    means = {style(row).label: statistics.fmean(perplexities(runs)) for row, runs in study.runs.items()}
    return columns | {study.title: {label: Mean(mean, text(mean)) for label, mean in means.items()}}
