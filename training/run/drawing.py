"""The palette and the matplotlib set-up of every figure: equal data give equal bytes on every machine."""

import contextlib
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, GRID = "#1f2933", "#616e7c", "#e4e7eb"
BLUE, ORANGE = "#1d4ed8", "#f4a259"
BAND = 0.16  # opacity of a band between extremes


@contextlib.contextmanager
def default_style() -> Iterator[None]:
    """Inside, matplotlib has its own defaults instead of those of this machine's user."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield


def new_figure(width: float, height: float, *, pad: float, dpi: float = 100) -> "Figure":
    """An empty white figure of width x height inches, `pad` inches around each panel."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=pad, h_pad=pad)
    return Figure(figsize=(width, height), dpi=dpi, layout=layout, facecolor="white")


def png(figure: "Figure") -> bytes:
    """The figure as PNG, without matplotlib's version in it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    file = io.BytesIO()
    FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})
    return file.getvalue()
