"""Figures and report from the paper's numbers and the records of our runs.

    python scripts/plot_results.py

Writes results/figures/*.svg, results/nano/figures/*.svg and results/report.html; equal records give equal bytes.
Where a panel shows both, the paper's curves are thin, light and broken, ours strong: the mean over seeds, in a band
from the lowest to the highest. A figure of ours alone is not drawn without records.
"""

import contextlib
import io
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from configs.schema import load  # noqa: E402
from scripts import curves, records, report  # noqa: E402
from scripts.comparison import best_settings, crossed, effective_throughput, reached, speed_ups  # noqa: E402
from scripts.curves import ABLATIONS, FIGURE_1, FIGURE_2, FIGURE_5, Curve, Panel, style  # noqa: E402
from scripts.nano_tables import step_seconds  # noqa: E402
from scripts.tables import tables  # noqa: E402
from training import plan as estimate  # noqa: E402

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RESULTS = ROOT / "results"
INK, MUTED, GRID = "#1f2933", "#616e7c", "#e4e7eb"
TABLE_2 = ("adam", "galore", "fira", "racs", "alice_0", "alice")  # whose throughput and memory the paper prints
# Of Fig. 4: Table 9's ranks and leading columns; at 7B the rank of Table 4's GaLore, and leading in proportion.
FIGURE_4 = {"350m": ("350M", 256, 40), "1_3b": ("1.3B", 512, 160), "7b": ("7B", 1024, 320)}
CROP = 1.9  # a panel of ours alone ends at so many times its lowest perplexity: the paper's do at 1.6 to 1.8
LIGHT = 0.45  # opacity of the paper's behind ours
BROKEN = (4, 2)  # the dash of the paper's solid lines behind ours
HATCH = "/////"
INSIDE = 8  # so many entries of a legend fit into a panel

Rows = dict[str, list[records.Record]]


@dataclass(frozen=True)
class Bar:
    """A bar as long as the mean of `values` (one a seed), with a whisker between their extremes."""

    values: list[float]
    light: bool
    outline: bool = False
    hatched: bool = False


def full_size(folder: Path, out: Path) -> None:
    """Figures 1 to 6 at the paper's sizes; `folder` holds our records and may be missing."""
    kept = list(records.read(folder).values())
    rows = {panel: curves.by_row(kept, panel) for panel in (*FIGURE_1, *FIGURE_2, *FIGURE_5)}
    both = {panel: (_title(panel), curves.published(panel) + curves.ours(rows[panel], panel)) for panel in rows}
    with _own_style():
        _write(_curves([both[panel] for panel in FIGURE_1], columns=1), out / "figure1.svg")
        _write(_curves([both[panel] for panel in FIGURE_2], columns=3), out / "figure2.svg")
        sizes = {panel.title: _rates(rows[panel], panel) for panel in (*FIGURE_2, *FIGURE_1)}
        _write(_throughput(sizes), out / "figure3.svg")
        _write(_memory(), out / "figure4.svg")
        _write(_curves([both[panel] for panel in FIGURE_5], columns=3), out / "figure5.svg")
        _write_cosines(rows[FIGURE_5[0]], out / "figure6.svg")


def nano_size(folder: Path, pace: dict[str, float], out: Path) -> None:
    """Figures 2, 3, 5 and 6 from the records in `folder`, beside the paper's panels; nothing without records.

    pace: seconds of a training step by row, for Fig. 3, which is not drawn without.
    """
    rows = curves.by_row(records.read(folder).values())
    if not rows:
        return
    with _own_style():
        panels = [("nano", curves.ours(rows, FIGURE_2[0]))]
        panels += [(f"the paper's {panel.title}", curves.published(panel)) for panel in FIGURE_2[:2]]
        _write(_curves(panels, columns=3, widths=(1.8, 1, 1)), out / "figure2.svg")
        bars = _nano_rates(rows, pace)
        if bars:
            _write(_throughput({"nano": bars, "the paper's 60M": _rates({}, FIGURE_2[0])}), out / "figure3.svg")
        panels = []
        for panel in FIGURE_5:
            panels += [(f"{_title(panel)}, nano", curves.ours(rows, panel))]
            panels += [("the paper's 130M", curves.published(panel))]
        _write(_curves(panels, columns=2), out / "figure5.svg")
        _write_cosines(rows, out / "figure6.svg")


