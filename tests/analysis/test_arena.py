"""The arena: what it needs to run, its tables, which follow from records alone, and its specs."""

import itertools
import math
import re

import pytest

from analysis.arena import entries as entries_module
from analysis.arena import ranks as ranks_module
from analysis.arena import spec as spec_module
from analysis.arena.entries import Entry, arguments, due, published, remaining, steps_of, tuning
from analysis.arena.ledger import Ledger
from analysis.arena.outcomes import recorded
from analysis.arena.ranks import ranks
from analysis.arena.same_settings import check_unchanged
from analysis.arena.spec import Cell, Entrant, all_specs, cells, read_spec
from analysis.arena.standings import others, standings
from analysis.arena.tables import ratios, tried
from analysis.figures.frontier import front, frontier_figure
from analysis.paths import ROOT
from analysis.rows import style
from configs.identity import config_hash
from configs.schema import SettingsError, load

CELL = Cell("llama_nano", 8)
SPEC = """
title: small
batch_sizes: [8]
tokens: 40960
ladder: [20480, 40960, 81920]
tuning: {tokens: 20480, runs: 4, noise: 0.01}
against: [adam]
rows:
  adam: {lr: 0.004, adam_lr: 0.03, seeds: 2, ladder: true}
  racs: {lr: 0.02, adam_lr: 0.03, own: {beta: [0.9, 0.95]}, seeds: 2, ladder: true}
  plain_racs: {file: nano/ablations/racs_no_ema.yaml, rates_of: racs}
"""


AGAIN = """
title: again
batch_sizes: [8]
tokens: 40960
tuned_in: small
published: false
first_seed: 2
against: [adam]
rows:
  adam: {seeds: 2}
  racs: {seeds: 3}
  like_racs: {file: nano/ablations/racs_no_ema.yaml, rates_of: racs}
"""


@pytest.fixture
def spec(tmp_path):
    (tmp_path / "small.yaml").write_text(SPEC)
    return read_spec(tmp_path / "small.yaml")


# ---- the ledger


def line(entry, loss, state=100, steps=10):
    rows = []
    for step in range(1, steps + 1) if loss else ():
        shared = {"kind": "eval", "step": step, "tokens": step * 2048, "train_seconds": 2.0 * step}
        rows.append(shared | {"loss": loss + 1 - step / steps})
    return {
        "name": entry.name, "row": entry.row, "size": entry.cell.size, "batch_size": entry.cell.batch_size,
        "steps": steps, "tokens": entry.tokens, "point": entry.point, "seed": entry.seed, "loss": loss,
        "summary": {"optimizer_state_bytes": state, "train_seconds": 2.0 * steps} if loss else {},
        "evaluations": rows,
    }  # fmt: skip


# ---- what an arena needs to run


def test_compared_seeds_may_be_others_than_that_of_tuning(tmp_path):
    """Of equal length the best tuning run would be one of the compared ones, and its loss the least of several."""
    text = SPEC.replace("tokens: 20480, runs", "tokens: 40960, runs")
    (tmp_path / "small.yaml").write_text(text)
    (tmp_path / "fresh.yaml").write_text(text + "first_seed: 1\n")
    for name, seeds, warned in (("small", [0, 1], True), ("fresh", [1, 2], False)):
        spec, ledger = read_spec(tmp_path / f"{name}.yaml"), Ledger(tmp_path / f"{name}.jsonl")
        left = remaining(spec, ledger, list(spec.rows))
        counts = made(spec, ledger, loss_of)
        assert {stage: runs for stage, (runs, _) in left.items()} == counts
        assert [run["seed"] for run in recorded(spec, ledger, CELL)["racs"]] == seeds
        assert not others(spec, ledger, CELL).rows
        assert ("seed 0 is the best of the tuning runs" in standings(spec, ledger, CELL).note) == warned


def made(spec, ledger, loss, stages=("tuning", "final", "ladder", "published")):
    """Run every stage on paper; returns the number of runs of each."""
    counts = {}
    for stage in stages:
        counts[stage] = 0
        while entries := due(spec, ledger, list(spec.rows), stage):
            counts[stage] += len(entries)
            for entry in entries:
                ledger.append(line(entry, loss(entry), state=200 if entry.row == "adam" else 100))
    return counts


