"""scripts/arena.sh: what is refused before the first run, in one sentence."""

import sys

import pytest

from analysis.arena import ledger
from scripts import arena


def test_a_wrong_row_or_job_is_one_sentence(small, capfd):
    for arguments, sentence in (
        (("--only", "sgd"), "--only: there is no row sgd; there are adam, racs"),
        (("--job-index", "2"), "--job-index must be from 0 to 1, got 2"),
    ):
        with pytest.raises(SystemExit) as ended:
            small(*arguments)
        assert ended.value.code == 2 and capfd.readouterr().err.endswith(f"error: {sentence}\n")


def test_a_method_whose_package_is_missing_is_told_before_any_run(small, tmp_path, monkeypatch, capfd):
    path = tmp_path / "arenas" / "small.yaml"
    path.write_text(path.read_text() + "  muon_8bit: {file: nano/eight_bit/muon_8bit.yaml, rates_of: adam}\n")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(SystemExit) as ended:
        small()
    said = capfd.readouterr()
    assert ended.value.code == 2 and "error: rows.muon_8bit: " in said.err and "bitsandbytes" in said.err
    assert "started" not in said.out
    assert small("-n") == 0  # what is left can be seen


def test_a_damaged_ledger_is_one_sentence(small, capfd):
    path = ledger.ledger_of("small").path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("<<<<<<< HEAD\n")
    with pytest.raises(SystemExit) as ended:
        small()
    assert ended.value.code == 2 and "line 1 is no record of a run" in capfd.readouterr().err


def test_a_spec_whose_tables_would_not_be_made_is_one_sentence(small, tmp_path, monkeypatch, capfd):
    text = (tmp_path / "arenas" / "small.yaml").read_text()
    (tmp_path / "arenas" / "more").mkdir()
    (tmp_path / "arenas" / "more" / "small.yaml").write_text(text)
    (tmp_path / "elsewhere.yaml").write_text(text)
    for file, sentence in (
        ("arenas/small.yaml", "have one name, and would share their records"),
        ("elsewhere.yaml", "tables are made of the .yaml files below configs/arena alone, move it there"),
    ):
        monkeypatch.setattr(sys, "argv", ["arena.py", str(tmp_path / file)])
        with pytest.raises(SystemExit) as ended:
            arena.main()
        assert ended.value.code == 2 and capfd.readouterr().err.endswith(f"{sentence}\n")
