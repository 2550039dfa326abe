"""Panels of the paper's figures, and which rows each shows."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from analysis.records import Record
from analysis.rows import ABLATIONS, style


@dataclass(frozen=True, eq=False)
class Panel:
    """A panel of one of the paper's figures.

    rows: row -> its name in results/paper/curves/<file>.csv; labels: row -> label, where it is not the row's own;
    model, steps: of the panel's runs.
    """

    name: str
    title: str
    file: str
    model: str
    steps: int
    rows: dict[str, str]
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def size(self) -> str:
        """The model's size, as tables of results/paper write it."""
        return self.model.removeprefix("llama_")

    def shows(self, row: str) -> bool:
        """Whether our runs of a row belong here: rows of the panel, and in Figs. 1 and 2 every other method too."""
        return row in self.rows or (self.rows is TABLE_2 and row not in ABLATIONS)

    def runs(self, records: Iterable[Record]) -> list[Record]:
        """The records of runs of the panel's model and steps."""
        wanted = (self.model, self.steps)
        return [record for record in records if (record["summary"]["model"], record["summary"]["steps"]) == wanted]

    def label(self, row: str) -> str:
        """A row's name in this panel."""
        return self.labels.get(row) or style(row).label


TABLE_2 = {
    "adam": "AdamW",
    "galore": "GaLore",
    "fira": "Fira",
    "racs": "RACS",
    "alice_0": "Alice-0",
    "alice_0_last_layer_adam": "Alice-0+lm_head",
    "alice": "Alice",
    "alice_last_layer_adam": "Alice+lm_head",
}
FIGURE_1 = (Panel("figure1", "1.3B", "fig1_1.3B", "llama_1_3b", 100_000, TABLE_2),)
FIGURE_2 = (
    Panel("figure2a", "60M", "fig2a_60M", "llama_60m", 10_000, TABLE_2),
    Panel("figure2b", "130M", "fig2b_130M", "llama_130m", 20_000, TABLE_2),
    Panel("figure2c", "350M", "fig2c_350M", "llama_350m", 60_000, TABLE_2),
)


def _ablation(name: str, title: str, file: str, rows: dict[str, str], labels: dict[str, str]) -> Panel:
    return Panel(name, title, file, "llama_130m", 20_000, rows, labels)


FIGURE_5 = (
    _ablation(
        "figure5a",
        "Tracking and switching",
        "fig5a_tracking",
        {
            "none": "no_switch_no_tracking",
            "tracking": "no_switch_tracking",
            "switching": "switch_no_tracking",
            "tracking_switching": "switch_tracking",
        },
        {"none": "neither", "tracking_switching": "both"},
    ),
    _ablation(
        "figure5b",
        "What is switched to",
        "fig5b_switching",
        {
            "tracking_switching": "complement_basis",
            "full_basis": "full_basis",
            "gaussian_mix": "gaussian_mix",
            "gaussian": "gaussian",
        },
        {
            "tracking_switching": "complement",
            "full_basis": "full basis",
            "gaussian_mix": "Gaussian mix",
            "gaussian": "Gaussian",
        },
    ),
    _ablation(
        "figure5c",
        "Compensation",
        "fig5c_compensation",
        {
            "tracking_switching": "no_compensation",
            "compensation_fira": "fira",
            "compensation_fira_plus": "fira_plus",
            "alice": "ours",
        },
        {
            "tracking_switching": "none",
            "compensation_fira": "Fira's",
            "compensation_fira_plus": "Fira's, plus",
            "alice": "optimal (Alice)",
        },
    ),
    _ablation(
        "figure5d",
        "Last layer",
        "fig5d_last_layer",
        {
            "galore": "GaLore",
            "galore_last_layer_adam": "GaLore+lm_head",
            "alice": "alice",
            "alice_last_layer_adam": "alice+lm_head",
        },
        {},
    ),
    _ablation("figure5e", "RACS's averaging", "fig5e_racs_ema", {"racs": "RACS", "racs_no_ema": "RACS_no_EMA"}, {}),
)
