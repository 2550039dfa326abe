"""Perplexity against measured bytes of optimizer state: who is on the front."""

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis.arena.ledger import Ledger, Line
from analysis.arena.outcomes import finished, perplexities, recorded, title_among_arenas
from analysis.arena.spec import Cell, Spec
from analysis.comparison import deviation
from analysis.figures.canvas import dress, panels_of, results_style
from analysis.figures.labels import place_labels
from analysis.rows import ABLATION, style
from training.run.drawing import INK, MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MIB = 2**20
FEW = 12  # of so many rows each has its label; of more those on the front, and these wherever they are
NAMED = ("adam", "muon", "alice", "racs")


@dataclass(frozen=True)
class Spot:
    """A row's place: MiB of state, mean perplexity, its deviation over seeds (0 for one), label and colour."""

    held: float
    perplexity: float
    deviation: float
    label: str
    colour: str


def front(points: dict[str, tuple[float, float]]) -> list[str]:
    """The rows that no other beats in both of (bytes, perplexity), by bytes."""
    rows, lowest = [], math.inf
    for row in sorted(points, key=points.__getitem__):
        if points[row][1] < lowest:
            rows.append(row)
            lowest = points[row][1]
    return rows


def frontier_figure(spec: Spec, ledger: Ledger, cells: list[Cell]) -> "Figure | None":
    """A panel for each cell that has runs; None if none has."""
    drawn = {cell: _compared(spec, ledger, cell) for cell in cells}
    drawn = {cell: found for cell, found in drawn.items() if any(map(finished, found.values()))}
    if not drawn:
        return None
    with results_style():
        figure, panels = panels_of(8.2 * len(drawn), 5.4, 1, len(drawn))
        spots = [
            {row: _spot(spec, row, lines) for row, lines in found.items() if finished(lines)}
            for found in drawn.values()
        ]
        for axes, (cell, found), shown in zip(panels, drawn.items(), spots, strict=True):
            dress(axes, title_among_arenas(spec, cell))
            _draw(axes, shown)
            gone = [spec.label(row) for row in found if row not in shown]
            note = f"\nall seeds diverged: {', '.join(gone)}" if gone else ""
            axes.set_xlabel(f"optimizer state, MiB{note}")
            axes.set_ylabel("perplexity, mean and standard deviation over seeds")
        figure.draw_without_rendering()  # the places of labels follow from the layout
        for axes, shown in zip(panels, spots, strict=True):
            _label(axes, shown)
    return figure


def _compared(spec: Spec, ledger: Ledger, cell: Cell) -> dict[str, list[Line]]:
    """The rows of the picture: not the changes to a method that have its tuned values."""
    return {
        row: lines
        for row, lines in recorded(spec, ledger, cell).items()
        if not (row.startswith(ABLATION) and spec.rows[row].rates_of is not None)
    }


def _spot(spec: Spec, row: str, lines: list[Line]) -> Spot:
    """The place of a row; its label says where some of its seeds are not made, or diverged."""
    ended, seeds = finished(lines), spec.rows[row].seeds
    values = perplexities(ended)
    held = ended[0]["summary"]["optimizer_state_bytes"] / MIB
    part = f" ({len(ended)} of {seeds})" if len(ended) < seeds else ""
    look = style(spec.style_of(row))
    return Spot(held, statistics.fmean(values), deviation(values) or 0.0, f"{look.label}{part}", look.colour)


def _front(spots: dict[str, Spot]) -> list[str]:
    return front({row: (spot.held, spot.perplexity) for row, spot in spots.items()})


def _draw(axes: "Axes", spots: dict[str, Spot]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    best = _front(spots)
    held = [spots[row].held for row in best for _ in range(2)]
    lowest = [spots[row].perplexity for row in best for _ in range(2)]
    axes.plot(
        held[1:], lowest[:-1], color=MUTED, linewidth=1, zorder=1
    )  # as a stair: every row's, then down to the next
    for row, spot in spots.items():
        axes.errorbar(
            spot.held, spot.perplexity, spot.deviation or None, fmt="o", color=spot.colour, capsize=2,
            elinewidth=1, markersize=7 if row in best else 5, zorder=3,
        )  # fmt: skip
    axes.set_xscale("log")
    every = [spot.held for spot in spots.values()]
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(every) > 5 * min(every) else tuple(range(1, 10))))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _label(axes: "Axes", spots: dict[str, Spot]) -> None:
    best = _front(spots)
    named = [row for row in spots if row in best or row in NAMED or len(spots) <= FEW]
    place_labels(
        axes,
        [(spots[row].held, spots[row].perplexity, spots[row].label, row in best) for row in named],
        [(spot.held, spot.perplexity) for spot in spots.values()],
        INK,
    )
