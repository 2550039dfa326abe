"""Hours and money of the runs of Table 2."""

from analysis.paths import EXPERIMENTS
from analysis.plans import plan
from analysis.rows import style
from analysis.tables.cells import size_name
from analysis.tables.full_size import SIZES
from analysis.tables.table import Table

# The assumed GPU, its peak in bfloat16, the share of it that training reaches, and its price.
GPU, PEAK_FLOPS, UTILISATION, DOLLARS_AN_HOUR = "A100", 312e12, 0.40, 2.0


def cost() -> Table:
    """Hours and money of each of Table 2's runs."""
    rows = []
    for method in sorted(path.stem for path in (EXPERIMENTS / "table2" / "60m").glob("*.yaml")):
        cells = [style(method).label]
        for size in SIZES:
            flops = plan(str(EXPERIMENTS / f"table2/{size}/{method}.yaml"))["flops"]
            hours = flops / (PEAK_FLOPS * UTILISATION) / 3600
            cells += [f"{hours:.1f}", f"{hours * DOLLARS_AN_HOUR:.0f}"]
        rows.append(cells)
    heads = [head for size in SIZES for head in (f"{size_name(size)} hours", f"{size_name(size)} $")]
    return Table(
        "cost",
        f"What a run of Table 2 costs: {GPU} hours and dollars",
        f"FLOPs of the model by `--plan`, at {100 * UTILISATION:.0f} % of {PEAK_FLOPS / 1e12:.0f} TFLOP/s and "
        f"${DOLLARS_AN_HOUR:.2f} an hour. By the FLOPs of its step an optimizer adds less than 1 %, but for Muon, "
        "whose products are 1 % of the model's at 60M and 6 % at 1.3B.",
        ["method", *heads],
        rows,
    )
