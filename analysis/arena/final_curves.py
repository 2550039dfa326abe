"""Curves of an arena's compared runs."""

from analysis.arena.ledger import ledger_of
from analysis.arena.outcomes import finals, title_among_arenas
from analysis.arena.spec import all_specs, cells
from analysis.curves import Curve, of_seeds


def arena_curves() -> dict[str, list[Curve]]:
    """The curve of each row at its tuned point, for each cell, by the cell's title."""
    drawn = {}
    for spec in all_specs():
        ledger = ledger_of(spec.name)
        for cell in cells(spec):
            title = title_among_arenas(spec, cell)
            drawn[title] = [
                of_seeds(spec.style_of(row), spec.label(row), lines)
                for row, lines in finals(spec, ledger, cell).items()
            ]
    return drawn
