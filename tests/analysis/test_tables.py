"""From records to tables: the numbers are the runs', and missing ones stay empty."""

import csv
from pathlib import Path

import pytest

from analysis.rows import by_row
from analysis.tables import best_runs
from analysis.tables.cells import mean_of_reached
from analysis.tables.full_size import table_2, table_4
from analysis.tables.table import Table, write_table
from configs.schema import SettingsError
from experiments.nano_files import STUDY, file_of
from scripts import collect_results
from tests.made_records import kept
from tests.training.run.rows import files_of_at_most


def cells(table: Table, **where):
    """The rows whose named columns have these values, as dicts."""
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    return [row for row in rows if all(row[key.replace("_", " ")] == value for key, value in where.items())]


def test_table_2_has_our_means_and_empty_cells_where_nothing_ran():
    steps = range(500, 10_001, 500)
    file = "configs/experiment/table2/60m/{}.yaml"
    runs = [kept(file.format("alice"), seed, final, steps) for seed, final in ((0, 28.0), (1, 29.0))]
    runs += [kept(file.format("adam"), seed, 34.0, steps) for seed in (0, 1)]
    table = table_2(by_row(runs))
    (alice,) = cells(table, model="60M", method="Alice")
    found = [record["summary"]["final_perplexity"] for record in runs[:2]]
    assert alice["paper ppl"] == "28.6970" and alice["n"] == "2"
    assert alice["ppl"] == f"{sum(found) / 2:.2f}"
    assert float(alice["sd"]) == pytest.approx(abs(found[0] - found[1]) / 2**0.5, abs=0.006)
    assert float(alice["interpolated"]) >= float(alice["speed-up"]) > 1
    assert "rank=128" in alice["settings"] or "lr=0.02" in alice["settings"]
    (muon,) = cells(table, model="1.3B", method="Muon")
    assert muon["paper ppl"] == "16.08" and muon["ppl"] == muon["n"] == muon["config hash"] == ""
    (cited,) = cells(table, model="60M", method="Adam, cited from APOLLO")
    assert cited["ppl"] == "" and cited["paper tok/s"] == ""


@pytest.mark.slow
def test_table_4_reads_the_evaluations_at_its_steps():
    one = kept("configs/experiment/table4/alice.yaml", 0, 13.0, range(10_000, 150_001, 10_000))
    (alice,) = cells(table_4(by_row([one])), method="Alice")
    at = {row["step"]: row["perplexity"] for row in one["evaluations"]}
    assert [alice[key] for key in ("40K", "150K")] == [f"{at[40_000]:.2f}", f"{at[150_000]:.2f}"]
    assert alice["paper 40K"] == "15.93"


def test_runs_of_table_4_are_not_table_2s():
    short = kept("configs/experiment/table2/1_3b/racs.yaml", 0, 13.0, range(10_000, 100_001, 10_000))
    long = kept("configs/experiment/table4/racs.yaml", 0, 12.0, range(10_000, 150_001, 10_000))
    for runs in ([short, long], [long, short]):
        (two,) = cells(table_2(by_row(runs)), model="1.3B", method="RACS")
        (four,) = cells(table_4(by_row(runs)), method="RACS")
        assert two["ppl"] == f"{short['summary']['final_perplexity']:.2f}"
        assert four["150K"] == f"{long['summary']['final_perplexity']:.2f}"


EXPERIMENTS = [
    *(
        file
        for folder in ("table2/60m", "ablations")
        for file in sorted(Path("configs/experiment", folder).glob("*.yaml"))
    ),
    *map(file_of, STUDY),
    *sorted(Path("configs/experiment/nano/ablations").glob("*.yaml")),
]


@pytest.mark.parametrize("file", EXPERIMENTS, ids=str)
def test_every_experiment_is_the_row_it_is_named_after(file):
    assert list(by_row([kept(file, 0, 30.0)])) == [file.stem]


def test_seeds_that_never_reach_the_loss_are_counted():
    assert mean_of_reached([2.0, 3.0]) == "2.50"
    assert mean_of_reached([2.0, 0.0, 3.0]) == "2.50 (2 of 3)"
    assert mean_of_reached([0.0, 0.0]) == "0.00"
    assert mean_of_reached([2.0], of=3) == "2.00 (1 of 3)" and mean_of_reached([], of=3) == ""
    assert mean_of_reached([0.0], of=3) == "0.00 (1 of 3)"  # two had nothing to reach
    assert mean_of_reached([]) == ""


def test_tables_are_the_same_bytes_again_and_readable_as_csv(tmp_path):
    rows = [{"a": "1", "b, c": 'x "y"'}, {"a": "2", "b, c": ""}]
    for name in ("one", "two"):
        write_table(tmp_path / name, "# T", list(rows[0]), [list(row.values()) for row in rows], "note")
    for suffix in (".md", ".csv"):
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()
    assert list(csv.DictReader((tmp_path / "one.csv").open())) == rows


