"""Table 5 and Fig. 5: the parts of Alice and RACS, the paper's numbers and ours."""

from analysis import comparison
from analysis.panels import FIGURE_5
from analysis.paper import paper_table
from analysis.rows import ByRow
from analysis.tables.cells import PROVENANCE, of_model, provenance, text
from analysis.tables.table import Table

# (figure, setting) of results/paper/table5_ablations.csv -> row
ABLATION_ROWS = {
    ("table 5", "no tracking no switching no compensation"): "none",
    ("table 5", "tracking"): "tracking",
    ("table 5", "switching"): "switching",
    ("table 5", "tracking and switching"): "tracking_switching",
    ("table 5", "tracking switching and compensation"): "alice",
    ("5b", "full basis"): "full_basis",
    ("5b", "complement"): "tracking_switching",
    ("5b", "gaussian mix"): "gaussian_mix",
    ("5b", "gaussian"): "gaussian",
    ("5c", "no compensation"): "tracking_switching",
    ("5c", "fira"): "compensation_fira",
    ("5c", "fira plus"): "compensation_fira_plus",
    ("5c", "optimal"): "alice",
    ("5d", "galore with last layer adam"): "galore_last_layer_adam",
    ("5e", "racs without averaging"): "racs_no_ema",
}


def table_5(runs: ByRow, model: str = "llama_130m", scale: str = "full") -> Table:
    """Table 5 and Fig. 5: perplexities of the parts of Alice and RACS, the paper's and ours."""
    steps = FIGURE_5[0].steps if scale == "full" else None
    rows = []
    for paper in paper_table("table5_ablations.csv"):
        mine = of_model(runs.get(ABLATION_ROWS[paper["figure"], paper["setting"]], []), model, steps)
        found = comparison.perplexities(mine)
        rows.append(
            [paper["figure"], paper["setting"], paper["perplexity"], text(comparison.mean(found)),
             text(comparison.deviation(found)), str(len(found) or ""), *provenance(mine)]
        )  # fmt: skip
    return Table(
        "table5",
        f"Table 5 and Fig. 5{'' if scale == 'full' else f' at {scale} size'}: parts of Alice and RACS, perplexity",
        "Paper: 130M. lm_head by the method but where the row says otherwise"
        + ("." if scale == "full" else "; RACS's by Adam, as in Table 2."),
        ["where", "setting", "paper 130M", "ppl", "sd", "n", *PROVENANCE],
        rows,
        scale,
    )
