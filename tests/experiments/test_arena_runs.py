"""scripts/arena.sh: a small arena from its spec to its tables, with real runs, one of which diverges."""

import json
import os
import subprocess
import sys

import pytest

from analysis.arena import ledger, tables
from analysis.paths import ROOT
from configs.identity import to_dict
from configs.schema import load
from configs.yaml_values import to_yaml
from experiments.arena import conduct
from experiments.jobs import run_all
from scripts import arena


@pytest.mark.slow
def test_an_arena_runs_to_its_tables_and_a_second_call_runs_nothing(small, tmp_path, capfd):
    assert small("-n") == 0
    printed = capfd.readouterr().out
    assert "4 runs" in printed and printed.count("train.py") == 2  # the starts of two walks
    assert small() == 0
    records = ledger.ledger_of("small").lines
    # The second run of each walk, at 1e30 times the rate, is not finite, and the first is the best.
    assert sorted((line["row"], line["tokens"], line["loss"] is None) for line in records.values()) == [
        ("adam", 256, False), ("adam", 256, True), ("adam", 512, False),
        ("racs", 256, False), ("racs", 256, True), ("racs", 512, False),
    ]  # fmt: skip
    assert all(line["summary"]["device"] and "git_commit" in line["summary"] for line in records.values())
    # Tuned at another length than it compares, so claims are of the nano study alone and there are no ranks.
    standings, ratios, tried, claims = tables.arena_tables()
    assert claims.name == "claims" and len(claims.columns) == 3
    assert {row[0] for row in standings.rows} == {"Adam", "RACS"}
    assert all(row[standings.columns.index("same")] for row in standings.rows)
    assert len(ratios.rows) == 2 and all("diverged" in row[tried.columns.index("tried")] for row in tried.rows)
    before = (tmp_path / "small.jsonl").read_bytes()
    capfd.readouterr()
    assert small() == 0 and "started" not in capfd.readouterr().out
    assert (tmp_path / "small.jsonl").read_bytes() == before


def test_a_job_of_an_array_has_one_row_and_those_that_take_its_rates(small, tmp_path, capfd):
    path = tmp_path / "arenas" / "small.yaml"
    path.write_text(path.read_text() + "  racs_too: {file: nano/racs.yaml, rates_of: racs}\n")
    for index, runs, started in (("0", "2 runs", "adam"), ("1", "2 runs", "racs")):
        assert small("--job-index", index, "-n") == 0
        printed = capfd.readouterr().out
        (command,) = (line for line in printed.splitlines() if "train.py" in line)
        assert f"/{started}.yaml" in command and f"tuning        {runs}" in printed
        assert f"final         {1 + (started == 'racs')} runs" in printed


def test_the_budget_has_hours_and_money(small, tmp_path, capfd):
    path = tmp_path / "arenas" / "small.yaml"
    path.write_text(path.read_text() + "budget: {positions_per_second: 0.01, hourly_rate: 3, currency: EUR}\n")
    assert small("-n", "-j", "4") == 0
    # 4 runs of 256 positions and 2 of 512, at 36 an hour
    said = capfd.readouterr().out.splitlines()
    assert "in all 56.9 hours of one run, 170.67 EUR; with 4 at a time 14.2 hours" in said[5]


def start(job):
    """What a run of train.py leaves that has begun: its folder."""
    folder = job.proof.parent
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(to_yaml(to_dict(load(job.command[2:]).config)))
    (folder / "environment.json").write_text('{"git_commit": "abc", "device": "a card", "versions": {}}')
    return folder


def finish(job):
    """What a run of train.py leaves that has ended."""
    folder = start(job)
    evaluation = {"kind": "eval", "step": 1, "tokens": 1, "train_seconds": 1.0, "loss": 5.0, "perplexity": 148.4}
    (folder / "metrics.jsonl").write_text(json.dumps(evaluation) + "\n")
    (folder / "summary.json").write_text(json.dumps({"final_loss": 5.0, "train_seconds": 1.0, "seed": 0}))


@pytest.fixture
def made_by(monkeypatch):
    """Lets a function make each job of an arena in the place of its command, one at a time; its value is the job's exit
    code. `first`: of the names of those that wait, the one to make next."""

    def replace(make, first=min):
        def run_all(jobs, *, after_each, **_):
            waiting, code = {job.name: job for job in jobs}, 0
            while waiting:
                job = waiting.pop(first(waiting))
                if job.again or not job.proof.exists():
                    code = max(code, make(job) or 0)
                    waiting |= {job.name: job for job in after_each()}
            return code

        monkeypatch.setattr(conduct, "run_all", run_all)

    return replace


