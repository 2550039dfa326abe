"""train.py from its arguments to its exit code, in one process."""

import json
import math
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
import transformers
import yaml

import train
from configs.schema import load
from scripts import evaluate as evaluate_script
from tests import tiny
from training import loop
from training.plan import plan_run
from training.run import folder
from training.run.summary import final_line

TRAIN_KEYS = "kind step tokens loss lr adam_lr grad_norm tokens_per_second optimizer_seconds data_seconds train_seconds"
EVAL_KEYS = "kind step tokens loss perplexity galore_perplexity eval_tokens train_seconds"
SUMMARY_KEYS = (
    "name optimizer model steps tokens final_loss final_perplexity tokens_per_second train_seconds parameters "
    "optimizer_state_bytes peak_memory_bytes processes seed config_hash git_commit device versions"
)


def rows_of(run, kind):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


def test_rows_have_the_agreed_keys_and_no_step_is_missing(whole_run):
    updates, evaluations = rows_of(whole_run, "train"), rows_of(whole_run, "eval")
    assert [row["step"] for row in updates] == list(range(1, 13))
    assert [row["step"] for row in evaluations] == [4, 8, 12]
    assert all(list(row) == TRAIN_KEYS.split() for row in updates)
    assert all(list(row) == EVAL_KEYS.split() for row in evaluations)
    assert evaluations[-1]["tokens"] == updates[-1]["tokens"] == 12 * 8 * 31  # packed rows: all positions but one
    assert evaluations[-1]["perplexity"] == math.exp(evaluations[-1]["loss"])
    assert evaluations[-1]["train_seconds"] == updates[-1]["train_seconds"]


def test_the_summary_says_what_the_rows_say(whole_run):
    summary = json.loads((whole_run / "summary.json").read_text())
    last_update, last_evaluation = rows_of(whole_run, "train")[-1], rows_of(whole_run, "eval")[-1]
    assert set(SUMMARY_KEYS.split()) <= set(summary)
    assert summary["final_loss"] == last_evaluation["loss"]
    assert summary["tokens"] == last_update["tokens"]
    assert summary["tokens_per_second"] == pytest.approx(last_update["tokens"] / last_update["train_seconds"])
    assert (summary["processes"], summary["optimizer"], summary["steps"]) == (1, "alice", 12)


def test_the_summary_says_what_was_planned(whole_run, text):
    summary = json.loads((whole_run / "summary.json").read_text())
    plan = plan_run(load(tiny.command(text, whole_run)).config)
    for key in ("parameters", "optimizer_state_bytes"):
        assert summary[key] == plan[key] > 0
    assert plan["weight_bytes"] < summary["peak_memory_bytes"] < psutil.virtual_memory().total


