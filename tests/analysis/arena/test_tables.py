"""The arena's tables, which follow from records alone."""

import pytest

from analysis.arena import ranks as ranks_module
from analysis.arena.entries import Entry, tuning
from analysis.arena.ledger import Ledger
from analysis.arena.ranks import ranks
from analysis.arena.standings import others, standings
from analysis.arena.tables import ratios, tried
from analysis.figures.frontier import frontier_figure
from analysis.tables.claims import Study
from tests.analysis.arena.on_paper import CELL, loss_of, made, standing


def test_nothing_is_significant_before_all_seeds_are_made_or_by_anothers_deviation(spec, tmp_path):
    ledger = Ledger(tmp_path / "small.jsonl")
    made(spec, ledger, loss_of)
    rows = standing(spec, ledger)
    assert rows["RACS"]["p against Adam"].startswith("**") and rows["plain racs"]["p against Adam"][0] != "*"
    assert float(rows["plain racs"]["p against Adam"]) < 1e-4
    for row in ("racs", "adam"):
        spec.rows[row].seeds = 3
        rows = standing(spec, ledger)
        assert rows["RACS"]["p against Adam"][0] != "*" and rows["RACS"]["n"] == (
            "2 of 3 so far" if row == "racs" else "2"
        )
        spec.rows[row].seeds = 2


def test_seconds_are_compared_on_one_kind_of_processor(spec, tmp_path):
    ledger = Ledger(tmp_path / "small.jsonl")
    made(spec, ledger, loss_of)
    for run in ledger.lines.values():
        run["summary"]["device"] = "one" if run["seed"] == 0 or run["row"] == "adam" else "another"
    rows = standing(spec, ledger)
    assert rows["RACS"]["in seconds"] != "" and rows["RACS"]["in steps"] != ""
    for run in ledger.lines.values():
        run["summary"]["device"] = run["row"]
    assert standing(spec, ledger)["RACS"]["in seconds"] == "" != standing(spec, ledger)["RACS"]["in steps"]


def test_standings_have_the_speed_up_that_the_losses_were_made_with(spec, tmp_path):
    ledger = Ledger(tmp_path / "small.jsonl")
    made(spec, ledger, loss_of)
    table = standings(spec, ledger, CELL)
    assert table.picture == spec.name
    rows = [dict(zip(table.columns, cells, strict=True)) for cells in table.rows]
    racs = next(row for row in rows if row["method"] == "RACS")
    assert float(racs["in tokens"]) == pytest.approx(2, abs=0.05)
    assert float(racs["p against Adam"].strip("*")) < 1e-4 and racs["n"] == "2"
    assert (
        racs["p against Adam"].startswith("**")
        and racs["tuning runs"] == "4"
        and racs["not bracketed"] == "adam_lr beta"
    )
    assert "Welch's where both rows have two seeds or more (2.0 degrees of freedom)" in table.note
    assert rows[-1]["method"] == "Adam" and rows[-1]["in tokens"] == ""
    assert [cells[0] for cells in ratios(spec, ledger, CELL).rows] == ["RACS", "Adam"]


def test_a_speed_up_is_not_extrapolated(spec, tmp_path):
    """A loss below that of the reference's longest run, of twice the positions, says as much; one above all nothing."""
    for name, change, cell in (("low", -2, "> 2.00"), ("high", 2, "")):
        ledger = Ledger(tmp_path / f"{name}.jsonl")
        made(spec, ledger, lambda entry: loss_of(entry) + (change if entry.row == "racs" else 0))  # noqa: B023
        assert standing(spec, ledger)["RACS"]["in tokens"] == cell


def test_seeds_that_never_meet_the_references_loss_are_counted(spec, tmp_path):
    ledger = Ledger(tmp_path / "small.jsonl")
    made(spec, ledger, lambda e: 4 + 0.05 * e.seed * (e.row == "racs") - 0.01 * (e.row == "racs") - 1e-8 * e.tokens)
    rows = standing(spec, ledger)
    # On seed 0 RACS meets Adam's loss at 0.99 of its steps, on seed 1 never.
    assert rows["RACS"]["in steps"] == rows["RACS"]["in seconds"] == "1.01 (1 of 2)"
    assert rows["Adam"]["in steps"] == ""
    ledger = Ledger(tmp_path / "worse.jsonl")
    made(spec, ledger, lambda entry: 4 + (entry.row != "adam"))
    assert standing(spec, ledger)["RACS"]["in steps"] == "0.00"


def test_a_diverged_run_is_a_result(spec, tmp_path):
    ledger = Ledger(tmp_path / "small.jsonl")
    counts = made(spec, ledger, lambda entry: None if entry.point["lr"] > 0.02 else loss_of(entry))
    assert counts["tuning"] == 8 and "diverged" in tried(spec, ledger).rows[1][-2]


def test_a_row_with_diverged_seeds_stays_and_one_without_others_is_last(spec, tmp_path):
    def loss(entry):
        final = entry.tokens == spec.tokens
        gone = final and (entry.row == "plain_racs" or (entry.row == "racs" and entry.seed == 1))
        return None if gone else loss_of(entry)

    ledger = Ledger(tmp_path / "small.jsonl")
    made(spec, ledger, loss)
    rows = standing(spec, ledger)
    assert list(rows) == ["RACS", "Adam", "plain racs"]
    assert rows["RACS"]["n"] == "1 of 2, 1 diverged" and rows["RACS"]["in steps"].endswith("(1 of 2)")
    # The seeds that are left are no sample of the row.
    assert rows["RACS"]["p against Adam"] == rows["RACS"]["in tokens"] == ""
    assert rows["plain racs"]["ppl"] == "diverged" and rows["plain racs"]["p against Adam"] == ""
    axes = frontier_figure(spec, ledger, [CELL]).axes[0]
    assert "all seeds diverged: plain racs" in axes.get_xlabel()
    assert "RACS (1 of 2)" in [text.get_text() for text in axes.texts]


