"""Tables of the nano study: every row, the rates tried, and claims that follow the numbers."""

import pytest

from analysis.tables import nano_size
from analysis.tables.claims import claims, paper_60m
from experiments.nano_files import STUDY
from tests.analysis.test_tables import cells
from tests.made_records import nano_study as made_study


@pytest.mark.slow
def test_nano_tables_hold_every_row_and_the_claims_follow_the_numbers(tmp_path, monkeypatch):
    made_study(tmp_path / "runs")
    (tmp_path / "step_seconds.csv").write_text("row,seconds\nadam,0.4\nracs,0.5\n")
    monkeypatch.setattr(nano_size, "NANO", tmp_path)
    table_2, table_5, _ = nano_size.nano_tables()
    assert len(table_2.rows) == len(STUDY)
    assert all(row["ppl"] and row["n"] == "3" for row in cells(table_5))
    (racs,) = cells(table_2, method="RACS")
    assert float(racs["in seconds"]) == pytest.approx(float(racs["interpolated"]) * 0.4 / 0.5, abs=0.02)
    study = nano_size.nano_study()
    verdicts = {row[0]: row[2] for row in claims([study]).rows}
    assert verdicts["RACS before Adam"].startswith("yes: ")  # adam's were made worst
    orders = {claim: answer.rpartition(" over ")[2] for claim, answer in verdicts.items() if "Spearman" in answer}
    # Of Alice's parts: Table 5's five, three more it may switch to, two more compensations.
    assert orders.pop("order of the methods") == f"{len(paper_60m())} rows"
    assert orders == {"order of Table 5's rows": "5 rows", "order of the parts of Alice": "10 rows"}


@pytest.mark.parametrize(
    ("losses", "edges"),
    [
        ({(1, 0.01): 3, (2, 0.01): 2, (4, 0.01): 4, (2, 0.03): 5, (2, 0.003): 6}, ""),
        ({(1, 0.01): 3, (2, 0.01): 2, (4, 0.003): 4, (2, 0.03): 5, (2, 0.003): 6}, "lr"),  # 4 was another adam_lr's
        ({(1, 0.01): 3, (2, 0.01): 2, (2, 0.03): 5}, "lr adam_lr"),
    ],
)
def test_a_best_rate_is_at_the_edge_among_runs_of_the_same_other_rate(losses, edges):
    tried = [
        {"summary": {"lr": lr, "adam_lr": adam_lr, "final_loss": loss, "final_perplexity": loss}}
        for (lr, adam_lr), loss in losses.items()
    ]
    assert nano_size.tuning_table({"adam": tried}, {}).rows[0][1:4] == ["2", "0.01", edges]


def test_the_tuning_table_has_the_rates_of_the_first_seeds_long_runs():
    def at(lr, seed, perplexity):
        return {"summary": {"lr": lr, "adam_lr": 0.1, "final_loss": perplexity, "final_perplexity": perplexity,
                            "seed": seed}}  # fmt: skip

    long = [at(0.04, 0, 8), at(0.02, 0, 9), at(0.04, 1, 7)]
    assert nano_size.tuning_table({"alice": [at(0.02, 0, 20)]}, {"alice": long}).rows == [
        ["Alice", "0.02", "0.1", "", "20.0", "0.02/0.1: 20.0", "0.02/0.1: 9.0 · 0.04/0.1: 8.0"]
    ]
