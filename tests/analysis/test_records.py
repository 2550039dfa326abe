"""From run folders to records."""

import errno
import json
from pathlib import Path

import pytest

from analysis import records
from configs.schema import SettingsError


def write_run(folder, steps=1000, finished=True):
    folder.mkdir(parents=True)
    rows = []
    for step in range(1, steps + 1):
        shared = {"step": step, "tokens": 10 * step, "loss": 1 / step, "train_seconds": step / 3}
        rows.append({"kind": "train", **shared, "grad_norm": 1.0, "tokens_per_second": 30.123456789,
                     "optimizer_seconds": 0.1, "data_seconds": 0.0})  # fmt: skip
        if step % 100 == 0:
            rows.append({"kind": "eval", **shared, "perplexity": 1.0, "galore_perplexity": None, "eval_tokens": 5})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.yaml").write_text("run: {dir: somewhere, seed: 0}\noptimizer: {name: adam}\n")
    cosines = [
        {"kind": "basis", "step": 50, "parameter": name, "cosines": [value] * 8}
        for name, value in (("a", 0.1), ("b", 0.9), ("c", 0.5))
    ]
    (folder / "basis_cosines.jsonl").write_text("".join(json.dumps(row) + "\n" for row in cosines))
    (folder / "evaluations.json").write_text('{"books": {"perplexity": 7.0}}')
    if finished:
        (folder / "summary.json").write_text('{"name": "run", "seed": 0, "config_hash": "aa"}')


def test_a_record_keeps_evaluations_and_at_most_200_training_rows(tmp_path):
    write_run(tmp_path / "runs" / "group" / "one")
    write_run(tmp_path / "runs" / "cut", finished=False)
    assert records.gather(tmp_path / "runs", tmp_path / "records") == 1
    (name,) = kept_records = records.read(tmp_path / "records")
    one = kept_records[name]
    assert [row["step"] for row in one["evaluations"]] == list(range(100, 1001, 100))
    assert one["training"]["step"] == list(range(5, 1001, 5))
    assert one["training"]["tokens_per_second"][0] == 30.1235
    assert one["settings"]["run"] == {"dir": None, "seed": 0}
    assert one["held_out"]["books"]["perplexity"] == 7.0
    assert one["basis_cosines"] == [{"step": 50, "1": 0.5, "2": 0.5, "4": 0.5, "8": 0.5}]


def test_records_of_runs_that_differ_keep_apart(tmp_path):
    for folder, config_hash, seed in (("60m/adam", "aa", 0), ("130m/adam", "bb", 0), ("130m/adam_1", "bb", 1)):
        write_run(tmp_path / folder)
        summary = {"name": "adam", "seed": seed, "config_hash": config_hash}
        (tmp_path / folder / "summary.json").write_text(json.dumps(summary))
    for runs in ("60m", "130m", "130m"):
        records.gather(tmp_path / runs, tmp_path / "records")
    assert sorted(records.read(tmp_path / "records")) == ["adam_s0_aa", "adam_s0_bb", "adam_s1_bb"]


def test_a_record_is_not_lost_to_another_run_of_its_name(tmp_path):
    """A method's file may have changed between two runs of equal settings."""
    for folder, loss in (("before", 4.0), ("after", 3.0)):
        write_run(tmp_path / folder / "mine")
        summary = {"name": "mine", "seed": 0, "config_hash": "aa", "final_loss": loss}
        (tmp_path / folder / "mine" / "summary.json").write_text(json.dumps(summary))
    records.gather(tmp_path / "before", tmp_path / "records")
    (tmp_path / "before" / "mine" / "evaluations.json").write_text('{"books": {"perplexity": 6.0}}')
    records.gather(tmp_path / "before", tmp_path / "records")  # the same run, with one more evaluation
    with pytest.raises(SettingsError, match=r"mine_s0_aa\.json is of another run than .*after/mine"):
        records.gather(tmp_path / "after", tmp_path / "records")
    (kept,) = records.read(tmp_path / "records").values()
    assert kept["summary"]["final_loss"] == 4.0 and kept["held_out"]["books"]["perplexity"] == 6.0


def test_what_a_run_folder_has_lost_stays_in_its_record(tmp_path):
    write_run(tmp_path / "runs" / "mine")
    gathered = tmp_path / "runs", tmp_path / "records"
    records.gather(*gathered)
    (tmp_path / "runs" / "mine" / "basis_cosines.jsonl").unlink()
    (tmp_path / "runs" / "mine" / "evaluations.json").write_text('{"modern": {"perplexity": 8.0}}')
    records.gather(*gathered)
    (kept,) = records.read(tmp_path / "records").values()
    assert kept["held_out"] == {"books": {"perplexity": 7.0}, "modern": {"perplexity": 8.0}}
    assert kept["basis_cosines"]


@pytest.mark.parametrize("damage", ["{", "[]", '{"name": "mine"}'])
def test_a_folder_that_holds_no_whole_run_is_named(tmp_path, damage):
    write_run(tmp_path / "runs" / "mine")
    (tmp_path / "runs" / "mine" / "summary.json").write_text(damage)
    with pytest.raises(SettingsError, match=r"runs/mine holds no whole run"):
        records.gather(tmp_path / "runs", tmp_path / "records")


@pytest.mark.parametrize("damage", [lambda text: text[:100], lambda _: "[]", lambda _: '{"summary": {}}'])
def test_a_damaged_record_is_named_and_kept(tmp_path, damage):
    write_run(tmp_path / "runs" / "mine")
    gathered = tmp_path / "runs", tmp_path / "records"
    assert records.gather(*gathered) == 1
    (file,) = (tmp_path / "records").iterdir()
    whole = file.read_text()
    file.write_text(damage(whole))
    for again in (lambda: records.gather(*gathered), lambda: records.read(tmp_path / "records")):
        with pytest.raises(SettingsError, match=r"records/run_s0_aa\.json is no whole record of a run; move it away"):
            again()
    assert file.read_text() == damage(whole)


def test_a_record_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    write_run(tmp_path / "runs" / "mine")
    gathered = tmp_path / "runs", tmp_path / "records"
    records.gather(*gathered)
    before = records.read(tmp_path / "records")
    (tmp_path / "runs" / "mine" / "evaluations.json").write_text('{"books": {"perplexity": 6.0}}')

    def full(path, data):
        path.open("wb").write(data[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    monkeypatch.setattr(Path, "write_text", lambda path, text: full(path, text.encode()))
    with pytest.raises(OSError, match="No space left"):
        records.gather(*gathered)
    assert records.read(tmp_path / "records") == before