def test_transformers_opens_the_final_model_and_finds_its_perplexity(whole_run, text):
    model = transformers.AutoModelForCausalLM.from_pretrained(whole_run / "model", dtype=torch.float64)
    tokenizer = transformers.AutoTokenizer.from_pretrained(whole_run / "model")
    assert type(model) is transformers.LlamaForCausalLM
    documents = [json.loads(line)["text"] for line in (text / "eval.jsonl").read_text().splitlines()]
    ids = [
        i
        for document in documents
        for i in [*tokenizer.encode(document, add_special_tokens=False), tokenizer.eos_token_id]
    ]
    evaluation = rows_of(whole_run, "eval")[-1]
    rows = torch.tensor(ids[: evaluation["eval_tokens"] // 31 * 32]).view(-1, 32)
    with torch.no_grad():
        loss = model(input_ids=rows, labels=rows).loss.item()
    assert loss == pytest.approx(evaluation["loss"], abs=1e-5)


def test_a_finished_run_says_so_and_changes_nothing(whole_run, text, capsys):
    before = (whole_run / "metrics.jsonl").read_bytes()
    assert train.main(tiny.command(text, whole_run)) == 0
    assert capsys.readouterr().out.startswith("this run is finished: final perplexity")
    assert (whole_run / "metrics.jsonl").read_bytes() == before


def test_micro_batches_give_the_same_run(whole_run, text, tmp_path):
    assert train.main(tiny.command(text, tmp_path / "run", "train.micro_batch_size=2")) == 0
    for ours, theirs in zip(tiny.metrics(tmp_path / "run"), tiny.metrics(whole_run), strict=True):
        assert ours.pop("kind") == theirs.pop("kind")
        assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.slow
def test_a_longer_run_resumes_only_when_told(text, tmp_path, capsys):
    argv = tiny.command(text, tmp_path / "run", "train.steps=3", "optimizer=adam")
    assert train.main(argv) == 0
    assert train.main([*argv, "train.steps=5"]) == 2
    assert "train.steps" in capsys.readouterr().err
    # What does not change the result may differ.
    assert train.main([*argv, "train.eval_every=1", "run.name=other"]) == 0
    assert "is finished" in capsys.readouterr().out
    assert train.main([*argv, "train.steps=5", "run.allow_config_change=true"]) == 0
    assert [row["step"] for row in rows_of(tmp_path / "run", "train")] == [1, 2, 3, 4, 5]
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["train"]["steps"] == 5


def test_a_run_keeps_the_seed_it_began_with_and_says_so(text, tmp_path, capsys, caplog):
    argv = tiny.command(text, tmp_path / "run", "train.steps=2", "optimizer=adam")
    assert train.main(argv) == 0
    assert train.main([*argv, "run.seed=7"]) == 0
    assert "began with run.seed=0" in caplog.text and "is finished" in capsys.readouterr().out
    assert train.main([*argv, "run.seed=7", "train.steps=3", "run.allow_config_change=true"]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["seed"], summary["name"]) == (0, "llama_nano_adam_s0")
    assert load([str(tmp_path / "run" / "config.yaml")]).config.run.name == "llama_nano_adam_s0"
    assert train.main([*argv, "run.seed=7", "train.steps=4", "run.allow_config_change=true", "run.name=own_s7"]) == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["name"] == "own_s7"


@pytest.mark.slow
def test_a_changed_option_of_the_optimizer_holds_after_a_resume(text, tmp_path, monkeypatch):
    """A checkpoint of an optimizer brings options of its own. For a resume no weights are drawn."""
    ends = []
    for run, alpha in (("same", 0.05), ("other", 0.5)):
        argv = tiny.command(text, tmp_path / run, "optimizer=racs")
        assert train.main([*argv, "optimizer.alpha=0.05", "train.steps=2"]) == 0
        monkeypatch.setattr(train, "set_initial_weights", None)
        further = [f"optimizer.alpha={alpha}", "train.steps=4", "run.allow_config_change=true"]
        assert train.main([*argv, *further]) == 0
        ends.append([row["loss"] for row in rows_of(tmp_path / run, "train")])
        monkeypatch.undo()
    same, other = ends
    assert same[:3] == other[:3] and same[3] != other[3]  # step 3 is the first with the new option


@pytest.mark.parametrize(
    "change", ["optimizer=galore", "optimizer.rank=3", "data.path=/nowhere", "model.hidden_size=64"]
)
def test_a_continuation_that_does_not_fit_changes_nothing(change, text, tmp_path, capsys):
    argv = tiny.command(text, tmp_path / "run", "train.steps=2")
    assert train.main(argv) == 0
    kept = [tmp_path / "run" / name for name in ("config.yaml", "summary.json", "metrics.jsonl")]
    before = [file.read_bytes() for file in kept]
    capsys.readouterr()
    assert train.main([*argv, change, "train.steps=4", "run.allow_config_change=true"]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert ("/nowhere" if "path" in change else "does not fit these settings") in said.splitlines()[-1]
    assert [file.read_bytes() for file in kept] == before
    assert train.main(argv) == 0
    assert "is finished" in capsys.readouterr().out


def test_a_run_resumes_without_the_folder_that_its_weights_came_from(whole_run, text, tmp_path, monkeypatch):
    folder = shutil.copytree(whole_run / "model", tmp_path / "weights")
    argv = tiny.command(text, tmp_path / "run", f"model.init_from={folder}")
    with monkeypatch.context() as patch:
        patch.setattr("training.loop.Trainer._update", tiny.unplugged_after(4))
        assert train.main(argv) == 1
    shutil.rmtree(folder)
    assert train.main(argv) == 0


def test_a_run_with_a_method_of_ones_own_resumes_exactly_and_is_evaluated(text, tmp_path, monkeypatch, capsys):
    """experiments/beyond/adaptive_rank.py, named by its file alone."""
    small = ("optimizer.rank=4", "optimizer.leading=2", "optimizer.update_interval=3")
    changes = ("optimizer=experiments/beyond/adaptive_rank.py", "optimizer.lr=0.01", *small)
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    assert train.main(tiny.command(text, whole, *changes)) == 0
    with monkeypatch.context() as patch:
        patch.setattr("training.loop.Trainer._update", tiny.unplugged_after(4))
        assert train.main(tiny.command(text, halved, *changes)) == 1
    assert train.main(tiny.command(text, halved, *changes)) == 0
    assert tiny.metrics(halved) == tiny.metrics(whole) and tiny.weights(halved) == tiny.weights(whole)
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["optimizer"] == "alice_adaptive_rank"
    capsys.readouterr()
    assert evaluate_script.main([str(whole)]) == 0
    assert f"perplexity {summary['final_perplexity']:.4f}" in capsys.readouterr().out


@pytest.mark.slow
def test_a_non_finite_evaluation_ends_the_run_unsaved(whole_run, text, tmp_path, monkeypatch, capsys):
    argv = tiny.command(text, tmp_path / "run")
    sound = loop.evaluate
    monkeypatch.setattr(loop, "evaluate", lambda *args, **kw: replace(sound(*args, **kw), loss=math.nan))
    assert train.main(argv) == 1
    sentence = "step 4 is not kept: the loss of its evaluation is nan (the last checkpoint is that of step 3 in "
    assert capsys.readouterr().err.splitlines()[-1].startswith(sentence)
    monkeypatch.undo()
    assert train.main(argv) == 0
    assert tiny.metrics(tmp_path / "run") == tiny.metrics(whole_run)


def test_a_loss_too_large_for_a_perplexity_is_said_to_be_infinite(whole_run):
    summary = json.loads((whole_run / "summary.json").read_text()) | {"final_loss": 800.0, "final_perplexity": None}
    assert "final perplexity inf, " in final_line(summary, folder.RunFolder(whole_run))


def test_an_optimizer_whose_package_is_missing_is_one_sentence(text, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    for flags in ([], ["--plan"]):
        assert train.main(tiny.command(text, tmp_path / "run", "optimizer=adam_8bit", *flags)) == 2
        assert capsys.readouterr().err == "8-bit optimizers need bitsandbytes: pip install bitsandbytes\n"


@pytest.mark.slow
def test_effective_throughput_against_a_reference(whole_run, text, tmp_path):
    """The same run is as good as the reference, which took more tokens, at its last evaluation and not before."""
    reference = json.loads((whole_run / "summary.json").read_text())
    reference["tokens"] *= 3
    (tmp_path / "reference.json").write_text(json.dumps(reference))
    assert train.main(tiny.command(text, tmp_path / "run", f"run.reference={tmp_path}/reference.json")) == 0
    evaluations = rows_of(tmp_path / "run", "eval")
    effective = [row["effective_tokens_per_second"] for row in evaluations]
    assert effective[:2] == [0, 0]
    assert effective[2] == pytest.approx(reference["tokens"] / evaluations[2]["train_seconds"])
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["effective_tokens_per_second"] == effective[2]


def test_a_bfloat16_run_and_rare_rows(text, tmp_path):
    changes = ("train.dtype=bfloat16", "train.log_every=2", "train.steps=4", "train.clip_grad_norm=0.01")
    assert train.main(tiny.command(text, tmp_path / "run", *changes, "train.activation_checkpointing=true")) == 0
    assert [row["step"] for row in rows_of(tmp_path / "run", "train")] == [2, 4]
    saved = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model", dtype="auto")
    assert saved.dtype == torch.bfloat16


def broken_line(folder, text):
    lines = (text / "train.jsonl").read_text().splitlines()
    lines[70] = '{"text": 1'
    (folder / "broken.jsonl").write_text("\n".join(lines))
    return f"data.path={folder}/broken.jsonl"


BAD = {
    "unknown key": ("train.step=3", "train.steps"),
    "rank": ("optimizer.rank=0", "optimizer.rank"),
    "last layer": ("optimizer={base: shampoo, last_layer: method}", "optimizer.last_layer"),
    "embeddings": ("optimizer={base: shampoo, embeddings: method}", "optimizer.embeddings"),
    "streams": ("train.batch_size=6", "data.streams"),
    "micro-batch": ("train.micro_batch_size=3", "train.micro_batch_size"),
    "no file": ("data.path=/nowhere/text.jsonl", "/nowhere/text.jsonl"),
    "too little text": ("data.eval_tokens=1_000_000", "data.eval_tokens"),
    "vocabulary": ("model.vocab_size=1000", "model.vocab_size"),
    "model folder": ("model.init_from=/nowhere", "model.init_from"),
    "model folder of the run": (
        lambda folder, text: f"model.init_from={folder}/./run/model",
        "run/model is where the run in",
    ),
    "reference": ("run.reference=/nowhere", "run.reference"),
    "model folder of no user": ("model.init_from=~nobody-here/model", "model.init_from: ~nobody-here/model"),
    "reference of no user": ("run.reference=~nobody-here/run", "run.reference: cannot read ~nobody-here/run"),
    "data of no user": ("data.path=~nobody-here/a.jsonl", "~nobody-here/a.jsonl: no file matches"),
    "list of no user": ("data.path=@~nobody-here/list", "there is no list ~nobody-here/list"),
    "tokenizer of no user": ("data.tokenizer=~nobody-here/model", "data.tokenizer=~nobody-here/model: no such folder"),
    "long model folder": (f"model.init_from={'a' * 300}", "has no config.json"),
    "long tokenizer": (f"data.tokenizer=./{'a' * 300}", "no such folder; give a folder with a tokenizer's files"),
    "long data": (f"data.path={'a' * 300}", "no file matches"),
    "long pattern": (f"data.path=[ab]{'a' * 300}/*.jsonl", "no file matches"),
    "long reference": (f"run.reference={'a' * 300}", "run.reference: cannot read"),
    "folder": ("run.dir=/proc/run", "run.dir"),
    "line": (broken_line, "broken.jsonl, line 71"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_is_one_sentence(case, text, tmp_path, capsys):
    change, named = BAD[case]
    change = change if isinstance(change, str) else change(tmp_path, text)
    assert train.main(tiny.command(text, tmp_path / "run", change)) == 2
    captured = capsys.readouterr()
    sentence = captured.err.splitlines()[-1]
    assert named in sentence
    assert "Traceback" not in captured.err
    assert case == "line" or captured.err.count("\n") == 1


def test_help_says_how_to_call_it_and_where_the_keys_are(capsys):
    assert train.main(["configs/quickstart.yaml", "--help"]) == 0
    captured = capsys.readouterr()
    assert "key=value" in captured.out and captured.err == ""
    pages = re.findall(r"\w+/\w+\.\w+", captured.out)
    assert len(pages) == 3 and all((Path(train.__file__).parent / page).is_file() for page in pages)


def test_a_plan_opens_no_data(tmp_path, capsys):
    argv = tiny.command(tmp_path / "nowhere", tmp_path / "run", "--plan=json")
    assert train.main(argv) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["matrix_parameters"] + plan["adam_parameters"] == plan["parameters"]
    assert (plan["steps"], plan["positions"]) == (12, 12 * 8 * 32)
    assert not (tmp_path / "run").exists()


def test_a_plan_of_a_cluster(tmp_path, capsys):
    argv = tiny.command(tmp_path / "nowhere", tmp_path / "run", "train.parallel=fsdp2", "--processes=2")
    assert train.main([*argv, "--plan=json", "--card=H100"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["cluster"]["processes"] == 2 and list(plan["cluster"]["cards"]) == ["H100"]
    assert train.main([*argv[:-1], "--plan=json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    for key in ("weight_bytes", "optimizer_state_bytes"):
        assert plan[key] == plan["cluster"]["memory"][key] < 0.6 * alone[key]
    assert plan["micro_batch_rows"] == alone["micro_batch_rows"] / 2
    whole = alone["weight_bytes"] + alone["optimizer_state_bytes"]
    assert plan["checkpoint_bytes"] == alone["checkpoint_bytes"] == whole
    assert train.main([*argv, "--plan"]) == 0
    shown = capsys.readouterr().out
    assert "one of 2 processes, fsdp2" in shown and "communication, NVLink" in shown
    assert "memory of one process" not in shown


@pytest.mark.parametrize(
    ("flags", "words"),
    {
        "processes": (["--plan", "--processes=3"], "data.streams must be divisible by the number of processes 3"),
        "number": (["--plan", "--processes=two"], "--processes must be a whole number above 0, got 'two'"),
        "none": (["--plan", "--processes=0"], "--processes must be a whole number above 0"),
        "card": (["--plan", "--card=h100"], "--card must be one of A100-40, A100-80, H100"),
        "layerwise": (["--plan", "--processes=2", "train.layerwise=true"], "train.layerwise=true"),
        "training": (["--processes=2"], "--processes is for --plan"),
    }.values(),
)
def test_a_cluster_that_cannot_be_is_one_sentence(flags, words, tmp_path, capsys):
    assert train.main(tiny.command(tmp_path / "nowhere", tmp_path / "run", *flags)) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and words in captured.err


def test_a_run_on_the_text_that_it_is_evaluated_on_says_so(text, tmp_path, caplog):
    changes = (f"data.eval_path={text}/train.jsonl", "train.steps=1")
    assert train.main(tiny.command(text, tmp_path / "run", *changes)) == 0
    assert f"{text}/train.jsonl: trained on and evaluated on" in caplog.text


@pytest.mark.slow
def test_evaluate_a_finished_run(whole_run, text, tmp_path, capsys):
    assert evaluate_script.main([str(whole_run)]) == 0
    ours = capsys.readouterr().out
    assert ours.startswith(f"perplexity {rows_of(whole_run, 'eval')[-1]['perplexity']:.4f}, GaLore's ")
    (tmp_path / "optimizer.lr=1").symlink_to(whole_run)
    assert evaluate_script.main([str(tmp_path / "optimizer.lr=1")]) == 0
    assert capsys.readouterr().out == ours
    other = f"data.eval_path={text}/train.jsonl"
    assert evaluate_script.main([str(whole_run), "data=files", other, "data.eval_tokens=500"]) == 0
    assert capsys.readouterr().out != ours
    run = shutil.copytree(whole_run, tmp_path / "run")
    (run / "evaluations.json").write_text("{")
    assert evaluate_script.main([str(run), "--save", "again"]) == 2
    said = capsys.readouterr()
    assert said.out == ours and "evaluations.json is not readable" in said.err and "Traceback" not in said.err
    assert evaluate_script.main([str(tmp_path)]) == 2
    assert evaluate_script.main(["a" * 300]) == 2
    assert "finished run" in capsys.readouterr().err


def test_a_disk_too_small_for_a_checkpoint_is_refused_at_the_start(text, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(folder, "free_bytes", lambda path: 1000)
    assert train.main(tiny.command(text, tmp_path / "run")) == 2
    assert "run.dir: a checkpoint takes" in capsys.readouterr().err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_plan_that_cannot_be_made_is_one_sentence(text, tmp_path, capsys):
    assert train.main(tiny.command(text, tmp_path / "run", "model.init_from=/nowhere", "--plan=json")) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and "model.init_from" in captured.err


@pytest.mark.slow
def test_a_model_of_another_architecture_resumes_exactly_and_opens(text, tmp_path, monkeypatch):
    """Fewer heads of keys and values, wide heads, scaled positions and a last layer that is the embedding."""
    argv = [tiny.command(text, tmp_path / name, *tiny.GROUPED_AND_TIED) for name in ("whole", "run")]
    assert train.main(argv[0]) == 0
    with monkeypatch.context() as patch:
        patch.setattr("training.loop.Trainer._update", tiny.unplugged_after(8))
        assert train.main(argv[1]) == 1
    assert train.main(argv[1]) == 0
    assert tiny.weights(tmp_path / "run") == tiny.weights(tmp_path / "whole")
    assert tiny.metrics(tmp_path / "run") == tiny.metrics(tmp_path / "whole")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.config.rope_parameters == {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    assert (model.config.num_key_value_heads, model.config.head_dim) == (1, 24)
    assert evaluate_script.main([str(tmp_path / "run")]) == 0
