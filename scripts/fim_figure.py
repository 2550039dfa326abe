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
    "full_blocks": ("the best block diagonal   Mᵢ", "_", 13, INK),
    "shampoo": ("Shampoo   √R ⊗ √L", "h", 8.5, "#b79ad6"),
    "kronecker": ("its bases, the best R ⊗ L in them", "X", 8.5, "#8455b5"),
    "soap": ("SOAP   its bases, free diagonal", "*", 12, "#4f1f86"),
}
RINGS = ("galore", "alice_switched")  # drawn hollow: they lie where Alice does
MEASURES = {"error": "on the sequences the structures were fitted to", "unseen_error": "on other sequences"}
SHARES = (3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.99)  # of ||F||^2, the ticks
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
    """PNG: relative error over numbers of state, a column of panels for each shape, a row for each measure.

    Errors are spaced by the logit of 1 - error^2. That is the share of ||F||^2 a structure explains, where it is the
    best of its form: on a plain axis nearly every structure would lie on the line at 1.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shapes = by_shape(rows)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # the picture must not depend on whose machine it is drawn on
        figure = Figure(figsize=(1.4 + 5.2 * len(shapes), 9.6), dpi=150, layout="constrained", facecolor="white")
        canvas = FigureCanvasAgg(figure)
        panels = figure.subplots(len(MEASURES), len(shapes), sharex="col", sharey=True, squeeze=False)
        for column, ((m, n), members) in enumerate(shapes.items()):
            summary = summarise(members)
            for axes, (measure, words) in zip(panels[:, column], MEASURES.items(), strict=True):
                _panel(axes, summary, measure)
                axes.axvline(m * n, color=FAINT, linewidth=0.9, linestyle=(0, (2, 3)), zorder=1)
                axes.annotate("m n", (m * n, 0.01), (4, 0), ("data", "axes fraction"), "offset points", color=FAINT)
                axes.set_title(words, loc="left", fontsize=9, color=FAINT)
            title = f"m × n = {m} × {n}   ({matrices(members)})"
            panels[0, column].annotate(
                title, (0, 1), (0, 24), "axes fraction", "offset points", color=INK, fontsize=11, fontweight="bold"
            )
            panels[-1, column].set_xlabel("state: numbers held for one matrix", color=INK)
        _error_axis(panels, min(float(row[measure]) for row in rows for measure in MEASURES))
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, labelcolor=INK, fontsize=9)
        figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
        png = io.BytesIO()
        canvas.print_png(png, metadata={"Software": None})
    return png.getvalue()


def _panel(axes, summary: dict, measure: str) -> None:
    """One point a structure at its median, a line from quartile to quartile; those with ranks as curves."""
    axes.set_xscale("log")
    for structure, (label, marker, size, colour) in STYLE.items():
        entries = {rank: entry for (name, rank), entry in summary.items() if name == structure}
        numbers = [entry["numbers"] for entry in entries.values()]
        low, median, high = zip(*(entry[measure] for entry in entries.values()), strict=True)
        axes.vlines(numbers, low, [min(error, WORST) for error in high], color=colour, alpha=0.4, linewidth=1.6)
        ring = structure in RINGS
        axes.plot(
            numbers,
            [min(error, WORST) for error in median],
            marker=marker,
            markersize=size,
            markerfacecolor="white" if ring else colour,
            markeredgecolor=colour if ring or marker == "_" else "white",
            markeredgewidth=2.2 if marker == "_" else 1.3 if ring else 0.6,
            color=colour,
            linewidth=1.1 if len(numbers) > 1 else 0,
            label=label,
            zorder=3,
        )
        if structure == "alice":
            for rank, entry in entries.items():
                point = (entry["numbers"], min(entry[measure][1], WORST))
                axes.annotate(
                    f"{rank}", point, (0, -16), textcoords="offset points", ha="center", color=colour, fontsize=8
                )
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, which="both", length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def _error_axis(panels, lowest: float) -> None:
    """The common axis of errors, and at its right end the share of ||F||^2 explained at the same heights."""
    import numpy as np

    def height(error):
        square = np.clip(np.asarray(error, float), 1e-3, WORST) ** 2
        return np.log(square / (1 - square))

    def error(height):
        return 1 / np.sqrt(1 + np.exp(-np.asarray(height)))

    above = sum(math.sqrt(1 - share) > lowest for share in SHARES)
    shares = SHARES[: above + 1]  # and one below the lowest point
    ticks = [math.sqrt(1 - share) for share in shares]
    for axes in panels.flat:
        axes.set_yscale("function", functions=(height, error))
        axes.set_yticks(ticks, [f"{tick:.4f}" if tick > 0.998 else f"{tick:.3f}" for tick in ticks])
        axes.set_ylim(min(ticks[-1], lowest), WORST)
    for left, *_, right in ([row[0], *row] for row in panels):
        left.set_ylabel("relative error   ‖F − A‖ / ‖F‖", color=INK)
        for share, tick in zip(shares, ticks, strict=True):
            place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "center"}
            right.annotate(f"{100 * share:g} %", (1, tick), (6, 0), **place, color=FAINT)
        right.annotate("explained", (1, 1), (6, 6), "axes fraction", "offset points", color=FAINT, fontsize=9)


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
