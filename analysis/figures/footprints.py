"""Fig. 4: measured memory of training steps, and the sums of parts that `--plan` gives."""

from typing import TYPE_CHECKING

from analysis.figures.bars import Bar, draw_bars, legend
from analysis.figures.canvas import dress, panels_of
from analysis.paper_memory import GIB, figure_4, settings
from analysis.plans import plan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = ("adam", "galore", "fira", "racs", "alice_0", "alice")
# Table 9's ranks and leading columns; at 7B the rank of Table 4's GaLore, and leading in proportion.
MODELS = {"llama_350m": ("350M", 256, 40), "llama_1_3b": ("1.3B", 512, 160), "llama_7b": ("7B", 1024, 320)}


def memory_figure() -> "Figure":
    """The paper's measurements, light, and the sums of parts, plain and layer-wise."""
    figure, panels = panels_of(11.8, 4.6, 1, len(MODELS))
    for axes, (model, (title, rank, leading)) in zip(panels, MODELS.items(), strict=True):
        bars = {method: _bars(model, method, rank, leading) for method in METHODS}
        dress(axes, title)
        draw_bars(axes, bars, len(bars), "{:.1f}".format)
        axes.set_xlabel("GiB, with 256 positions a batch")
    legend(
        figure,
        {
            "measured (the paper's Fig. 4)": Bar([], light=True),
            "sum of parts by --plan": Bar([], light=False),
            "layer-wise: measured": Bar([], light=True, hatched=True),
            "layer-wise: sum of parts": Bar([], light=False, hatched=True),
        },
    )
    return figure


def _bars(model: str, method: str, rank: int, leading: int) -> list[Bar]:
    options = [] if method in ("adam", "racs") else [f"optimizer.rank={rank}"]
    options += [f"optimizer.leading={leading}"] if method.startswith("alice") else []
    footprints = figure_4(plan(*settings(model, method, *options)))
    return [
        Bar([number / GIB], light=light, hatched=mode == "layerwise")
        for mode, footprint in footprints.items()
        for number, light in ((footprint.measured, True), (footprint.planned, False))
    ]