def test_ratios_are_of_the_first_seed_and_a_diverged_run_is_last(spec, tmp_path):
    def loss(entry):
        return None if (entry.row, entry.tokens, entry.seed) == ("racs", 40960, 0) else loss_of(entry)

    ledger = Ledger(tmp_path / "small.jsonl")
    made(spec, ledger, loss)
    rows = {cells[0]: cells[1:] for cells in ratios(spec, ledger, CELL).rows}
    assert rows["RACS"][1] == "diverged (2)" and rows["Adam"][1].endswith(" (1)")
    assert rows["RACS"][0].endswith(" (1)") and rows["RACS"][2].endswith(" (1)")


def test_a_held_out_mean_over_fewer_seeds_says_so(spec, tmp_path):
    spec.held_out = {"books": []}
    ledger = Ledger(tmp_path / "small.jsonl")
    made(spec, ledger, loss_of)
    best = tuning(spec, "racs", CELL, ledger).best
    ledger.lines[Entry("racs", CELL, 40960, best, 1).name]["held_out"] = {"books": {"perplexity": 70.0}}
    rows = standing(spec, ledger)
    assert rows["RACS"]["books"] == "70.00 (1 of 2)" and rows["Adam"]["books"] == ""


def test_finals_at_points_that_tuning_has_left_are_a_table(spec, tmp_path):
    ledger = Ledger(tmp_path / "small.jsonl")
    made(spec, ledger, loss_of)
    assert others(spec, ledger, CELL).rows == []
    spec.tuning.runs = 6  # the walks go on
    assert standings(spec, ledger, CELL).rows == []
    table = others(spec, ledger, CELL)
    racs = dict(zip(table.columns, table.rows[1], strict=True))
    assert racs["method"] == "RACS" and racs["point"] == "lr=0.02 adam_lr=0.03 beta=0.9" and racs["n"] == "2"
    made(spec, ledger, lambda entry: loss_of(entry) - 0.1 * (entry.point["adam_lr"] > 0.05))
    assert [cells[0] for cells in others(spec, ledger, CELL).rows] == ["plain racs", "RACS"]  # Adam stays
    assert len(standings(spec, ledger, CELL).rows) == 3


def test_a_column_that_is_left_out_takes_its_rows_along(monkeypatch):
    """Of X = {A}, Y = {A, B, C} and Z = {B, C} A is in Y alone once X, where it is by itself, is left out."""
    found = {"X": "A", "Y": "ABC", "Z": "BC"}
    columns = {title: dict.fromkeys(rows, ranks_module.Mean(1.0, "1")) for title, rows in found.items()}
    monkeypatch.setattr(ranks_module, "_columns", lambda arenas: columns)
    table = ranks([])
    assert [row[0] for row in table.rows] == ["B", "C"] and table.columns[1:] == ["Y, 2 rows", "Z, 2 rows"]


def test_a_row_is_shown_and_ranked_by_its_style(spec, tmp_path, monkeypatch):
    """A change to a method that has the method's name in one arena is another row elsewhere."""
    ledger = Ledger(tmp_path / "small.jsonl")
    spec.rows["racs"].style, spec.rows["plain_racs"].style = "racs_of_old", "racs"
    made(spec, ledger, loss_of)
    assert [cells[0] for cells in standings(spec, ledger, CELL).rows] == ["RACS", "racs of old", "Adam"]
    runs = {row: [{"summary": {"final_perplexity": 100.0}}] for row in ("adam", "racs")}
    monkeypatch.setattr(ranks_module, "nano_study", lambda: Study("nano study", runs))
    place = standing(spec, ledger)["RACS"]["ppl"]
    assert {row[0]: row[1] for row in ranks([(spec, ledger)]).rows}["RACS"].startswith(place)


def test_ranks_are_of_the_rows_that_two_columns_have(spec, tmp_path, monkeypatch):
    ledger = Ledger(tmp_path / "small.jsonl")
    made(spec, ledger, loss_of)
    monkeypatch.setattr(ranks_module, "nano_study", lambda: Study("nano study", {}))
    assert ranks([(spec, ledger)]).rows == []
    alone = {"adam": [{"summary": {"final_perplexity": 100.0}}]}
    monkeypatch.setattr(ranks_module, "nano_study", lambda: Study("nano study", alone))
    assert ranks([(spec, ledger)]).rows == []  # one row in common has no rank
    study = {"adam": 100.0, "muon": 90.0, "racs": 110.0}
    runs = {row: [{"summary": {"final_perplexity": value}}] for row, value in study.items()}
    monkeypatch.setattr(ranks_module, "nano_study", lambda: Study("nano study", runs))
    table = ranks([(spec, ledger)])
    assert table.columns[1:] == ["small: nano, 2,048 positions a step, 0.041M, 2 rows",
                                 "nano study, 2 rows"]  # fmt: skip
    assert [row[0] for row in table.rows] == ["Adam", "RACS"]
    assert table.rows[0][2] == "100.00 (1)" and table.rows[1][1].endswith(" (1)")