def test_a_run_is_recorded_when_it_ends_not_with_the_last(small, tmp_path, monkeypatch):
    lines = []

    def run_all(jobs, *, after_each, **_):
        for job in jobs:
            finish(job)
            after_each()
            lines.append(len((tmp_path / "small.jsonl").read_text().splitlines()))
        return 128 + 15 if jobs else 0  # as after an interrupt

    monkeypatch.setattr(conduct, "run_all", run_all)
    assert small() == 128 + 15 and lines == [1, 2]


@pytest.mark.parametrize("row", ["adam", "racs"])
def test_no_row_waits_for_another(small, made_by, row):
    """All runs of a row, from its walk to its evaluations, while the other's first run has not begun."""
    made = []

    def make(job):
        made.append(job.name)
        if "scripts/evaluate.py" in job.command:
            job.proof.write_text('{"same": {"perplexity": 9.0}}')
        else:
            finish(job)

    made_by(make, first=lambda waiting: min(waiting, key=lambda name: (not name.startswith(row), name)))
    assert small() == 0
    assert [name.startswith(row) for name in made] == [True] * 4 + [False] * 4
    assert made[3].endswith("_same") and made[7].endswith("_same")


def test_runs_that_diverged_are_no_failure(small, made_by):
    def make(job):
        if job.name.startswith("adam"):
            finish(job)
            return 0
        start(job)
        job.log.write_text("$ train.py\nstep 3 was not applied: its loss is nan (nothing was saved)\n")
        return 1

    made_by(make)
    assert small("--until", "tuning") == 0


def test_a_failed_run_is_tried_once_and_stops_no_other_row(small, made_by):
    tried = []

    def make(job):
        tried.append(job.name)
        if job.name.startswith("adam"):
            return 1
        finish(job)
        return 0

    made_by(make)
    assert small("--until", "tuning") == 1
    assert [name.split("_")[0] for name in tried] == ["adam", "racs", "racs"]


def test_a_full_disk_is_told_when_the_runs_have_ended(small, tmp_path, made_by, monkeypatch, capfd):
    made = []

    def make(job):
        made.append(job.name)
        finish(job)

    def full(self, line):
        raise OSError(28, "No space left on device", str(tmp_path / "small.jsonl"))

    monkeypatch.setattr(ledger.Ledger, "append", full)
    made_by(make)
    assert small() == 1 and len(made) == 2
    assert "No space left on device" in capfd.readouterr().err


def test_a_folder_of_a_run_with_other_settings_is_no_record(small, tmp_path, made_by, capfd):
    def make(job):
        finish(job)
        kept = job.proof.parent / "config.yaml"
        kept.write_text(kept.read_text().replace("eval_tokens: ", "eval_tokens: 9"))

    made_by(make)
    assert small() == 2
    assert "this run has another data.eval_tokens than the spec has now; move it away" in capfd.readouterr().err
    assert not (tmp_path / "small.jsonl").exists()


@pytest.mark.parametrize("damaged", ["summary.json", "config.yaml"])
def test_a_damaged_run_is_one_sentence_when_the_others_have_ended(small, tmp_path, made_by, damaged, capfd):
    def make(job):
        finish(job)
        if job.name.startswith("adam"):
            (job.proof.parent / damaged).write_text('{"a": [')

    made_by(make)
    assert small("--until", "tuning") == 2
    assert "holds no whole run" in capfd.readouterr().err
    assert {line["row"] for line in ledger.ledger_of("small").lines.values()} == {"racs"}


def test_other_rows_go_on_beside_a_damaged_one(small, tmp_path, made_by, capfd):
    """Also where it is there from the start; its own row gets no more runs."""

    def make(job):
        finish(job)
        if "_same" not in job.name and job.name.startswith("adam"):
            (job.proof.parent / "config.yaml").write_text('{"a": [')

    made_by(make, first=min)
    assert small("--until", "tuning") == 2
    assert [line["row"] for line in ledger.ledger_of("small").lines.values()] == ["racs"] * 2
    (tmp_path / "small.jsonl").unlink()
    capfd.readouterr()
    assert small("--until", "tuning") == 2
    said = capfd.readouterr()
    assert "the row adam gets no more runs, the others go on" in said.out and "holds no whole run" in said.err
    assert [line["row"] for line in ledger.ledger_of("small").lines.values()] == ["racs"] * 2