def _title(panel: Panel) -> str:
    return f"({panel.name[-1]}) {panel.title}" if panel in FIGURE_5 else panel.title


@contextlib.contextmanager
def _own_style():
    """matplotlib's defaults instead of whoever's machine this is, and SVG whose bytes follow from what it shows."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        own = {"svg.hashsalt": "results", "svg.fonttype": "path", "hatch.linewidth": 0.6, "font.size": 9}
        colours = dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color"), INK)
        matplotlib.rcParams.update(own | colours)
        yield


def _write(figure: "Figure", path: Path) -> None:
    svg = io.StringIO()
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(line.rstrip() for line in svg.getvalue().splitlines()) + "\n")


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
    return figure


def _grid(axes: "Axes", title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def _curves(panels: list[tuple[str, list[Curve]]], columns: int, widths: tuple[float, ...] = ()) -> "Figure":
    """Perplexity over steps, `columns` panels in a row, of relative `widths`."""
    lines = -(-len(panels) // columns)
    entries = max(len({curve.row for curve in drawn}) for _, drawn in panels)
    below = (0.15 * entries if entries > INSIDE else 0) / 2
    figure = _figure(7 if columns == 1 else 4.4 * columns, (3.6 if columns == 2 else 4.6) * lines + below)
    grid = list(figure.subplots(lines, columns, squeeze=False, width_ratios=widths or None).flat)
    for axes, (title, drawn) in zip(grid, panels, strict=False):
        _grid(axes, title)
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
    handles = {}
    for curve in drawn:
        look = style(curve.row)
        if curve.ours:
            axes.fill_between(curve.step, curve.low, curve.high, color=look.colour, alpha=0.16, linewidth=0, zorder=2)
            dash, line = look.dash, {"linewidth": 1.7, "zorder": 3}
        else:
            dash = look.dash or (BROKEN if both else ())
            line = {"linewidth": 1.1, "alpha": LIGHT if both else 1}
        pattern = (0, dash) if dash else "-"
        handles[curve], *_ = axes.plot(curve.step, curve.perplexity, color=look.colour, linestyle=pattern, **line)

    papers = {curve.row: curve for curve in drawn if both and not curve.ours}
    named = {curve.row: curve for curve in drawn}  # by ours, which come last, where a row has both
    labels = {}
    for curve in sorted(named.values(), key=lambda curve: curve.perplexity[-1], reverse=True):
        end = f"  {curve.perplexity[-1]:.2f}" if curve is not papers.get(curve.row) else ""
        paper = f"  ({papers[curve.row].perplexity[-1]:.2f})" if curve.row in papers else ""
        labels[handles[curve]] = curve.label + end + paper
    place = {"loc": "upper right"}
    if len(labels) > INSIDE:
        place = {"loc": "upper left", "bbox_to_anchor": (0, -0.12), "ncols": 2, "columnspacing": 1}
    axes.legend(labels, labels.values(), fontsize=7, frameon=False, handlelength=2.8, labelspacing=0.35, **place)
    axes.set_ylim(*_range(drawn))
    axes.margins(x=0.02)


def _note(drawn: list[Curve], both: bool) -> str:
    seeds = sorted({curve.seeds for curve in drawn if curve.ours})
    count = f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else f"{seeds[0]} seeds" if seeds > [1] else ""
    return "; ".join(filter(None, (count, "thin, in brackets: the paper's" if both else "")))


def _range(drawn: list[Curve]) -> tuple[float, float]:
    """Perplexities that a panel shows: what the paper's panel does and where ours end, not how they begin."""
    papers = [perplexity for curve in drawn if not curve.ours for perplexity in curve.perplexity]
    ends = [curve.high[-1] for curve in drawn]
    low = min([*papers, *(curve.low[-1] for curve in drawn)], default=1)
    top = max([*papers, *(1.05 * end for end in ends), *(() if papers else (CROP * low,))])
    return low - 0.03 * (top - low), top


