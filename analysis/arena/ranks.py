"""Rows in every cell of every arena, and in the nano study: does an order at one batch size hold at another?"""

import math
import statistics
from collections.abc import Mapping, Sequence

from analysis.arena.ledger import Ledger
from analysis.arena.outcomes import mean_perplexity, recorded, title_among_arenas
from analysis.arena.spec import Spec, cells
from analysis.arena.standings import SCALE
from analysis.comparison import perplexities
from analysis.rows import style
from analysis.tables.cells import text
from analysis.tables.nano_size import final_runs
from analysis.tables.table import Table

Column = Mapping[str, float]  # label of a row -> mean perplexity, infinite where all seeds diverged


def ranks(arenas: Sequence[tuple[Spec, Ledger]]) -> Table:
    """Perplexity and rank of each row that two columns have, by the mean of its rank over a column's number of rows."""
    columns = _columns(arenas)
    labels = [label for column in columns.values() for label in column]
    twice = {label for label in labels if labels.count(label) > 1}
    kept = {title: {label: column[label] for label in column if label in twice} for title, column in columns.items()}
    kept = {title: column for title, column in kept.items() if column}
    places: dict[str, dict[str, int]] = {}
    for title, column in kept.items():
        ordered = sorted(column, key=lambda label: (column[label], label))
        places[title] = {label: place for place, label in enumerate(ordered, start=1)}
    shares = {
        label: statistics.fmean(place[label] / len(place) for place in places.values() if label in place)
        for label in twice
    }
    rows = []
    for label in sorted(twice, key=lambda label: (shares[label], label)):
        cells = [
            f"{text(column[label]) if math.isfinite(column[label]) else 'diverged'} ({places[title][label]})"
            if label in column else ""
            for title, column in kept.items()
        ]  # fmt: skip
        rows.append([label, *cells])
    return Table(
        "ranks",
        "Ranks across batch sizes",
        "Mean perplexity over seeds at the tuned point, in brackets the rank among the column's rows in this table, "
        "whose number its heading has. Rows are those of two columns or more, by their mean rank over that number. The "
        "nano study is tuned in another way: `results/nano/table2.md`.",
        ["method", *(f"{title}, {len(column)} rows" for title, column in kept.items())],
        rows,
        SCALE,
    )


def _columns(arenas: Sequence[tuple[Spec, Ledger]]) -> dict[str, Column]:
    """The rows of every cell with compared runs, and of the nano study, by the column's title."""
    columns: dict[str, Column] = {}
    for spec, ledger in arenas:
        for cell in cells(spec):
            found = recorded(spec, ledger, cell)
            title = title_among_arenas(spec, cell)
            columns[title] = {style(row).label: mean_perplexity(lines) for row, lines in found.items()}
    study = {style(row).label: statistics.fmean(perplexities(runs)) for row, runs in final_runs().items()}
    return columns | {"nano study: 2,048 positions a step, 2M": study}