def loss_of(entry):
    """Adam's follows 2 D^-0.3 + 3; RACS is as good with half the data."""
    tokens = entry.tokens * (1 if entry.row == "adam" else 2) / 20480
    off = abs(math.log2(entry.point["lr"] / 0.004 if entry.row == "adam" else entry.point["lr"] / 0.02))
    return 2 * tokens**-0.3 + 3 + 0.05 * off + 0.001 * entry.seed


def test_every_tuned_row_gets_equally_many_runs_and_a_row_like_another_gets_none(spec, tmp_path):
    ledger = Ledger(tmp_path / "small.jsonl")
    left = remaining(spec, ledger, list(spec.rows))
    counts = made(spec, ledger, loss_of)
    # A ladder's run at the tuned point is the tuning's own, and at the comparison's tokens the final one.
    assert counts == {"tuning": 8, "final": 5, "ladder": 2, "published": 2}
    assert left["tuning"] == (8, 8 * 20480) and left["final"] == (5, 5 * 40960)
    assert {stage: runs for stage, (runs, _) in left.items()} == counts
    assert all(runs == 0 for runs, _ in remaining(spec, ledger, list(spec.rows)).values())
    assert [cells[2] for cells in tried(spec, ledger).rows] == ["4", "4"]
    elsewhere = dict.fromkeys(tuning(spec, "adam", CELL, ledger).best, 1.0)
    ledger.append(line(Entry("adam", CELL, 20480, elsewhere, 0), 3.25))
    ledger = Ledger(ledger.path)  # whose settings are sorted by name
    assert [(row[2], row[-1]) for row in tried(spec, ledger).rows] == [
        ("4", " / ".join("1" for _ in elsewhere) + ": 3.2500"),
        ("4", ""),
    ]
    assert tuning(spec, "plain_racs", CELL, ledger).best == tuning(spec, "racs", CELL, ledger).best


def test_the_arena_of_the_page_is_one_and_has_as_many_runs_as_it_says(tmp_path):
    page = (ROOT / "docs" / "arena.md").read_text()
    (text,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.S)
    (tmp_path / "first.yaml").write_text(text)
    spec = read_spec(tmp_path / "first.yaml")
    counts = made(spec, Ledger(tmp_path / "first.jsonl"), lambda entry: 4 + 0.001 * entry.seed)
    steps = {steps_of(spec, Entry("adam", cell, tokens, {}, 0)) for cell in cells(spec) for tokens in (spec.tokens,)}
    assert f"is {sum(counts.values())} runs of {steps.pop()} steps" in page


def test_rows_may_take_the_values_that_another_arena_has_tuned(spec, tmp_path, monkeypatch):
    ledger = Ledger(tmp_path / "small.jsonl")
    made(spec, ledger, loss_of)
    monkeypatch.setattr(entries_module, "_other", lambda name: (spec, ledger))
    monkeypatch.setattr(spec_module, "spec_named", lambda name: spec)
    (tmp_path / "again.yaml").write_text(AGAIN)
    again, records = read_spec(tmp_path / "again.yaml"), Ledger(tmp_path / "again.jsonl")
    left = remaining(again, records, list(again.rows))
    assert {stage: runs for stage, (runs, _) in left.items()} == made(again, records, loss_of)
    assert {stage: runs for stage, (runs, _) in left.items()} == {"tuning": 0, "final": 6, "ladder": 0, "published": 0}
    runs = recorded(again, records, CELL)
    assert [(run["point"], run["seed"]) for run in runs["racs"]] == [
        (tuning(spec, "racs", CELL, ledger).best, seed) for seed in (2, 3, 4)
    ]
    assert [run["point"] for run in runs["like_racs"]] == [runs["racs"][0]["point"]]
    table = standings(again, records, CELL)
    tuned = {row[0]: row[table.columns.index("tuning runs")] for row in table.rows}
    assert tuned == {"RACS": "4", "Adam": "4", "like racs": "those of RACS"}
    assert "tuned in the arena small." in table.note
    assert "seed 0 is the best" not in table.note and not others(again, records, CELL).rows


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("racs: {seeds: 3}", "racs: {lr: 1.0}"), r"rows\.racs: its values are those of small, so it needs none"),
        (("  racs: {seeds: 3}", "  racs: {seeds: 3}\n  muon: {seeds: 3}"), "tuned_in: small has no row muon"),
        (("[8]", "[16]"), "tuned_in: small has no llama_nano with a batch size of 16"),
        (("tuned_in: small", "tuned_in: big"), r"no files below configs/arena are called big\.yaml"),
    ],
)
def test_an_arena_that_cannot_take_anothers_values_is_refused(spec, tmp_path, monkeypatch, change, sentence):
    named = spec_module.spec_named
    monkeypatch.setattr(spec_module, "spec_named", lambda name: spec if name == "small" else named(name))
    (tmp_path / "again.yaml").write_text(AGAIN.replace(*change))
    with pytest.raises(SettingsError, match=sentence):
        read_spec(tmp_path / "again.yaml")