def _rates(rows: Rows, panel: Panel) -> dict[str, list[Bar]]:
    """Throughput and effective throughput of each method at a panel's size, the paper's, then ours."""
    best = {row: best_settings(runs) for row, runs in rows.items() if row not in ABLATIONS}
    bars: dict[str, list[Bar]] = {}
    for row in curves.throughput():
        if row["model"] == panel.size:
            effective = row["effective_tokens_per_second"]
            bars[row["method"]] = [
                Bar([float(row["tokens_per_second"])], light=bool(best), outline=True),
                Bar([float(effective)] if effective else [], light=bool(best)),
            ]
    for row, runs in best.items():
        rates = [run["summary"]["tokens_per_second"] for run in runs]
        effective = [] if row == "adam" else effective_throughput(runs, best.get("adam", ()), reached)
        bars.setdefault(row, []).extend([Bar(rates, light=False, outline=True), Bar(effective, light=False)])
    return bars


def _nano_rates(rows: Rows, pace: dict[str, float]) -> dict[str, list[Bar]]:
    """The same of the nano study: by the pace of each row, and the steps to where it crosses Adam's final loss."""
    bars = {}
    for row in (row for row in rows if row in pace and row not in ABLATIONS):
        settings = rows[row][0]["settings"]
        rate = settings["train"]["batch_size"] * settings["data"]["sequence_length"] / pace[row]
        ups = [] if row == "adam" else speed_ups(rows[row], rows.get("adam", ()), crossed)
        effective = [rate * speed_up for speed_up in ups]
        bars[row] = [Bar([rate], light=False, outline=True), Bar(effective, light=False)]
    return bars


def _throughput(panels: dict[str, dict[str, list[Bar]]]) -> "Figure":
    """Fig. 3, a panel for each size: outlined the throughput, filled the effective throughput."""
    slots = max(map(len, panels.values()))
    bars_a_row = max(len(bars) for panel in panels.values() for bars in panel.values())
    figure = _figure(1 + 3.6 * len(panels), 1.6 + 0.16 * slots * bars_a_row)
    for axes, (title, bars) in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels.items(), strict=True):
        _grid(axes, title)
        _bars(axes, bars, slots, "{:,.0f}".format)
        axes.set_xlabel("tokens per second")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}K" if value >= 1000 else f"{value:g}")
    light = any(bar.light for panel in panels.values() for bars in panel.values() for bar in bars)
    _legend(
        figure,
        {
            "throughput": Bar([], light=False, outline=True),
            "effective throughput (0: Adam's final loss is not reached)": Bar([], light=False),
            **({"light: the paper's, on A100": Bar([], light=True)} if light else {}),
        },
    )
    return figure


def _memory() -> "Figure":
    """Fig. 4's measured footprints, light, and the sums of parts that `--plan` gives, plain and layer-wise."""
    figure = _figure(11.8, 4.6)
    for axes, (size, (title, rank, leading)) in zip(figure.subplots(1, 3), FIGURE_4.items(), strict=True):
        bars = {}
        for method in TABLE_2:
            settings = [f"model=llama_{size}", f"optimizer={method}", "train.dtype=bfloat16"]
            settings += [] if method in ("adam", "racs") else [f"optimizer.rank={rank}"]
            settings += [f"optimizer.leading={leading}"] if method.startswith("alice") else []
            config = load(settings).config
            modes = estimate.figure_4(config, estimate.plan(config))
            bars[method] = [
                Bar([number / 2**30], light=light, hatched=mode == "layerwise")
                for mode, pair in modes.items()
                for number, light in zip(pair, (True, False), strict=True)
            ]
        _grid(axes, title)
        _bars(axes, bars, len(bars), "{:.1f}".format)
        axes.set_xlabel("GiB, with 256 positions a batch")
    _legend(
        figure,
        {
            "measured (the paper's Fig. 4)": Bar([], light=True),
            "sum of parts by --plan": Bar([], light=False),
            "layer-wise: measured": Bar([], light=True, hatched=True),
            "layer-wise: sum of parts": Bar([], light=False, hatched=True),
        },
    )
    return figure


