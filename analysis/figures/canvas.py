"""The common look of the figures of results/, written as SVG: equal figures give equal bytes."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from training.run.drawing import GRID, INK, default_style, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEHIND = 0.45  # opacity of the paper's curves and bars where ours are in front of them


@contextlib.contextmanager
def results_style() -> Iterator[None]:
    """Inside, figures are drawn and written in the style of results/."""
    import matplotlib

    with default_style():
        matplotlib.rc("svg", hashsalt="results", fonttype="path")
        matplotlib.rc("hatch", linewidth=0.6)
        matplotlib.rc("font", size=9)
        matplotlib.rc("text", color=INK)
        matplotlib.rc("axes", labelcolor=INK, titlecolor=INK)
        matplotlib.rc("xtick", color=INK)
        matplotlib.rc("ytick", color=INK)
        yield


def write_svgs(figures: dict[str, "Figure"], folder: Path) -> list[Path]:
    """Write every figure as `folder`/<name>.svg, and return these."""
    folder.mkdir(parents=True, exist_ok=True)
    with results_style():
        for name, figure in figures.items():
            svg = io.StringIO()
            figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
            lines = (line.rstrip() for line in svg.getvalue().splitlines())
            (folder / f"{name}.svg").write_text("\n".join(lines) + "\n")
    return [folder / f"{name}.svg" for name in figures]


def panels_of(width: float, height: float, rows: int, columns: int, *, sharey: bool = False,
              widths: tuple[float, ...] = ()) -> tuple["Figure", list["Axes"]]:  # fmt: skip
    """A figure of width x height inches with rows x columns panels, of relative `widths`."""
    figure = new_figure(width, height, pad=0.08)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=sharey, width_ratios=widths or None)
    return figure, list(panels.flat)


def dress(axes: "Axes", title: str) -> None:
    """Give a panel its title and a light grid, and take its frame away."""
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", parse_math=False)
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
