"""Which runs an arena still needs, at which settings."""

import re

import pytest

from analysis.arena import entries as entries_module
from analysis.arena import spec as spec_module
from analysis.arena.entries import Entry, arguments, recipe, remaining, steps_of, tuning
from analysis.arena.ledger import Ledger
from analysis.arena.outcomes import recorded
from analysis.arena.same_settings import check_unchanged
from analysis.arena.spec import cells, read_spec
from analysis.arena.standings import others, standings
from analysis.arena.tables import tried
from analysis.paths import ROOT
from configs.identity import config_hash
from configs.schema import SettingsError, load
from tests import tiny
from tests.analysis.arena.on_paper import AGAIN, CELL, SPEC, line, loss_of, made
from training.run.provenance import method_file


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


def test_runs_of_other_settings_are_not_mixed(spec, tmp_path):
    ledger = Ledger(tmp_path / "small.jsonl")
    made(spec, ledger, loss_of)
    for run in ledger.lines.values():
        entry = Entry(run["row"], CELL, run["tokens"], run["point"], run["seed"])
        run["summary"]["config_hash"] = config_hash(load(arguments(spec, entry)).config)
    assert "other settings" not in standings(spec, ledger, CELL).note
    check_unchanged(spec, ledger, "racs", CELL)
    spec.settings = ["optimizer.weight_decay=0.1"]
    note = standings(spec, ledger, CELL).note
    assert note.endswith("Made with other settings than the spec has now: Adam, RACS, plain racs.")
    with pytest.raises(SettingsError, match=r"rows\.racs: its records were made with other settings than configs/exp"):
        check_unchanged(spec, ledger, "racs", CELL)
    best = tuning(spec, "racs", CELL, ledger).best
    ledger.lines[Entry("racs", CELL, 40960, best, 1).name]["summary"]["git_commit"] = "abc-dirty"
    assert standings(spec, ledger, CELL).note.endswith("changes that were not committed: RACS (1).")
    for run in ledger.of("racs", CELL):
        run["point"]["option_of_old"] = 1
    assert "Adam, RACS, plain racs" in standings(spec, ledger, CELL).note  # an option that the method has lost


def test_runs_of_a_method_file_that_was_edited_are_not_mixed(spec, tmp_path):
    ledger = Ledger(tmp_path / "small.jsonl")
    made(spec, ledger, loss_of)
    spec.settings = [f"optimizer={tiny.method_file(tmp_path, 'mine_n')}", "optimizer.lr=0.02"]
    run = ledger.of("racs", CELL)[0]
    entry = Entry("racs", CELL, run["tokens"], run["point"], run["seed"])
    section = load(arguments(spec, entry)).config
    run["summary"] |= {"config_hash": config_hash(section), **method_file(section.optimizer)}
    check_unchanged(spec, ledger, "racs", CELL)
    del run["summary"]["optimizer_file_sha256"]  # of before the digest: others say
    other = ledger.of("racs", CELL)[1]
    other["summary"] |= {"config_hash": "any", "optimizer_file_sha256": "of before"}
    with pytest.raises(SettingsError, match=r"rows\.racs: its records were made with other settings"):
        check_unchanged(spec, ledger, "racs", CELL)


def test_a_published_recipe_keeps_its_files_refreshes(tmp_path):
    rows = "rows:\n  galore: {lr: 0.01, adam_lr: 0.001}\nagainst: [galore]\ntokens: 409600\ntuning: {tokens: 409600}\n"
    (tmp_path / "small.yaml").write_text(rows)
    small = read_spec(tmp_path / "small.yaml")
    cell = cells(small)[0]
    as_published = recipe(small, "galore", cell)
    same_point = Entry("galore", cell, 409600, as_published.point, 0)
    assert as_published.name != same_point.name
    assert "optimizer.update_interval=1" in arguments(small, same_point)
    assert not any("update_interval" in argument for argument in arguments(small, as_published))