def test_a_listing_has_what_the_command_would_start_and_writes_nothing(small, tmp_path, made_by, monkeypatch, capfd):
    """Adam's walk has ended without its records: its comparison is next."""
    made_by(lambda job: finish(job) if job.name.startswith("adam") else 1)
    assert small("--until", "tuning") == 1
    (tmp_path / "small.jsonl").unlink()
    monkeypatch.setattr(conduct, "run_all", run_all)
    capfd.readouterr()
    assert small("-n") == 0
    commands = [line for line in capfd.readouterr().out.splitlines() if "train.py" in line or "evaluate.py" in line]
    assert not (tmp_path / "small.jsonl").exists() and len(commands) == 2
    assert "/racs.yaml" in commands[0] and "/adam.yaml" in commands[1] and "train.steps=4" in commands[1]


def test_a_divergence_of_other_settings_is_no_record(small, tmp_path, made_by, capfd):
    """A line that was deleted does not come back from the log of a run that had other settings."""

    def make(job):
        folder = start(job)
        job.log.write_text("$ train.py\nstep 3 was not applied: its loss is nan (nothing was saved)\n")
        kept = folder / "config.yaml"
        kept.write_text(kept.read_text().replace("eval_tokens: ", "eval_tokens: 9"))
        return 1

    made_by(make)
    assert small("--until", "tuning") == 2
    assert "this run has another data.eval_tokens than the spec has now" in capfd.readouterr().err
    assert not (tmp_path / "small.jsonl").exists()


def test_rows_that_another_arena_has_not_tuned_are_named(small, tmp_path, made_by, monkeypatch, capfd):
    path = tmp_path / "arenas" / "small.yaml"
    (tmp_path / "arenas" / "later.yaml").write_text(
        path.read_text().replace("tuning: {tokens: 256, runs: 2, factor: 1.0e+30}", "tuned_in: small")
        .replace("{lr: 0.01, adam_lr: 0.01}", "{}").replace("{lr: 0.02, adam_lr: 0.01}", "{}")
    )  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["arena.py", str(tmp_path / "arenas" / "later.yaml")])
    made_by(finish)
    assert arena.main() == 2
    assert "rows.adam has no tuned values yet: run the arena small first" in capfd.readouterr().err


def test_a_final_is_recorded_with_its_evaluations_or_waits_for_them(small, made_by):
    """An evaluation that fails, and a call that ended before the evaluations, leave no line without them."""
    evaluates = False

    def make(job):
        if "scripts/evaluate.py" not in job.command:
            finish(job)
        elif evaluates:
            job.proof.write_text('{"same": {"perplexity": 9.0}}')
        return int("scripts/evaluate.py" in job.command and not evaluates)

    made_by(make)
    assert small() == 1
    assert {line["tokens"] for line in ledger.ledger_of("small").lines.values()} == {256}
    evaluates = True
    assert small() == 0
    finals = [line for line in ledger.ledger_of("small").lines.values() if line["tokens"] == 512]
    assert len(finals) == 2 and all(line["held_out"] == {"same": {"perplexity": 9.0}} for line in finals)


def test_a_tuning_run_that_is_compared_is_evaluated_too(small, tmp_path, made_by):
    """Of equal length the first seed of the comparison is a run of tuning."""
    path = tmp_path / "arenas" / "small.yaml"
    path.write_text(path.read_text().replace("tuning: {tokens: 256, runs: 2", "tuning: {tokens: 512, runs: 1"))

    def make(job):
        if "scripts/evaluate.py" in job.command:
            job.proof.write_text('{"same": {"perplexity": 9.0}}')
        else:
            finish(job)

    made_by(make)
    assert small() == 0
    lines = ledger.ledger_of("small").lines.values()
    assert len(lines) == 2 and all(line["held_out"] == {"same": {"perplexity": 9.0}} for line in lines)


def test_a_divergence_behind_a_launchers_own_words_is_one(small, made_by):
    """Not one of an earlier start. Its line says where it was made, as that of a finished run does."""

    def make(job):
        start(job)
        with job.log.open("a") as log:
            log.write("$ accelerate launch train.py\n")
            log.write("step 3 was not applied: its loss is nan, its gradient norm 2.0 (nothing was saved)\n")
            log.write("" if job.name.startswith("adam") else "$ accelerate launch train.py\n")
            log.write("subprocess.CalledProcessError: returned non-zero exit status 1.\n")
        return 1

    made_by(make)
    assert small("--until", "tuning") == 1
    lines = ledger.ledger_of("small").lines.values()
    assert [(line["row"], line["loss"]) for line in lines] == [("adam", None)] * 2
    assert all(len(line["summary"]["config_hash"]) == 12 for line in lines)
    assert all(line["summary"]["git_commit"] == "abc" and line["summary"]["device"] == "a card" for line in lines)


@pytest.mark.slow
def test_a_reader_that_has_gone_is_no_fault():
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "scripts/arena.py", "configs/arena/beyond/bytes.yaml", "-n"]
    done = subprocess.run(command, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")
