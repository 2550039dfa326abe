"""Perplexity against measured bytes of optimizer state: who is on the front."""

import math
import statistics
from typing import TYPE_CHECKING

from analysis.arena.ledger import Ledger
from analysis.arena.spec import Cell, Spec, positions_per_step
from analysis.arena.tables import finals
from analysis.figures.canvas import dress, panels_of, results_style
from analysis.rows import style
from training.run.drawing import INK, MUTED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MIB = 2**20


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
    drawn = {cell: finals(spec, ledger, cell) for cell in cells}
    drawn = {cell: found for cell, found in drawn.items() if found}
    if not drawn:
        return None
    with results_style():
        figure, panels = panels_of(8.2 * len(drawn), 5.4, 1, len(drawn))
        for axes, (cell, found) in zip(panels, drawn.items(), strict=True):
            points = {
                row: (
                    lines[0]["summary"]["optimizer_state_bytes"] / MIB,
                    statistics.fmean(math.exp(line["loss"] or math.nan) for line in lines),
                )
                for row, lines in found.items()
            }
            best = front(points)
            dress(axes, f"{cell.size.removeprefix('llama_')}, {positions_per_step(spec, cell):,} positions a step")
            axes.step(
                *zip(*(points[row] for row in best), strict=True), where="post", color=MUTED, linewidth=1, zorder=1
            )
            for row, (held, perplexity) in points.items():
                look = style(row)
                axes.plot(held, perplexity, "o", color=look.colour, markersize=7 if row in best else 5, zorder=3)
                axes.annotate(
                    look.label, (held, perplexity), (6, 3), textcoords="offset points", fontsize=7,
                    color=INK, fontweight="bold" if row in best else "normal",
                )  # fmt: skip
            axes.set_xscale("log")
            axes.set_xlabel("optimizer state, MiB")
            axes.set_ylabel("perplexity")
    return figure
