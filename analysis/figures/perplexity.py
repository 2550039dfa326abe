"""Figs. 1, 2 and 5: evaluation perplexity over steps.

Where a panel shows both, the paper's curves are thin, light and broken, ours strong: the mean over seeds, in a band
from the lowest to the highest.
"""

from typing import TYPE_CHECKING, Any

from analysis.curves import Curve
from analysis.figures.canvas import BEHIND, dress, panels_of
from analysis.rows import style
from training.run.drawing import BAND, MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

CROP = 1.9  # the upper end of a panel of ours alone, over its lowest perplexity; the paper's panels have 1.6 to 1.8
BROKEN = (4.0, 2.0)  # the dash of the paper's solid lines behind ours
INSIDE = 8  # the most entries of a legend that fit into a panel


def curve_figure(panels: list[tuple[str, list[Curve]]], columns: int, widths: tuple[float, ...] = ()) -> "Figure":
    """A panel for each title and its curves, `columns` in a row, of relative `widths`."""
    lines = -(-len(panels) // columns)
    entries = max(len({curve.row for curve in drawn}) for _, drawn in panels)
    below = (0.15 * entries if entries > INSIDE else 0) / 2
    width, height = 7 if columns == 1 else 4.4 * columns, (3.6 if columns == 2 else 4.6) * lines + below
    figure, grid = panels_of(width, height, lines, columns, widths=widths)
    for axes, (title, drawn) in zip(grid, panels, strict=False):
        dress(axes, title)
        _panel(axes, drawn)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    return figure


def _panel(axes: "Axes", drawn: list[Curve]) -> None:
    """The curves of one panel, with a legend in the order of their ends."""
    axes.set_xlabel("steps")
    axes.set_ylabel("evaluation perplexity")
    axes.xaxis.set_major_formatter(lambda step, _: f"{step / 1000:g}K" if step >= 1000 else f"{step:g}")
    both = len({curve.ours for curve in drawn}) == 2
    axes.set_title(_note(drawn, both), loc="right", fontsize=7, color=MUTED)
    handles = {curve: _line(axes, curve, behind=both and not curve.ours) for curve in drawn}
    labels = _labels(drawn, both)
    place: dict[str, Any] = {"loc": "upper right"}
    if len(labels) > INSIDE:
        place = {"loc": "upper left", "bbox_to_anchor": (0, -0.12), "ncols": 2, "columnspacing": 1}
    named = [handles[curve] for curve in labels]
    axes.legend(named, labels.values(), fontsize=7, frameon=False, handlelength=2.8, labelspacing=0.35, **place)
    axes.set_ylim(*_range(drawn))
    axes.margins(x=0.02)


def _line(axes: "Axes", curve: Curve, *, behind: bool) -> "Line2D":
    """Draw one curve: ours strong, in a band between its extremes; the paper's thin, and `behind` ours light."""
    look = style(curve.row)
    if curve.ours:
        axes.fill_between(curve.step, curve.low, curve.high, color=look.colour, alpha=BAND, linewidth=0, zorder=2)
        dash, width, alpha, order = look.dash, 1.7, None, 3
    else:
        dash, width, alpha, order = look.dash or (BROKEN if behind else ()), 1.1, BEHIND if behind else 1, 2
    pattern: Any = (0, dash) if dash else "-"
    (line,) = axes.plot(
        curve.step,
        curve.perplexity,
        color=look.colour,
        linestyle=pattern,
        linewidth=width,
        alpha=alpha,
        zorder=order,
    )
    return line


def _labels(drawn: list[Curve], both: bool) -> dict[Curve, str]:
    """A label for each row, in the order of their ends: by our curve where a row has both, with the paper's end."""
    papers = {curve.row: curve for curve in drawn if both and not curve.ours}
    named = {curve.row: curve for curve in drawn}  # ours come last
    labels = {}
    for curve in sorted(named.values(), key=lambda curve: curve.perplexity[-1], reverse=True):
        end = f"  {curve.perplexity[-1]:.2f}" if curve is not papers.get(curve.row) else ""
        paper = f"  ({papers[curve.row].perplexity[-1]:.2f})" if curve.row in papers else ""
        labels[curve] = curve.label + end + paper
    return labels


def _note(drawn: list[Curve], both: bool) -> str:
    seeds = sorted({curve.seeds for curve in drawn if curve.ours})
    count = f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else f"{seeds[0]} seeds" if seeds > [1] else ""
    return "; ".join(filter(None, (count, "thin, in brackets: the paper's" if both else "")))


def _range(drawn: list[Curve]) -> tuple[float, float]:
    """The range of perplexity that a panel shows: all of the paper's curves and the ends of ours."""
    papers = [perplexity for curve in drawn if not curve.ours for perplexity in curve.perplexity]
    ends = [curve.high[-1] for curve in drawn]
    low = min([*papers, *(curve.low[-1] for curve in drawn)], default=1)
    top = max([*papers, *(1.05 * end for end in ends), *(() if papers else (CROP * low,))])
    return low - 0.03 * (top - low), top
