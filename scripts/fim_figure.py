"""The picture and the medians of scripts/fim_error.py, made from its table alone."""

import csv
import io
import math
import statistics
from pathlib import Path

INK, FAINT, GRID = "#1f2430", "#8d94a1", "#e6e8ec"

# structure -> (label, marker, its size, colour), in the order of the legend: diagonal, block and Kronecker families.
STYLE = {
    "normalization": ("Normalization   S ⊗ I", "v", 7, "#e3a04a"),
    "racs": ("RACS   S ⊗ Q", "D", 6.5, "#d9762b"),
    "adam": ("Adam   diagonal", "s", 7, "#b8452f"),
    "whitening": ("Whitening (Muon)   I ⊗ M", "^", 7, "#4a90b8"),
    "galore": ("GaLore   low rank", "o", 9, "#a9b0ba"),
    "alice_switched": ("Alice after a switch", "o", 6.5, "#7cc48f"),
    "alice": ("Alice   low rank + compensation", "o", 5, "#2f8f57"),
    "eigen_adam": ("Eigen-Adam   U Dᵢ Uᵀ", "P", 8.5, "#155c38"),
    "full_blocks": ("the best block diagonal   Mᵢ", "d", 8, INK),
    "shampoo": ("Shampoo   √R ⊗ √L", "h", 8.5, "#b79ad6"),
    "kronecker": ("its bases, the best R ⊗ L in them", "X", 8.5, "#8455b5"),
    "soap": ("SOAP   its bases, free diagonal", "*", 12, "#4f1f86"),
}
RINGS = ("galore", "alice_switched")  # drawn hollow: they lie where Alice does
MEASURES = ("error", "unseen_error")  # on the sequences fitted to, on the others
SHARES = (1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.99)  # of ||F||^2, the ticks
WORST = 1 - 5e-5  # where the axis of errors ends; an error of 1 or more is drawn there


def make(table: Path) -> None:
    """Write the picture and medians.md beside `table`; equal tables give equal bytes."""
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    table.with_suffix(".png").write_bytes(draw(rows))
    table.with_name("medians.md").write_text(describe(rows))


def summarise(rows: list[dict]) -> dict[tuple[str, int], dict]:
    """(structure, rank or 0) -> its `numbers`, and (lower quartile, median, upper quartile) of each measure."""
    summary = {}
    for structure in STYLE:
        for rank in sorted({int(row["rank"] or 0) for row in rows if row["structure"] == structure}):
            chosen = [row for row in rows if row["structure"] == structure and int(row["rank"] or 0) == rank]
            quartiles = {key: _quartiles([float(row[key]) for row in chosen]) for key in MEASURES}
            summary[structure, rank] = {"numbers": int(chosen[0]["numbers"]), **quartiles}
    return summary


def by_shape(rows: list[dict]) -> dict[tuple[int, int], list[dict]]:
    """Rows of each shape (m, n) of matrix, in the order of the table."""
    shapes = dict.fromkeys((int(row["m"]), int(row["n"])) for row in rows)
    return {shape: [row for row in rows if (int(row["m"]), int(row["n"])) == shape] for shape in shapes}


def matrices(rows: list[dict]) -> str:
    """'16 matrices: q, k, v, o_proj'."""
    names = list(dict.fromkeys(row["matrix"] for row in rows))
    kinds = list(dict.fromkeys(name.rpartition(".")[2].removesuffix("_proj") for name in names))
    return f"{len(names)} matrices: {', '.join(kinds)}"


