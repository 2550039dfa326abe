"""The table of fine-tuning runs, from records made here."""

import json

import pytest

from configs.schema import SettingsError
from experiments.glue.glue_table import glue_table, read
from experiments.glue.tasks import TASKS


def write_record(out, setting: str, task: str, seed: int, best: float, state: int = 100, lr: float = 1e-5) -> None:
    folder = out / f"{setting}_{task}_s{seed}"
    folder.mkdir(parents=True)
    kept = {"task": task, "seed": seed, "best": best, "optimizer_state_bytes": state, "train_seconds": 900.0}
    kept["settings"] = {"glue": {"task": task, "seed": seed}, "optimizer": {"name": "fira", "lr": lr}}
    (folder / "record.jsonl").write_text(json.dumps(kept) + "\n")


def test_cells_are_means_and_deviations_over_seeds(tmp_path):
    for seed, best in enumerate((0.5, 0.6, 0.7)):
        write_record(tmp_path, "fira_lr=1e-5", "rte", seed, best, state=100 + seed)
    write_record(tmp_path, "fira_lr=1e-5", "cola", 0, 0.25)
    write_record(tmp_path, "adam", "rte", 0, 0.61)
    (tmp_path / "adam_rte_s1").mkdir()  # not finished
    table = glue_table(read(tmp_path), "GLUE")
    assert table.columns == ["settings", "CoLA", "RTE", "average", "state bytes", "hours"]
    assert table.rows == [
        ["adam", "", "61.00 (1)", "", "100", "0.25"],
        ["fira_lr=1e-5", "25.00 (1)", "60.00 ± 10.00 (3)", "", "102", "1.00"],
    ]


def test_runs_of_other_settings_are_no_seeds_of_one(tmp_path):
    """A learning rate of its own for each task is none: tasks are other columns."""
    write_record(tmp_path, "fira", "rte", 0, 0.5)
    write_record(tmp_path, "fira", "cola", 0, 0.5, lr=1e-3)
    assert len(read(tmp_path)["fira"]) == 2
    write_record(tmp_path, "fira", "rte", 1, 0.7, lr=1e-3)
    with pytest.raises(SettingsError, match=r"fira_rte_s1 has optimizer\.lr=0\.001, and its other seeds 1e-05"):
        read(tmp_path)


def test_the_average_is_of_the_means_of_all_eight_tasks(tmp_path):
    for k, task in enumerate(TASKS):
        write_record(tmp_path, "galore", task, 0, k / 10)
    write_record(tmp_path, "galore", "cola", 1, 0.8)  # the mean of CoLA is now 40
    ((name, *cells),) = glue_table(read(tmp_path), "GLUE").rows
    assert (name, len(cells)) == ("galore", 11)
    assert cells[8] == f"{(40 + 10 * sum(range(8))) / 8:.2f}"