def test_an_arena_that_takes_its_own_values_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(spec_module, "ARENAS", tmp_path)
    for name, source in (("self", "self"), ("one", "two"), ("two", "one")):
        (tmp_path / f"{name}.yaml").write_text(AGAIN.replace("tuned_in: small", f"tuned_in: {source}"))
        with pytest.raises(SettingsError, match=r"tuned_in: \w+ is not tuned itself|no files below"):
            read_spec(tmp_path / f"{name}.yaml")


def test_runs_of_other_settings_are_not_mixed(spec, tmp_path):
    ledger = Ledger(tmp_path / "small.jsonl")
    made(spec, ledger, loss_of)
    for run in ledger.lines.values():
        entry = Entry(run["row"], CELL, run["tokens"], run["point"], run["seed"])
        run["summary"]["config_hash"] = config_hash(load(arguments(spec, entry)).config)
    assert "other settings" not in standings(spec, ledger, CELL).note
    spec.rows["racs"].seeds = 3
    check_unchanged(spec, ledger, due(spec, ledger, list(spec.rows), "final"))
    spec.settings = ["optimizer.weight_decay=0.1"]
    note = standings(spec, ledger, CELL).note
    assert note.endswith("Made with other settings than the spec has now: Adam, RACS, plain racs.")
    with pytest.raises(SettingsError, match=r"rows\.racs: its records were made with other settings than configs/exp"):
        check_unchanged(spec, ledger, due(spec, ledger, list(spec.rows), "final"))
    best = tuning(spec, "racs", CELL, ledger).best
    ledger.lines[Entry("racs", CELL, 40960, best, 1).name]["summary"]["git_commit"] = "abc-dirty"
    assert standings(spec, ledger, CELL).note.endswith("changes that were not committed: RACS (1).")


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


def test_a_published_recipe_keeps_its_files_refreshes(tmp_path):
    rows = "rows:\n  galore: {lr: 0.01, adam_lr: 0.001}\nagainst: [galore]\ntokens: 409600\ntuning: {tokens: 409600}\n"
    (tmp_path / "small.yaml").write_text(rows)
    small = read_spec(tmp_path / "small.yaml")
    cell = cells(small)[0]
    as_published = published(small, "galore", cell)
    same_point = Entry("galore", cell, 409600, as_published.point, 0)
    assert as_published.name != same_point.name
    assert "optimizer.update_interval=1" in arguments(small, same_point)
    assert not any("update_interval" in argument for argument in arguments(small, as_published))


def test_standings_have_the_speed_up_that_the_losses_were_made_with(spec, tmp_path):
    ledger = Ledger(tmp_path / "small.jsonl")
    made(spec, ledger, loss_of)
    table = standings(spec, ledger, CELL)
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


def standing(spec, ledger):
    """The standings as label -> column -> cell."""
    table = standings(spec, ledger, CELL)
    return {cells[0]: dict(zip(table.columns, cells, strict=True)) for cells in table.rows}


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


def test_ranks_are_of_the_rows_that_two_columns_have(spec, tmp_path, monkeypatch):
    ledger = Ledger(tmp_path / "small.jsonl")
    made(spec, ledger, loss_of)
    monkeypatch.setattr(ranks_module, "final_runs", dict)
    assert ranks([(spec, ledger)]).rows == []
    study = {"adam": 100.0, "muon": 90.0, "racs": 110.0}
    runs = {row: [{"summary": {"final_perplexity": value}}] for row, value in study.items()}
    monkeypatch.setattr(ranks_module, "final_runs", lambda: runs)
    table = ranks([(spec, ledger)])
    assert table.columns[1:] == ["small: nano, 2,048 positions a step, 0.041M, 2 rows",
                                 "nano study: 2,048 positions a step, 2M, 2 rows"]  # fmt: skip
    assert [row[0] for row in table.rows] == ["Adam", "RACS"]
    assert table.rows[0][2] == "100.00 (1)" and table.rows[1][1].endswith(" (1)")


