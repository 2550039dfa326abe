"""Fig. 3: throughput and effective throughput of each method."""

from typing import TYPE_CHECKING

from analysis.comparison import best_settings, crossed, effective_throughput, reached, speed_ups
from analysis.figures.bars import Bar, draw_bars, legend
from analysis.figures.canvas import dress, panels_of
from analysis.panels import Panel
from analysis.paper import paper_table
from analysis.rows import ABLATIONS, ByRow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Bars = dict[str, list[Bar]]  # by row


def throughput_figure(panels: dict[str, Bars]) -> "Figure":
    """A panel for each title: outlined bars are the throughput, filled ones the effective throughput."""
    slots = max(map(len, panels.values()))
    bars_a_row = max(len(bars) for panel in panels.values() for bars in panel.values())
    figure, grid = panels_of(1 + 3.6 * len(panels), 1.6 + 0.16 * slots * bars_a_row, 1, len(panels))
    for axes, (title, bars) in zip(grid, panels.items(), strict=True):
        dress(axes, title)
        draw_bars(axes, bars, slots, "{:,.0f}".format)
        axes.set_xlabel("tokens per second")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}K" if value >= 1000 else f"{value:g}")
    light = any(bar.light for panel in panels.values() for bars in panel.values() for bar in bars)
    legend(
        figure,
        {
            "throughput": Bar([], light=False, outline=True),
            "effective throughput (0: Adam's final loss is not reached)": Bar([], light=False),
            **({"light: the paper's, on A100": Bar([], light=True)} if light else {}),
        },
    )
    return figure


def rates(rows: ByRow, panel: Panel) -> Bars:
    """Throughput and effective throughput of each method at a panel's size: the paper's, then ours."""
    best = {row: best_settings(runs) for row, runs in rows.items() if row not in ABLATIONS}
    bars: Bars = {}
    for cells in paper_table("table2_throughput.csv"):
        if cells["model"] == panel.size:
            printed = cells["effective_tokens_per_second"]
            bars[cells["method"]] = [
                Bar([float(cells["tokens_per_second"])], light=bool(best), outline=True),
                Bar([float(printed)] if printed else [], light=bool(best)),
            ]
    for row, runs in best.items():
        found = [run["summary"]["tokens_per_second"] for run in runs]
        effective = [] if row == "adam" else effective_throughput(runs, best.get("adam", ()), reached)
        bars.setdefault(row, []).extend([Bar(found, light=False, outline=True), Bar(effective, light=False)])
    return bars


def nano_rates(rows: ByRow, pace: dict[str, float]) -> Bars:
    """The same of the nano study, from the seconds of a step of each row and the steps to Adam's final loss."""
    bars: Bars = {}
    for row in (row for row in rows if row in pace and row not in ABLATIONS):
        settings = rows[row][0]["settings"]
        rate = settings["train"]["batch_size"] * settings["data"]["sequence_length"] / pace[row]
        ups = [] if row == "adam" else speed_ups(rows[row], rows.get("adam", ()), crossed)
        effective = [rate * speed_up for speed_up in ups]
        bars[row] = [Bar([rate], light=False, outline=True), Bar(effective, light=False)]
    return bars