def draw(rows: list[dict]) -> bytes:
    """PNG: relative error over numbers of state, a panel for each shape of matrix.

    A point is the median over the matrices, measured on the sequences fitted to, its line goes from quartile to
    quartile, and the short bar is the median on the other sequences. Errors are spaced by the logit of 1 - error^2,
    the share of ||F||^2 that a structure explains where it is the best of its form: on a plain axis nearly every
    structure would lie on the line at 1.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shapes = {shape: (members, summarise(members)) for shape, members in by_shape(rows).items()}
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # the picture must not depend on whose machine it is drawn on
        figure = Figure(figsize=(1.4 + 5.4 * len(shapes), 7.2), dpi=150, layout="constrained", facecolor="white")
        canvas = FigureCanvasAgg(figure)
        panels = figure.subplots(1, len(shapes), sharey=True, squeeze=False)[0]
        for axes, ((m, n), (members, summary)) in zip(panels, shapes.items(), strict=True):
            _panel(axes, summary)
            axes.axvline(m * n, color=FAINT, linewidth=0.9, linestyle=(0, (2, 3)), zorder=1)
            axes.annotate("m n", (m * n, 0.01), (4, 0), ("data", "axes fraction"), "offset points", color=FAINT)
            axes.set_title(f"{m} × {n}", loc="left", pad=12, color=INK, fontsize=12, fontweight="bold")
            axes.set_title(matrices(members), loc="right", pad=12, color=FAINT, fontsize=10)
            axes.set_xlabel("state: numbers held for one matrix", color=INK)
        entries = [entry for _, summary in shapes.values() for entry in summary.values()]
        errors = [error for entry in entries for measure in MEASURES for error in entry[measure]]
        _error_axis(panels, min(errors), min(max(errors), WORST))
        handles, labels = panels[0].get_legend_handles_labels()
        legend = figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, labelcolor=INK)
        legend.set_title("median, with quartiles;  — median on sequences that were not fitted to", {"size": 9})
        legend.get_title().set_color(FAINT)
        figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
        png = io.BytesIO()
        canvas.print_png(png, metadata={"Software": None})
    return png.getvalue()


def _panel(axes, summary: dict) -> None:
    axes.set_xscale("log")
    for structure, (label, marker, size, colour) in STYLE.items():
        entries = {rank: entry for (name, rank), entry in summary.items() if name == structure}
        numbers = [entry["numbers"] for entry in entries.values()]
        low, median, high = ([min(entry["error"][k], WORST) for entry in entries.values()] for k in range(3))
        other = [min(entry["unseen_error"][1], WORST) for entry in entries.values()]
        hollow = structure in RINGS
        axes.vlines(numbers, low, high, color=colour, alpha=0.35, linewidth=1.6, zorder=2)
        axes.plot(numbers, other, linestyle="", marker="_", markersize=15, markeredgewidth=1.2, color=colour, zorder=2)
        axes.plot(
            numbers,
            median,
            marker=marker,
            markersize=size,
            markerfacecolor="white" if hollow else colour,
            markeredgecolor=colour if hollow else "white",
            markeredgewidth=1.3 if hollow else 0.6,
            color=colour,
            linewidth=1.1 if len(numbers) > 1 else 0,
            label=label,
            zorder=3,
        )
        for k, (rank, entry) in enumerate(entries.items()) if structure == "alice" else ():
            place = {"textcoords": "offset points", "ha": "right" if k == 0 else "center", "fontsize": 8}
            shift = (5 if k == 0 else 0, -13)
            axes.annotate(
                f"r = {rank}" if k == 0 else str(rank), (entry["numbers"], low[k]), shift, **place, color=colour
            )
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, which="both", length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def _error_axis(panels, lowest: float, highest: float) -> None:
    """The common axis of errors, and at its right end the share of ||F||^2 explained at the same heights."""
    import numpy as np

    def height(error):
        square = np.clip(np.asarray(error, float), 1e-3, WORST) ** 2
        return np.log(square / (1 - square))

    def error(height):
        return 1 / np.sqrt(1 + np.exp(-np.asarray(height)))

    ticks = [math.sqrt(1 - share) for share in SHARES]
    first, last = sum(tick > highest for tick in ticks), sum(tick >= lowest for tick in ticks)
    shares, ticks = SHARES[max(first - 1, 0) : last + 1], ticks[max(first - 1, 0) : last + 1]
    for axes in panels:
        axes.set_yscale("function", functions=(height, error))
        axes.set_yticks(ticks, [f"{tick:.4f}" if tick > 0.998 else f"{tick:.3f}" for tick in ticks])
        axes.set_ylim(min(ticks[-1], lowest), max(ticks[0], highest))
    panels[0].set_ylabel("relative error   ‖F − A‖ / ‖F‖", color=INK)
    for share, tick in zip(shares, ticks, strict=True):
        place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "center"}
        panels[-1].annotate(f"{100 * share:g} %", (1, tick), (8, 0), **place, color=FAINT)
    words = "share of ‖F‖² explained"
    place = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "center", "rotation": 90}
    panels[-1].annotate(words, (1, 0.5), (54, 0), **place, color=FAINT)


def describe(rows: list[dict]) -> str:
    """The picture's medians (and quartiles) as Markdown tables."""
    samples, length, seed = (rows[0][key] for key in ("samples", "length", "seed"))
    lines = [
        "# Relative Frobenius error of each structure",
        "",
        f"By scripts/fim_error.py: fitted to {samples} sequences of {length} tokens, {samples} others, seed {seed}.",
        "Median over the matrices, in brackets the quartiles.",
    ]
    for (m, n), members in by_shape(rows).items():
        lines += ["", f"## {m} × {n} ({matrices(members)})", ""]
        lines += [
            "| structure | rank | numbers of state | error | error on other sequences |",
            "|---|---:|---:|---|---|",
        ]
        for (structure, rank), entry in summarise(members).items():
            errors = " | ".join("{1:.4f} ({0:.4f} to {2:.4f})".format(*entry[measure]) for measure in MEASURES)
            label = ", ".join(STYLE[structure][0].split("   "))
            lines.append(f"| {label} | {rank or ''} | {entry['numbers']:,} | {errors} |")
    return "\n".join(lines) + "\n"


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    return tuple(statistics.quantiles(values, n=4, method="inclusive")) if len(values) > 1 else (values[0],) * 3
