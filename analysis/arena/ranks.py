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
from analysis.tables.nano_size import final_runs
from analysis.tables.table import Table


class Mean(NamedTuple):
    """A row's mean perplexity, infinite where all seeds diverged, and as the table shows it."""

    perplexity: float
    shown: str


Column = Mapping[str, Mean]  # by the row's label


def ranks(arenas: Sequence[tuple[Spec, Ledger]]) -> Table:
    """Perplexity and rank of each row that two columns have, by the mean share of the others that are before it."""
    columns = _columns(arenas)
    labels = [label for column in columns.values() for label in column]
    twice = {label for label in labels if labels.count(label) > 1}
    kept = {title: {label: column[label] for label in column if label in twice} for title, column in columns.items()}
    kept = {title: column for title, column in kept.items() if len(column) > 1}  # one row alone has no rank
    twice = {label for label in twice if any(label in column for column in kept.values())}
    places: dict[str, dict[str, int]] = {}
    for title, column in kept.items():
        ordered = sorted(column, key=lambda label: (column[label], label))
        places[title] = {label: place for place, label in enumerate(ordered, start=1)}
    shares = {
        label: statistics.fmean((place[label] - 1) / (len(place) - 1) for place in places.values() if label in place)
        for label in twice
    }
    rows = []
    for label in sorted(twice, key=lambda label: (shares[label], label)):
        cells = [
            f"{column[label].shown} ({places[title][label]})" if label in column else ""
            for title, column in kept.items()
        ]
        rows.append([label, *cells])
    return Table(
        "ranks",
        "Ranks across batch sizes",
        "Mean perplexity over seeds at the tuned point, in brackets the rank among the column's rows in this table, "
        "whose number its heading has. Of a row with seeds that diverged the number of the others follows its mean. "
        "Rows are those of two columns or more, by the mean share of a column's other rows that are before them; a "
        "column with one of them is left out. The nano study is tuned in another way: `results/nano/table2.md`.",
        ["method", *(f"{title}, {len(column)} rows" for title, column in kept.items())],
        rows,
        SCALE,
    )


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
            columns[title] = {style(row).label: _mean(lines) for row, lines in found.items()}
    means = {style(row).label: statistics.fmean(perplexities(runs)) for row, runs in final_runs().items()}
    study = {label: Mean(mean, text(mean)) for label, mean in means.items()}
    return columns | {"nano study: 2,048 positions a step, 2M": study}
