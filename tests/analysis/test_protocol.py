"""Runs that must not stand beside the paper's numbers."""

import json

import pytest

from analysis.paths import EXPERIMENTS
from analysis.records import read
from analysis.tables.protocol import PROTOCOL, refusal_beside_the_paper
from scripts import collect_results
from tests.made_records import kept

OURS = EXPERIMENTS / "table2" / "60m" / "alice.yaml"
FILES = [*(EXPERIMENTS / "table2").glob("*/*.yaml"), *(EXPERIMENTS / "table4").glob("*.yaml")]


@pytest.mark.parametrize("file", [*FILES, *(EXPERIMENTS / "ablations").glob("*.yaml")], ids=lambda file: file.stem)
def test_every_file_of_the_papers_tables_has_its_protocol(file):
    assert refusal_beside_the_paper(kept(file, 0, 30.0)) is None


@pytest.mark.parametrize(
    "name",
    ["model.vocab_size", "data.source", "data.packing", "data.sequence_length", "data.eval_tokens", "train.batch_size"],
)
def test_a_run_of_another_protocol_is_refused_by_the_setting(name):
    run = kept(OURS, 0, 30.0)
    section, key = name.split(".")
    run["settings"][section][key] = "other"
    assert refusal_beside_the_paper(run).startswith(f"{name} is other, but {PROTOCOL[name][0]} in the paper's runs")
    run["summary"]["model"] = "llama_nano"
    assert refusal_beside_the_paper(run) is None


def test_its_folder_is_named_and_no_record_is_taken(tmp_path, monkeypatch, capsys):
    """`data=prepared` replaces the section of C4's rows: documents are then joined."""
    monkeypatch.setattr(collect_results, "FULL", tmp_path)
    monkeypatch.setattr("sys.argv", ["collect_results.py", "--runs", str(tmp_path / "runs_of_mine")])
    run, folder = kept(OURS, 0, 30.0), tmp_path / "runs_of_mine" / "alice"
    run["settings"]["data"] |= {"source": "prepared", "packing": True}
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(run["summary"]))
    (folder / "config.yaml").write_text(json.dumps(run["settings"] | {"run": {"dir": None}}))
    (folder / "metrics.jsonl").write_text("")
    assert collect_results.main() == 2
    assert f"{folder}: data.packing is True, but False in the paper's runs" in capsys.readouterr().err
    assert read(tmp_path / "runs") == {}
