"""From run folders to records to tables: the numbers are the runs', and missing ones stay empty."""

import csv
import gzip
import json
import sys
from pathlib import Path

import pytest

from scripts import collect_results, comparison, mix_corpora, nano_study, nano_tables, records, tables
from scripts.curves import by_row
from tests.made_records import NANO, kept
from tests.made_records import nano_study as made_study


def run(losses, *, seed=0, every=10, seconds_a_step=2.0, tokens_a_step=100):
    rows = [
        {
            "step": every * i,
            "loss": loss,
            "train_seconds": every * i * seconds_a_step,
            "tokens": every * i * tokens_a_step,
        }
        for i, loss in enumerate(losses, 1)
    ]
    summary = {"seed": seed, "final_loss": losses[-1], "tokens": rows[-1]["tokens"], "config_hash": "a"}
    return {"summary": summary, "evaluations": rows}


def test_a_loss_is_reached_at_an_evaluation_and_crossed_between_two():
    one = run([5.0, 4.0, 3.0])
    assert comparison.reached(one, 3.5) == 30
    assert comparison.crossed(one, 3.5) == pytest.approx(25)
    assert comparison.crossed(one, 3.5, "train_seconds") == pytest.approx(50)
    assert comparison.reached(one, 5.5) == comparison.crossed(one, 5.5) == 10
    assert comparison.reached(one, 2.9) is None and comparison.crossed(one, 2.9) is None


def test_speed_up_and_effective_throughput_are_over_the_reference_of_the_same_seed():
    adam = [run([5.0, 4.5, 4.0], seed=0), run([5.0, 4.5, 3.9], seed=1)]
    fast, slow, alone = run([4.2, 3.8, 3.0], seed=0), run([9.0, 8.0, 7.0], seed=1), run([1.0], seed=2)
    assert comparison.speed_ups([fast, slow, alone], adam, comparison.reached) == [30 / 20, 0.0]
    assert comparison.speed_ups([fast], adam, comparison.crossed) == pytest.approx([30 / 15])
    assert comparison.effective_throughput([fast], adam, comparison.reached) == [3000 / 40]
    assert comparison.effective_throughput([slow], adam, comparison.reached) == [0.0]


def test_the_best_settings_are_those_with_the_lowest_mean_not_the_luckiest_run():
    lucky = [run([2.0], seed=0), run([4.0], seed=1)]
    steady = [run([2.5], seed=0), run([2.6], seed=1)]
    for one in steady:
        one["summary"]["config_hash"] = "b"
    assert comparison.best_settings([*lucky, *steady]) == steady
    # A single run of other settings is held against the runs of its seed alone.
    assert comparison.best_settings([lucky[0], *steady]) == lucky[:1]
    assert comparison.best_settings([lucky[1], *steady]) == steady
    third = [run([2.55], seed=0), run([9.0], seed=1), run([9.0], seed=2)]
    for one in third:
        one["summary"]["config_hash"] = "c"
    assert comparison.best_settings([*steady[1:], *third]) == steady[1:]


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
        (folder / "summary.json").write_text('{"name": "run", "seed": 0}')


def test_a_record_keeps_every_evaluation_and_two_hundred_rows_of_training(tmp_path):
    write_run(tmp_path / "runs" / "group" / "one")
    write_run(tmp_path / "runs" / "cut", finished=False)
    assert records.gather(tmp_path / "runs", tmp_path / "records", name=lambda folder, _: folder.name) == 1
    (name,) = kept_records = records.read(tmp_path / "records")
    one = kept_records[name]
    assert name == "one"
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


def cells(table, **where):
    """The rows whose named columns have these values, as dicts."""
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    return [row for row in rows if all(row[key.replace("_", " ")] == value for key, value in where.items())]


def test_table_2_has_our_mean_beside_the_papers_number_and_empty_cells_where_nothing_ran():
    steps = range(500, 10_001, 500)
    file = "configs/experiment/table2/60m/{}.yaml"
    runs = [kept(file.format("alice"), seed, final, steps) for seed, final in ((0, 28.0), (1, 29.0))]
    runs += [kept(file.format("adam"), seed, 34.0, steps) for seed in (0, 1)]
    table = tables.table_2(by_row(runs))
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


def test_table_4_reads_the_evaluations_at_its_steps():
    one = kept("configs/experiment/table4/alice.yaml", 0, 13.0, range(10_000, 150_001, 10_000))
    (alice,) = cells(tables.table_4(by_row([one])), method="Alice")
    at = {row["step"]: row["perplexity"] for row in one["evaluations"]}
    assert [alice[key] for key in ("40K", "150K")] == [f"{at[40_000]:.2f}", f"{at[150_000]:.2f}"]
    assert alice["paper 40K"] == "15.93"


def test_runs_of_table_4_are_not_table_2s():
    short = kept("configs/experiment/table2/1_3b/racs.yaml", 0, 13.0, range(10_000, 100_001, 10_000))
    long = kept("configs/experiment/table4/racs.yaml", 0, 12.0, range(10_000, 150_001, 10_000))
    for runs in ([short, long], [long, short]):
        (two,) = cells(tables.table_2(by_row(runs)), model="1.3B", method="RACS")
        (four,) = cells(tables.table_4(by_row(runs)), method="RACS")
        assert two["ppl"] == f"{short['summary']['final_perplexity']:.2f}"
        assert four["150K"] == f"{long['summary']['final_perplexity']:.2f}"


