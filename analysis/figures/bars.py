"""Groups of horizontal bars, a group for each row."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analysis.figures.canvas import BEHIND
from analysis.rows import style
from training.run.drawing import INK, MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HATCH = "/////"


@dataclass(frozen=True)
class Bar:
    """A bar as long as the mean of `values` (one a seed), with a whisker between their extremes."""

    values: list[float]
    light: bool
    outline: bool = False
    hatched: bool = False


def draw_bars(axes: "Axes", rows: dict[str, list[Bar]], slots: int, text: Callable[[float], str]) -> None:
    """Draw the bars of each row, the first row on top of `slots` rows; `text` writes the number of a bar."""
    thickness = 0.82 / max(map(len, rows.values()), default=1)
    for place, (row, bars) in enumerate(rows.items()):
        drawn = [bar for bar in bars if bar.values]
        for k, bar in enumerate(drawn):
            y, mean = place + (k + 0.5 - len(drawn) / 2) * thickness, statistics.fmean(bar.values)
            axes.barh(y, mean, 0.86 * thickness, **_look(bar, style(row).colour))
            low, high = min(bar.values), max(bar.values)
            if low < high:
                axes.hlines(y, low, high, color=INK, linewidth=0.9)
            axes.annotate(text(mean), (high, y), (3, 0), textcoords="offset points", va="center", fontsize=6.5)
    axes.set_yticks(range(len(rows)), [style(row).label for row in rows])
    axes.set_ylim(slots - 0.4, -0.6)
    axes.margins(x=0.14)
    axes.set_xlim(left=0)
    axes.grid(visible=False, axis="y")


def legend(figure: "Figure", entries: dict[str, Bar]) -> None:
    """Name the looks of bars below the panels."""
    from matplotlib.patches import Patch

    handles = [Patch(label=label, **_look(bar, MUTED)) for label, bar in entries.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8)


def _look(bar: Bar, colour: str) -> dict[str, Any]:
    edge = _on_white(colour, BEHIND if bar.light else 1)
    # Mixed with white instead of transparent: SVG would make the hatch transparent too.
    face = "white" if bar.outline else _on_white(colour, 0.2) if bar.hatched else edge
    return {"facecolor": face, "edgecolor": edge, "linewidth": 1.1, "hatch": HATCH if bar.hatched else ""}


def _on_white(colour: str, share: float) -> tuple[float, ...]:
    from matplotlib.colors import to_rgb

    return tuple(1 - share * (1 - part) for part in to_rgb(colour))
