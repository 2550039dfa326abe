"""The picture of fim_error.csv: error of each structure over the numbers that its optimizer holds."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from analysis.fisher.medians import LABELS, Entry, Row, Summary, by_shape, describe, matrices, summarise
from analysis.paper import read_csv
from training.run.drawing import GRID, INK, MUTED, default_style, new_figure, png

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from matplotlib.axes import Axes


class Marker(NamedTuple):
    """How the point of a structure is drawn. Hollow ones show Alice, which is at the same place."""

    symbol: str
    size: float
    colour: str
    hollow: bool = False


MARKERS = {
    "normalization": Marker("v", 7, "#e3a04a"),
    "racs": Marker("D", 6.5, "#d9762b"),
    "adam": Marker("s", 7, "#b8452f"),
    "whitening": Marker("^", 7, "#4a90b8"),
    "galore": Marker("o", 9, "#a9b0ba", hollow=True),
    "alice_switched": Marker("o", 6.5, "#7cc48f", hollow=True),
    "alice": Marker("o", 5, "#2f8f57"),
    "eigen_adam": Marker("P", 8.5, "#155c38"),
    "full_blocks": Marker("d", 8, INK),
    "shampoo": Marker("h", 8.5, "#b79ad6"),
    "kronecker": Marker("X", 8.5, "#8455b5"),
    "soap": Marker("*", 12, "#4f1f86"),
}
SHARES = (1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.99)  # of ||F||^2, the ticks
WORST = 1 - 5e-5  # where the axis of errors ends; an error of 1 or more is drawn there


def write_picture(table: Path) -> None:
    """Write the picture (.png) of fim_error.csv and medians.md into its folder; equal tables give equal bytes."""
    rows = read_csv(table)
    table.with_suffix(".png").write_bytes(draw(rows))
    table.with_name("medians.md").write_text(describe(rows))


def draw(rows: list[Row]) -> bytes:
    """PNG: relative error over numbers of state, a panel for each shape of matrix.

    A point is the median over the matrices, measured on the sequences fitted to, its line goes from quartile to
    quartile, and the short bar is the median on the other sequences. Errors are spaced by the logit of 1 - error^2,
    the share of ||F||^2 that a structure explains where it is the best of its form. On a plain axis nearly every
    structure would be at 1.
    """
    from matplotlib.font_manager import FontProperties

    shapes = {shape: (members, summarise(members)) for shape, members in by_shape(rows).items()}
    with default_style():
        figure = new_figure(1.4 + 5.4 * len(shapes), 7.2, pad=0.1, dpi=150)
        panels = figure.subplots(1, len(shapes), sharey=True, squeeze=False)[0]
        for axes, ((m, n), (members, summary)) in zip(panels, shapes.items(), strict=True):
            _panel(axes, summary)
            axes.axvline(m * n, color=MUTED, linewidth=0.9, linestyle=(0, (2, 3)), zorder=1)
            axes.annotate("m n", (m * n, 0.01), (4, 0), ("data", "axes fraction"), "offset points", color=MUTED)
            axes.set_title(f"{m} × {n}", loc="left", pad=12, color=INK, fontsize=12, fontweight="bold")
            axes.set_title(matrices(members), loc="right", pad=12, color=MUTED, fontsize=10)
            axes.set_xlabel("state: numbers held for one matrix", color=INK)
        entries = [entry for _, summary in shapes.values() for entry in summary.values()]
        errors = [error for entry in entries for error in (*entry.error, *entry.unseen_error)]
        _error_axis(panels, min(errors), min(max(errors), WORST))
        handles, labels = panels[0].get_legend_handles_labels()
        legend = figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, labelcolor=INK)
        legend.set_title(
            "median, with quartiles;  — median on sequences that were not fitted to", FontProperties(size=9)
        )
        legend.get_title().set_color(MUTED)
        return png(figure)


def _panel(axes: "Axes", summary: Summary) -> None:
    axes.set_xscale("log")
    for structure in MARKERS:
        entries = {rank: entry for (name, rank), entry in summary.items() if name == structure}
        _points(axes, structure, list(entries.values()))
        if structure == "alice":
            _name_ranks(axes, entries)
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, which="both", length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def _points(axes: "Axes", structure: str, entries: list[Entry]) -> None:
    """A structure's medians with their quartiles, and a short bar at each median on other sequences."""
    marker = MARKERS[structure]
    numbers = [entry.numbers for entry in entries]
    low, median, high = ([min(entry.error[k], WORST) for entry in entries] for k in range(3))
    other = [min(entry.unseen_error.median, WORST) for entry in entries]
    axes.vlines(numbers, low, high, color=marker.colour, alpha=0.35, linewidth=1.6, zorder=2)
    axes.plot(
        numbers, other, linestyle="", marker="_", markersize=15, markeredgewidth=1.2, color=marker.colour, zorder=2
    )
    axes.plot(
        numbers,
        median,
        marker=marker.symbol,
        markersize=marker.size,
        markerfacecolor="white" if marker.hollow else marker.colour,
        markeredgecolor=marker.colour if marker.hollow else "white",
        markeredgewidth=1.3 if marker.hollow else 0.6,
        color=marker.colour,
        linewidth=1.1 if len(numbers) > 1 else 0,
        label=LABELS[structure],
        zorder=3,
    )


def _name_ranks(axes: "Axes", entries: dict[int, Entry]) -> None:
    """Write the rank below each point, the first as r = rank."""
    for k, (rank, entry) in enumerate(entries.items()):
        text, shift, align = (f"r = {rank}", 5, "right") if k == 0 else (str(rank), 0, "center")
        place: dict[str, Any] = {"textcoords": "offset points", "ha": align, "fontsize": 8}
        at = (entry.numbers, min(entry.error.low, WORST))
        axes.annotate(text, at, (shift, -13), **place, color=MARKERS["alice"].colour)


def _error_axis(panels: Sequence["Axes"], lowest: float, highest: float) -> None:
    """The common axis of errors, and at its right end the share of ||F||^2 explained at the same heights."""
    ticks = [math.sqrt(1 - share) for share in SHARES]
    first, last = sum(tick > highest for tick in ticks), sum(tick >= lowest for tick in ticks)
    shares, ticks = SHARES[max(first - 1, 0) : last + 1], ticks[max(first - 1, 0) : last + 1]
    for axes in panels:
        axes.set_yscale("function", functions=(_height, _error))
        axes.set_yticks(ticks, [f"{tick:.4f}" if tick > 0.998 else f"{tick:.3f}" for tick in ticks])
        axes.set_ylim(min(ticks[-1], lowest), max(ticks[0], highest))
    panels[0].set_ylabel("relative error   ‖F − A‖ / ‖F‖", color=INK)
    place: dict[str, Any] = {"textcoords": "offset points", "va": "center", "color": MUTED}
    for share, tick in zip(shares, ticks, strict=True):
        panels[-1].annotate(f"{100 * share:g} %", (1, tick), (8, 0), xycoords=("axes fraction", "data"), **place)
    words = "share of ‖F‖² explained"
    panels[-1].annotate(words, (1, 0.5), (54, 0), xycoords="axes fraction", rotation=90, **place)


def _height(error: "npt.ArrayLike") -> "np.ndarray":
    """Where an error is drawn: the logit of its square."""
    import numpy as np

    square = np.clip(np.asarray(error, float), 1e-3, WORST) ** 2
    return np.log(square / (1 - square))


def _error(height: "npt.ArrayLike") -> "np.ndarray":
    """The error that is drawn at a height."""
    import numpy as np

    return 1 / np.sqrt(1 + np.exp(-np.asarray(height)))
