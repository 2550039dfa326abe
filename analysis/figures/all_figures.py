"""Every figure of results/figures, results/nano/figures and results/arena/figures, by the stem of its file."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from analysis import curves
from analysis.arena.ledger import ledger_of
from analysis.arena.spec import all_specs, cells
from analysis.comparison import best_settings
from analysis.figures.basis_cosines import cosine_figure
from analysis.figures.canvas import results_style
from analysis.figures.footprints import memory_figure
from analysis.figures.frontier import frontier_figure
from analysis.figures.perplexity import curve_figure
from analysis.figures.throughput import nano_rates, rates, throughput_figure
from analysis.panels import FIGURE_1, FIGURE_2, FIGURE_5, Panel
from analysis.records import Record
from analysis.rows import ByRow, by_row

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def full_size_figures(records: Iterable[Record]) -> dict[str, "Figure"]:
    """Figs. 1 to 5 at the paper's sizes, our records in front of its numbers, and Fig. 6 where records have it."""
    kept = list(records)
    rows = {panel: by_row(panel.runs(kept)) for panel in (*FIGURE_1, *FIGURE_2, *FIGURE_5)}
    both = {
        panel: (_title(panel), curves.paper_curves(panel) + curves.our_curves(rows[panel], panel)) for panel in rows
    }
    with results_style():
        figures = {
            "figure1": curve_figure([both[panel] for panel in FIGURE_1], columns=1),
            "figure2": curve_figure([both[panel] for panel in FIGURE_2], columns=3),
            "figure3": throughput_figure({panel.title: rates(rows[panel], panel) for panel in (*FIGURE_2, *FIGURE_1)}),
            "figure4": memory_figure(),
            "figure5": curve_figure([both[panel] for panel in FIGURE_5], columns=3),
        }
        return figures | _figure_6({row: best_settings(runs) for row, runs in rows[FIGURE_5[0]].items()})


def nano_figures(records: Iterable[Record], pace: dict[str, float]) -> dict[str, "Figure"]:
    """Figs. 2, 3, 5 and 6 from records of nano runs, next to the paper's panels; none without records.

    pace: seconds of a training step by row, for Fig. 3, which is not drawn without.
    """
    rows = {row: best_settings(runs) for row, runs in by_row(records).items()}
    if not rows:
        return {}
    with results_style():
        panels = [("nano", curves.our_curves(rows, FIGURE_2[0]))]
        panels += [(f"the paper's {panel.title}", curves.paper_curves(panel)) for panel in FIGURE_2[:2]]
        figures = {"figure2": curve_figure(panels, columns=3, widths=(1.8, 1, 1))}
        if bars := nano_rates(rows, pace):
            figures["figure3"] = throughput_figure({"nano": bars, "the paper's 60M": rates({}, FIGURE_2[0])})
        pairs = []
        for panel in FIGURE_5:
            pairs += [(f"{_title(panel)}, nano", curves.our_curves(rows, panel))]
            pairs += [("the paper's 130M", curves.paper_curves(panel))]
        figures["figure5"] = curve_figure(pairs, columns=2)
        return figures | _figure_6(rows)


def arena_figures() -> dict[str, "Figure"]:
    """Perplexity against bytes of state, for each arena that has runs."""
    drawn = {spec.name: frontier_figure(spec, ledger_of(spec.name), cells(spec)) for spec in all_specs()}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _figure_6(rows: ByRow) -> dict[str, "Figure"]:
    figure = cosine_figure(rows)
    return {} if figure is None else {"figure6": figure}


def _title(panel: Panel) -> str:
    return f"({panel.name[-1]}) {panel.title}" if panel in FIGURE_5 else panel.title