@pytest.mark.parametrize(
    "file",
    [
        file
        for folder in ("table2/60m", "ablations", "nano/study", "nano/ablations")
        for file in sorted(Path("configs/experiment", folder).glob("*.yaml"))
    ],
    ids=str,
)
def test_every_experiment_is_the_row_it_is_named_after(file):
    assert list(by_row([kept(file, 0, 30.0)])) == [file.stem]


def test_where_some_seeds_never_get_there_their_number_is_said():
    assert tables.among([2.0, 3.0]) == "2.50"
    assert tables.among([2.0, 0.0, 3.0]) == "2.50 (2 of 3)"
    assert tables.among([0.0, 0.0]) == "0.00"
    assert tables.among([]) == ""


def test_nano_tables_hold_every_row_and_the_claims_follow_the_numbers(tmp_path, monkeypatch):
    made_study(tmp_path / "runs")
    (tmp_path / "step_seconds.csv").write_text("row,seconds\nadam,0.4\nracs,0.5\n")
    monkeypatch.setattr(nano_tables, "NANO", tmp_path)
    table_2, table_5, _, claims = nano_tables.nano_tables()
    assert len(table_2.rows) == len(list((NANO / "study").glob("*.yaml")))
    assert all(row["ppl"] and row["n"] == "3" for row in cells(table_5))
    (racs,) = cells(table_2, method="RACS")
    assert float(racs["in seconds"]) == pytest.approx(float(racs["interpolated"]) * 0.4 / 0.5, abs=0.02)
    (better,) = cells(claims, claim="RACS before Adam")  # adam's were made worst
    assert better["holds"] == "yes"
    orders = {row["claim"]: row["nano"].rpartition(" over ")[2] for row in cells(claims) if "Spearman" in row["nano"]}
    # Of Alice's parts: Table 5's five, three more it may switch to, two more compensations.
    assert orders.pop("order of the methods") == f"{len(nano_tables.paper_60m())} rows"
    assert orders == {"order of Table 5's rows": "5 rows", "order of the parts of Alice": "10 rows"}


@pytest.mark.parametrize(
    ("losses", "edges"),
    [
        ({(1, 0.01): 3, (2, 0.01): 2, (4, 0.01): 4, (2, 0.03): 5, (2, 0.003): 6}, ""),
        ({(1, 0.01): 3, (2, 0.01): 2, (4, 0.003): 4, (2, 0.03): 5, (2, 0.003): 6}, "lr"),  # 4 was another adam_lr's
        ({(1, 0.01): 3, (2, 0.01): 2, (2, 0.03): 5}, "lr adam_lr"),
    ],
)
def test_a_best_rate_is_at_the_edge_of_those_tried_with_the_same_other_rate(losses, edges):
    tried = [
        {"summary": {"lr": lr, "adam_lr": adam_lr, "final_loss": loss, "final_perplexity": loss}}
        for (lr, adam_lr), loss in losses.items()
    ]
    assert nano_tables.tuning_table({"adam": tried}, {}).rows[0][1:4] == ["2", "0.01", edges]


def test_the_tuning_table_has_the_rates_of_the_first_seeds_long_runs():
    def at(lr, seed, perplexity):
        return {"summary": {"lr": lr, "adam_lr": 0.1, "final_loss": perplexity, "final_perplexity": perplexity,
                            "seed": seed}}  # fmt: skip

    long = [at(0.04, 0, 8), at(0.02, 0, 9), at(0.04, 1, 7)]
    assert nano_tables.tuning_table({"alice": [at(0.02, 0, 20)]}, {"alice": long}).rows == [
        ["Alice", "0.02", "0.1", "", "20.0", "0.02/0.1: 20.0", "0.02/0.1: 9.0 · 0.04/0.1: 8.0"]
    ]


def test_a_claim_says_that_a_row_never_reaches_adams_loss():
    runs = {
        "adam": [kept(NANO / "study" / "adam.yaml", 0, 100)],
        "alice": [kept(NANO / "study" / "alice.yaml", 0, 110)],
    }
    (claim,) = cells(nano_tables.claims(runs, {}), claim="Alice is sooner at tuned Adam's final loss")
    assert (claim["nano"], claim["holds"]) == ("never there", "no")


def test_tables_are_the_same_bytes_again_and_readable_as_csv(tmp_path):
    rows = [{"a": "1", "b, c": 'x "y"'}, {"a": "2", "b, c": ""}]
    collect_results.write("# T", "note", rows, tmp_path / "one")
    collect_results.write("# T", "note", rows, tmp_path / "two")
    for suffix in (".md", ".csv"):
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()
    assert list(csv.DictReader((tmp_path / "one.csv").open())) == rows