def test_a_table_of_an_arena_without_rows_goes_and_its_records_stay(tmp_path, monkeypatch):
    """The walk of a row may go on after a comparison: then there is none."""
    (tmp_path / "arena").mkdir()
    for name in ("nano_tuning.md", "nano_llama_2.1b_64.csv", "nano.jsonl", "README.md", "nano_notes.md"):
        (tmp_path / "arena" / name).write_text("")
    monkeypatch.setattr(collect_results, "RESULTS", tmp_path)
    monkeypatch.setattr(
        collect_results, "all_tables", lambda: [Table("v0.2_tuning", "t", "", ["a"], [["**1**"]], "arena")]
    )
    collect_results.write_paper_tables()
    left = sorted(path.name for path in (tmp_path / "arena").iterdir())
    assert left == ["README.md", "nano.jsonl", "nano_notes.md", "v0.2_tuning.csv", "v0.2_tuning.md"]
    assert "| **1** |" in (tmp_path / "arena" / "v0.2_tuning.md").read_text()
    assert (tmp_path / "arena" / "v0.2_tuning.csv").read_text() == "a\n1\n"


def test_a_full_disk_under_the_tables_is_a_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(collect_results, "RESULTS", tmp_path)
    monkeypatch.setattr(collect_results, "all_tables", lambda: [Table("new", "t", "", ["a"], [["1"]], "arena")])
    monkeypatch.setattr("sys.argv", ["collect_results.py"])
    with files_of_at_most(0):
        assert collect_results.main() == 1
    assert "File too large" in capsys.readouterr().err


def test_the_arena_has_each_optimizers_best_rate_and_those_tried(tmp_path, monkeypatch, capsys):
    """A study's own table: by perplexity, under a title that is kept, and a sentence where there are no records."""
    runs = [
        kept(file_of(row), 0, final)
        for row, final in (("adam", 120.0), ("racs", 100.0), ("alice_last_layer_adam", 90.0))
    ]
    slower = kept(file_of("racs"), 0, 110.0)
    slower["settings"]["optimizer"]["lr"], slower["summary"]["config_hash"] = 0.01, "slower"
    runs.append(kept(file_of("racs"), 1, 104.0))
    runs[-1]["summary"]["git_commit"] = "1" * 40 + "-dirty"
    rows = [dict(zip(best_runs.COLUMNS, row, strict=True)) for row in best_runs.best_rows([*runs, slower])]
    assert [row["optimizer"] for row in rows] == ["alice, last layer adam", "racs", "adam"]
    found = [run["summary"]["final_perplexity"] for run in (runs[1], runs[3])]
    assert rows[1]["perplexity"] == f"{sum(found) / 2:.2f}" and rows[1]["seeds"] == "0 1" and rows[0]["seeds"] == "0"
    assert rows[1]["tried"] == f"lr=0.01: 111.2 · lr=0.02: {sum(found) / 2:.1f}" and rows[1]["lr"] == "0.02"
    assert rows[1]["commit"] == "0000000 1111111-dirty"
    assert int(rows[1]["steps to adam's loss"]) < 1000

    monkeypatch.setattr("sys.argv", ["collect_results.py", str(tmp_path)])
    assert collect_results.main() == 2 and "holds no records" in capsys.readouterr().err
    for number, record in enumerate(runs):
        collect_results.records.write(record, tmp_path / "runs" / f"{number}.json")
    monkeypatch.setattr("sys.argv", ["collect_results.py", str(tmp_path), "--title", "A study"])
    assert collect_results.main() == 0 and capsys.readouterr().out.startswith("A study\n\n| optimizer |")
    first = (tmp_path / "table.md").read_bytes()
    monkeypatch.setattr("sys.argv", ["collect_results.py", str(tmp_path)])
    assert collect_results.main() == 0 and (tmp_path / "table.md").read_bytes() == first
    runs[0]["settings"]["train"]["steps"] += 100
    collect_results.records.write(runs[0], tmp_path / "runs" / "0.json")
    assert collect_results.main() == 2 and "these runs differ in train.steps (" in capsys.readouterr().err
    assert (tmp_path / "table.md").read_bytes() == first


@pytest.mark.parametrize(
    ("section", "key", "value", "same"),
    [
        ("model", "hidden_size", 64, False),
        ("model", "vocab_size", 100, False),
        ("data", "eval_path", "other.jsonl", False),
        ("data", "tokenizer", "other", False),
        ("data", "text_field", "body", False),
        ("train", "dtype", "bfloat16", False),
        ("data", "seed", 7, True),
        ("data", "streams", 2, True),
        ("train", "micro_batch_size", 2, True),
    ],
)
def test_runs_of_a_study_share_what_losses_depend_on_beside_the_optimizer(section, key, value, same):
    runs = [kept(file_of("adam"), 0, 120.0), kept(file_of("racs"), 0, 100.0)]
    best_runs.check_comparable(runs)
    runs[1]["settings"][section][key] = value
    if same:
        best_runs.check_comparable(runs)
    else:
        with pytest.raises(SettingsError, match=rf"these runs differ in {section}\.{key} \("):
            best_runs.check_comparable(runs)
