"""curve.png: perplexity over steps and over seconds of training."""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from training.run.atomic import write_atomically
from training.run.drawing import BLUE, GRID, INK, MUTED, ORANGE, default_style, new_figure, png
from training.run.folder import RunFolder
from training.run.metrics import read_metrics
from training.run_errors import SaveError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

UNITS = (("hours", 3600), ("minutes", 60), ("seconds", 1))


def draw(folder: RunFolder) -> None:
    """Draw metrics.jsonl of `folder` into its curve.png; equal rows give equal bytes. Raises SaveError.

    Both panels show the perplexity of each evaluation and, lightly, that of the training batches with its mean over 2 %
    of them: the left panel over steps, the right one over seconds of training.
    """
    rows = [row for row in read_metrics(folder.metrics) if row["loss"] is not None]
    name = ((folder.read_config() or {}).get("run") or {}).get("name") or folder.path.resolve().name
    with default_style():
        figure = new_figure(10, 4.2, pad=0.12, dpi=150)
        _draw(figure, name, rows)
        picture = png(figure)
    try:
        write_atomically(folder.curve, picture)
    except OSError as error:
        raise SaveError(f"cannot write {folder.curve}: {error.strerror}") from error


def _draw(figure: "Figure", name: str, rows: list[dict[str, Any]]) -> None:
    training = [row for row in rows if row["kind"] == "train"]
    evaluations = [row for row in rows if row["kind"] == "eval"]
    unit, seconds = next(
        (unit, seconds)
        for unit, seconds in UNITS
        if seconds == 1 or max((row["train_seconds"] for row in rows), default=0) >= 2 * seconds
    )
    losses = [row["loss"] for row in training]
    smooth = _perplexities(_smoothed(losses))
    evaluated = _perplexities([row["loss"] for row in evaluations])
    left, right = figure.subplots(1, 2, sharey=True)
    panels = ((left, "steps", "step", 1), (right, f"{unit} of training", "train_seconds", seconds))
    for axes, label, key, scale in panels:
        xs = [row[key] / scale for row in training]
        axes.plot(xs, _perplexities(losses), color=ORANGE, alpha=0.22, linewidth=0.7)
        axes.plot(xs, smooth, color=ORANGE, linewidth=1.4, label="training batches")
        axes.plot(
            [row[key] / scale for row in evaluations],
            evaluated,
            color=BLUE,
            linewidth=1.8,
            marker="o",
            markersize=4 if len(evaluations) <= 40 else 0,
            label=f"evaluation, {evaluated[-1]:.4g} at the end" if evaluated else "evaluation",
        )
        axes.set_xlabel(label, color=INK)
        _dress(axes, integers=label == "steps")
    _label_perplexities(left, smooth + evaluated)
    left.set_ylabel("perplexity", color=INK)
    figure.suptitle(name, x=0.012, ha="left", color=INK, fontsize=12, fontweight="bold", parse_math=False)
    right.legend(loc="upper right", framealpha=1, edgecolor="none", labelcolor=INK, fontsize=9)


def _perplexities(losses: Sequence[float]) -> list[float]:
    return [math.exp(min(loss, 300.0)) for loss in losses]  # an axis needs room above its largest value


def _smoothed(losses: Sequence[float]) -> list[float]:
    """Means over 2 % of the rows, and never under 5, around each; fewer at the ends."""
    reach = max(2, len(losses) // 100)
    sums = [0.0, *accumulate(losses)]
    means = []
    for i in range(len(losses)):
        first, last = max(0, i - reach), min(len(losses), i + reach + 1)
        means.append((sums[last] - sums[first]) / (last - first))
    return means


def _dress(axes: "Axes", *, integers: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_yscale("log")
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlim(left=0)
    axes.tick_params(colors=MUTED, labelsize=9, length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10], integer=integers))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.4g}" if abs(x) < 1e4 else f"{x:,.0f}")


def _label_perplexities(axes: "Axes", values: Sequence[float]) -> None:
    """Put four to nine round numbers along the logarithmic axis, however narrow or wide its range is."""
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

    if not values:
        return
    low, high = min(values), max(values)
    margin = (high / low) ** 0.04 if high > low else 1.1
    low, high = low / margin, high * margin
    axes.set_ylim(low, high)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ([1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 5, 7]):
        ticks = [digit * 10.0**decade for decade in decades for digit in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 4:
            break
    else:  # so narrow a range is almost linear
        ticks = [tick for tick in MaxNLocator(nbins=7).tick_values(low, high) if low <= tick <= high]
    axes.yaxis.set_major_locator(FixedLocator(ticks[:: math.ceil(len(ticks) / 9)]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:,.6g}")
