"""The ledger of an arena: torn, unended and damaged lines."""

import json

import pytest

from analysis.arena.entries import Entry
from analysis.arena.ledger import Ledger
from configs.schema import SettingsError
from tests.analysis.arena.on_paper import CELL, line


def test_a_torn_line_is_cut_off_and_the_others_stay(tmp_path):
    first, second = (Entry("adam", CELL, 20480, {"lr": lr}, 0) for lr in (0.1, 0.2))
    ledger = Ledger(tmp_path / "a.jsonl")
    ledger.append(line(first, 4.0))
    whole = ledger.path.read_bytes()
    with ledger.path.open("ab") as file:
        file.write(b'{"name": "half')
    ledger = Ledger(ledger.path)
    assert list(ledger.lines) == [first.name]
    ledger.append(line(second, 3.0))
    assert ledger.path.read_bytes().startswith(whole) and list(Ledger(ledger.path).lines) == [first.name, second.name]
    ledger.append(line(second, 9.0))  # there already
    assert Ledger(ledger.path).lines[second.name]["loss"] == 3.0


def test_of_two_processes_with_one_run_the_first_counts_for_both(tmp_path):
    """Otherwise the second goes on with a loss that no table has."""
    run = Entry("adam", CELL, 20480, {"lr": 0.1}, 0)
    ours, theirs = Ledger(tmp_path / "a.jsonl"), Ledger(tmp_path / "a.jsonl")
    theirs.append(line(run, 4.0))
    ours.append(line(run, 3.0))
    assert ours.lines[run.name]["loss"] == 4.0 and len(ours.path.read_text().splitlines()) == 1


def test_a_whole_last_line_without_its_end_is_a_record_and_stays(tmp_path):
    first, second = (Entry("adam", CELL, 20480, {"lr": lr}, 0) for lr in (0.1, 0.2))
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(line(first, 4.0)))
    ledger = Ledger(path)
    assert list(ledger.lines) == [first.name]
    ledger.append(line(second, 3.0))
    assert list(Ledger(path).lines) == [first.name, second.name]


def test_a_damaged_line_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"name": 1}\n')
    with pytest.raises(SettingsError, match=r"a\.jsonl: line 1 is no record"):
        Ledger(tmp_path / "a.jsonl")