def test_a_picture_has_each_label_apart_and_no_ablation(spec, tmp_path):
    spec.rows["ablation_racs_no_ema"] = spec.rows.pop("plain_racs")
    spec.rows["muon"] = Entrant(lr=0.02, adam_lr=0.03)
    ledger = Ledger(tmp_path / "small.jsonl")
    made(spec, ledger, loss_of, stages=("tuning", "final"))
    figure = frontier_figure(spec, ledger, [CELL])
    figure.draw_without_rendering()
    axes = figure.axes[0]
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
    assert sorted(text.get_text() for text in axes.texts) == ["Adam", "Muon", "RACS"]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert len(axes.containers) == 3  # with error bars
    assert not any("$" in label.get_text() for label in axes.get_xticklabels(which="both"))
    assert style("ablation_racs_no_ema") == style("racs_no_ema")


def test_the_front_are_the_rows_that_no_other_beats_in_both():
    assert front({"a": (1, 9.0), "b": (2, 8.0), "c": (2, 8.5), "d": (3, 8.2), "e": (4, 7.0)}) == ["a", "b", "e"]


# ---- specs


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("seeds: 2, ladder: true}\n  racs", "seeds: 0}\n  racs"), r"rows\.adam\.seeds must be at least 1"),
        (("against: [adam]", "against: [sgd]"), "against: there is no row sgd"),
        (("against: [adam]", "against: []"), "against is empty"),
        (("own: {beta: [0.9, 0.95]}", "own: {beta: [0.9, 0.9]}"), r"rows\.racs\.own\.beta needs values .* given twice"),
        (("rates_of: racs", "rates_of: plain_racs"), r"rows\.plain_racs\.rates_of: plain_racs is no row that is tuned"),
        (("tokens: 40960", "tokens: 40961"), "40961 positions are no whole number of steps of 2048"),
        (("runs: 4", "runs: 0"), "tuning needs at least one run"),
        (("title: small", "titel: small"), "titel"),
        (("own: {beta: [0.9, 0.95]}", "own: {bta: [0.9]}"), r"rows\.racs: unknown key optimizer\.bta"),
        (("own: {beta: [0.9, 0.95]}", "own: {beta: [0.9, 1.5]}"), r"rows\.racs: optimizer\.beta"),
        (("own: {beta: [0.9, 0.95]}", "own: {beta: []}"), r"rows\.racs\.own\.beta needs values to try"),
        (("own: {beta: [0.9, 0.95]}", "own: {beta: [null, 0.9]}"), r"rows\.racs\.own\.beta needs values to try, none"),
        (("batch_sizes: [8]", "batch_sizes: []"), "batch_sizes is empty"),
        (("lr: 0.004", "lr: -0.004"), r"rows\.adam: optimizer\.lr must be greater than 0"),
        (("rows:", "held_out: {books: [data.eval_pth=a]}\nrows:"), r"held_out\.books: unknown key data\.eval_pth"),
        (("  adam: {", "  sgd: {lr: 1}\n  adam: {"), r"rows\.sgd: there is no file configs/experiment/nano/sgd.yaml"),
    ],
)
def test_a_wrong_spec_is_one_sentence(tmp_path, change, sentence):
    (tmp_path / "small.yaml").write_text(SPEC.replace(*change))
    with pytest.raises(SettingsError, match=sentence) as error:
        read_spec(tmp_path / "small.yaml")
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_every_run_of_the_projects_arenas_has_settings_that_load(tmp_path):
    for found in all_specs():
        for stage in ("tuning", "published"):
            for entry in due(found, Ledger(tmp_path / "none.jsonl"), list(found.rows), stage):
                config = load(arguments(found, entry)).config
                assert config.train.steps * config.train.batch_size * config.data.sequence_length == entry.tokens
                assert config.optimizer.lr == entry.point["lr"]