def test_corpora_are_mixed_without_loss_and_the_same_every_time(tmp_path, monkeypatch, capsys):
    texts = {corpus: {f"{corpus} {i}\nline" for i in range(30)} for corpus in ("a", "b")}
    for corpus, documents in texts.items():
        lines = "".join(json.dumps({"text": text}) + "\n" for text in sorted(documents))
        (tmp_path / f"{corpus}.jsonl").write_text(lines)
    sources = [str(tmp_path / f"{corpus}.jsonl") for corpus in texts]
    for out in ("one", "two"):
        monkeypatch.setattr(sys, "argv", ["mix", str(tmp_path / out), *sources, "--shards", "4"])
        assert mix_corpora.main() == 0
    shards = sorted((tmp_path / "one").rglob("*.gz"))
    assert [shard.name for shard in shards] == [f"c4-train.0000{i}-of-00004.json.gz" for i in range(4)]
    read = [json.loads(line)["text"] for shard in shards for line in gzip.decompress(shard.read_bytes()).splitlines()]
    assert len(read) == 60 and set(read) == texts["a"] | texts["b"]
    assert all({text[0] for text in read[k : k + 15]} == {"a", "b"} for k in range(0, 60, 15))
    for shard in shards:
        assert shard.read_bytes() == (tmp_path / "two" / "en" / shard.name).read_bytes()
    monkeypatch.setattr(sys, "argv", ["mix", str(tmp_path / "out"), str(tmp_path / "missing.jsonl")])
    assert mix_corpora.main() == 2 and "missing.jsonl" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["mix", sources[0], sources[1]])  # a file is no folder
    assert mix_corpora.main() == 1 and "Traceback" not in capsys.readouterr().err


def test_the_study_tunes_every_method_on_as_many_rates_and_trains_with_the_best(tmp_path, monkeypatch):
    monkeypatch.setattr(nano_study, "RESULTS", tmp_path)
    methods = ["adam", "alice", "galore_last_layer_adam", "racs"]
    assert set(methods) < set(nano_study.methods())
    first = nano_study.lr_jobs(methods)
    assert len(first) == len(methods) * len(nano_study.FACTORS)
    for job in first:  # the second rate is the best, and then the smallest of Adam's
        method, _, rate = job.name.partition("_lr=")
        lr = float(rate.partition("_")[0])
        place = [nano_study.tuning_name(method, f * nano_study._file_lr(method), 0.003) for f in nano_study.FACTORS]
        loss = abs(place.index(job.name) - 1) + 1.0
        records.write(
            {"summary": {"final_loss": loss, "lr": lr, "adam_lr": 0.003}}, tmp_path / "tuning" / f"{job.name}.json"
        )
    second = nano_study.adam_lr_jobs(methods)
    assert len(second) == len(methods) * (len(nano_study.ADAM_LRS) - 1)
    for job in second:
        adam_lr = float(job.name.rpartition("=")[2])
        lr = float(job.name.partition("_lr=")[2].partition("_")[0])
        written = {"summary": {"final_loss": 0.5 + adam_lr, "lr": lr, "adam_lr": adam_lr}}
        records.write(written, tmp_path / "tuning" / f"{job.name}.json")
    third = [job.name for job in nano_study.lr_again_jobs(methods)]  # 0.01 of adam_lr and the second rate were best
    assert len(third) == 2 * len(methods)
    assert {"alice_lr=0.0025_adam_lr=0.01", "alice_lr=0.01_adam_lr=0.01"} <= set(third)

    # For 2M tokens the rate is doubled while that is better: never for the others, once for Adam.
    losses = {"adam_lr=0.00025": 3.0, "adam_lr=0.0005": 2.0, "adam_lr=0.001": 2.5}
    started = []

    def run_all(jobs, at_once):
        for job in jobs:
            if not job.proof.exists():
                started.append(job.name)
                loss = losses.get(job.name.partition("_adam_lr")[0], 3.0)
                records.write({"summary": {"final_loss": loss}}, job.proof)
        return 0

    monkeypatch.setattr(nano_study, "run_all", run_all)
    monkeypatch.setattr(nano_study, "RUNS", tmp_path / "unused")
    assert nano_study.run_stage(nano_study.doubled_jobs, methods, 2) == 0
    assert len(started) == len(set(started)) == 2 * len(methods) + 1
    assert {f"{rate}_adam_lr=0.01_s0" for rate in (*losses, "alice_lr=0.005", "alice_lr=0.01")} <= set(started)
    finals = {job.name: job for job in nano_study.final_jobs(methods)}
    assert len(finals) == 3 * (len(methods) + 10)
    alice = finals["alice_lr=0.005_adam_lr=0.01_s2"].command
    assert {"optimizer.lr=0.005", "optimizer.adam_lr=0.01", "run.seed=2"} <= set(alice)
    assert {"optimizer.lr=0.005", "run.seed=0"} <= set(finals["ablation_gaussian_lr=0.005_adam_lr=0.01_s0"].command)
    assert "adam_lr=0.0005_adam_lr=0.01_s1" in finals
    # A study that is cut has whole tables of fewer seeds.
    assert [name.rpartition("_s")[2] for name in finals] == sorted(name.rpartition("_s")[2] for name in finals)
