"""Fig. 6: how far single columns of a basis turn at each refresh."""

import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING

from analysis.figures.canvas import dress, panels_of
from analysis.records import EIGENVECTORS
from analysis.rows import ByRow, style
from training.run.drawing import BAND

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Refreshes = list[dict[str, float]]  # of one run: `step`, and the |cosine| of each eigenvector by its number
MEASURES: tuple[Callable[[list[float]], float], ...] = (min, statistics.fmean, max)


def cosine_figure(rows: ByRow) -> "Figure | None":
    """|cosine| of basis columns before and after each refresh, without switching; None where no run recorded it."""
    recorded = {
        row: [record["basis_cosines"] for record in rows.get(row, ()) if "basis_cosines" in record]
        for row in ("tracking", "none")
    }
    refreshes = [refresh for seeds in recorded.values() for seed in seeds for refresh in seed]
    numbers = [i for i in map(str, EIGENVECTORS) if all(i in refresh for refresh in refreshes)]
    if not refreshes or not numbers:
        return None
    figure, panels = panels_of(14, 3.9, 1, len(numbers), sharey=True)
    for axes, number in zip(panels, numbers, strict=True):
        _panel(axes, number, recorded)
    panels[0].set_ylim(0, 1.02)
    panels[0].set_ylabel("|cosine| before and after, median of the matrices")
    panels[0].legend(loc="lower right", frameon=False)
    return figure


def _panel(axes: "Axes", number: str, recorded: dict[str, list[Refreshes]]) -> None:
    """The mean over seeds of one eigenvector, with and without tracking, in a band between the extremes."""
    dress(axes, f"eigenvector {number}")
    axes.set_xlabel("step of the refresh")
    for row, seeds in recorded.items():
        by_step = [(refresh[0]["step"], [seed[number] for seed in refresh]) for refresh in zip(*seeds, strict=True)]
        steps = [step for step, _ in by_step]
        low, mean, high = ([measure(cosines) for _, cosines in by_step] for measure in MEASURES)
        look = style(row)
        axes.fill_between(steps, low, high, color=look.colour, alpha=BAND, linewidth=0)
        label = f"with{'' if row == 'tracking' else 'out'} tracking"
        axes.plot(steps, mean, color=look.colour, linestyle=(0, look.dash) if look.dash else "-", label=label)