def _bars(axes: "Axes", rows: dict[str, list[Bar]], slots: int, text: Callable[[float], str]) -> None:
    """A group of horizontal bars for each row, the first on top of `slots` groups; `text` makes a bar's number."""
    thickness = 0.82 / max(map(len, rows.values()), default=1)
    for place, (row, bars) in enumerate(rows.items()):
        drawn = [bar for bar in bars if bar.values]
        for k, bar in enumerate(drawn):
            y, mean = place + (k + 0.5 - len(drawn) / 2) * thickness, statistics.fmean(bar.values)
            axes.barh(y, mean, 0.86 * thickness, **_look(bar, style(row).colour))
            extremes = min(bar.values), max(bar.values)
            if extremes[0] < extremes[1]:
                axes.hlines(y, *extremes, color=INK, linewidth=0.9)
            axes.annotate(text(mean), (extremes[1], y), (3, 0), textcoords="offset points", va="center", fontsize=6.5)
    axes.set_yticks(range(len(rows)), [style(row).label for row in rows])
    axes.set_ylim(slots - 0.4, -0.6)
    axes.margins(x=0.14)
    axes.set_xlim(left=0)
    axes.grid(visible=False, axis="y")


def _look(bar: Bar, colour: str) -> dict:
    edge = _mixed(colour, LIGHT if bar.light else 1)
    # Mixed, not transparent: SVG would make the hatch transparent too.
    face = "white" if bar.outline else _mixed(colour, 0.2) if bar.hatched else edge
    return {"facecolor": face, "edgecolor": edge, "linewidth": 1.1, "hatch": HATCH if bar.hatched else ""}


def _mixed(colour: str, share: float) -> tuple[float, ...]:
    from matplotlib.colors import to_rgb

    return tuple(1 - share * (1 - part) for part in to_rgb(colour))


def _legend(figure: "Figure", entries: dict[str, Bar]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(label=label, **_look(bar, MUTED)) for label, bar in entries.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8)


def _write_cosines(rows: Rows, path: Path) -> None:
    """Fig. 6: |cosine| of single basis columns before and after each refresh, without switching."""
    recorded = {
        row: [record["basis_cosines"] for record in rows.get(row, ()) if "basis_cosines" in record]
        for row in ("tracking", "none")
    }
    refreshes = [refresh for seeds in recorded.values() for seed in seeds for refresh in seed]
    numbers = [i for i in map(str, records.EIGENVECTORS) if all(i in refresh for refresh in refreshes)]
    if not refreshes or not numbers:
        return
    figure = _figure(14, 3.9)
    panels = figure.subplots(1, len(numbers), sharey=True, squeeze=False)[0]
    for axes, number in zip(panels, numbers, strict=True):
        _grid(axes, f"eigenvector {number}")
        axes.set_xlabel("step of the refresh")
        for row, seeds in recorded.items():
            by_step = [(refresh[0]["step"], [seed[number] for seed in refresh]) for refresh in zip(*seeds, strict=True)]
            steps = [step for step, _ in by_step]
            low, mean, high = ([measure(c) for _, c in by_step] for measure in (min, statistics.fmean, max))
            look = style(row)
            axes.fill_between(steps, low, high, color=look.colour, alpha=0.16, linewidth=0)
            label = f"with{'' if row == 'tracking' else 'out'} tracking"
            axes.plot(steps, mean, color=look.colour, linestyle=(0, look.dash) if look.dash else "-", label=label)
    panels[0].set_ylim(0, 1.02)
    panels[0].set_ylabel("|cosine| before and after, median of the matrices")
    panels[0].legend(loc="lower right", frameon=False)
    _write(figure, path)


def main() -> int:
    full, nano = RESULTS / "full" / "runs", RESULTS / "nano" / "runs"
    full_size(full, RESULTS / "figures")
    nano_size(nano, step_seconds(), RESULTS / "nano" / "figures")
    kept = (list(records.read(folder).values()) for folder in (full, nano))
    (RESULTS / "report.html").write_text(report.page(*kept, tables()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
