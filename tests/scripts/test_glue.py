"""scripts/glue.py from end to end, on made-up tasks and an encoder that is trained nowhere."""

import json
import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
import transformers

from analysis.paths import ROOT
from experiments.glue.fine_tuning import build_optimizer, epochs_of, newest_checkpoint
from experiments.glue.glue_settings import load
from scripts.glue import main
from tests.experiments.glue.made_tasks import write_all
from tests.processes import started, wait_until
from training.run.folder import RunFolder

GLUE = "configs/experiment/glue"
SHORT = ("glue.max_length=24", "glue.batch_size=16")
LOW_RANK = ("optimizer.update_interval=10",)
# Rates at which the made-up tasks are learnt; they say nothing about GLUE.
METHODS = {
    "adam": ("optimizer.lr=0.003",),
    "galore_rank_4": ("optimizer.lr=0.003", *LOW_RANK),
    "alice_rank_4": ("optimizer.lr=0.01", "optimizer.adam_lr=0.003", *LOW_RANK),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with the encoder in `encoder` and three tasks in `data`."""
    return write_all(tmp_path_factory.mktemp("made"))


@pytest.fixture
def glue(made, monkeypatch, capfd):
    """Calls the main function of scripts/glue.py with these arguments, the made-up tasks and the encoder; returns
    (exit code, stdout, stderr)."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(made / "cache"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(made / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))  # for the processes that it starts
    monkeypatch.chdir(ROOT)

    def glue(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["glue.py", *arguments])
        capfd.readouterr()
        try:
            code = main()
        except SystemExit as end:
            code = end.code
        return code, *capfd.readouterr()

    return glue


def arguments(made: Path, out: Path, method: str, task: str, *others: str, epochs: int = 6) -> list[str]:
    files = [str(out), f"{GLUE}/{method}.yaml", *SHORT, f"glue.epochs={epochs}", *METHODS[method]]
    return [*files, "--tasks", task, "--data", str(made / "data"), "--model", str(made / "encoder"), *others]


def kept(out: Path, name: str) -> dict:
    """The record of a run, without what a clock measured."""
    (line,) = (out / name / "record.jsonl").read_text().splitlines()
    found = json.loads(line)
    assert found.pop("train_seconds") == pytest.approx(sum(row.pop("train_seconds") for row in found["epochs"]))
    return found


@pytest.mark.slow
def test_methods_learn_a_made_up_task_and_the_table_has_their_seeds(glue, made, tmp_path):
    found = {}
    for method in METHODS:
        for seed in (0, 1):
            name = f"{method}_mrpc_s{seed}"
            code, said, _ = glue(
                *arguments(made, tmp_path, method, "mrpc", "--seeds", "0,1", "--only", name, epochs=10)
            )
            assert code == 0 and said.count("epoch=") == 10
            found[method, seed] = run = kept(tmp_path, name)
            losses = [row["loss"] for row in run["epochs"]]
            assert losses[-1] < 0.8 * losses[0] and [row["epoch"] for row in run["epochs"]] == list(range(1, 11))
            assert max(row["accuracy"] for row in run["epochs"]) > 0.75, "chance is a half"
            assert run["best"] == max(row["f1"] for row in run["epochs"])
            assert (run["task"], run["seed"], run["optimizer"]) == ("mrpc", seed, method.partition("_")[0])
            assert run["settings"]["optimizer"]["name"] == run["optimizer"] and run["versions"]["transformers"]
            assert not (tmp_path / name / "checkpoints").exists()
    states = [found[method, 0]["optimizer_state_bytes"] for method in METHODS]
    assert states[1] < states[2] < states[0]

    code, said, _ = glue(str(tmp_path), "--table", "--title", "Made-up tasks, no result")
    assert code == 0 and said == (tmp_path / "table.md").read_text()
    assert said.startswith("# Made-up tasks, no result\n\n| settings | MRPC | average | state bytes | hours |\n")
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in said.splitlines() if " ± " in line}
    for method, state in zip(METHODS, states, strict=True):
        first, second = (100 * found[method, seed]["best"] for seed in (0, 1))
        spread = abs(first - second) / 2**0.5
        assert rows[method][1:4] == [f"{(first + second) / 2:.2f} ± {spread:.2f} (2)", "", str(state)]


@pytest.mark.slow
def test_the_queue_runs_a_regression_and_skips_it_afterwards(glue, made, tmp_path):
    given = arguments(made, tmp_path, "adam", "stsb", epochs=12)
    code, planned, _ = glue(*given, "-n")
    assert code == 0 and planned.count("\n") == 1 and not any(tmp_path.iterdir())
    assert " scripts/glue.py " in planned and "--only adam_stsb_s0  # task=stsb seed=0 model=" in planned
    code, said, _ = glue(*given)
    assert code == 0 and "adam_stsb_s0: best pearson " in said
    run = kept(tmp_path, "adam_stsb_s0")
    assert run["best"] > 0.8 and run["epochs"][-1]["loss"] < 0.5 * run["epochs"][0]["loss"]
    assert glue(*given, "-n")[:2] == (0, "")
    assert glue(*given)[:2] == (0, "1 of 1 are finished\n")
    assert glue(*given, "--only", "adam_stsb_s0")[1].endswith("holds a finished run\n")
    assert "holds a run with other settings (glue.epochs)" in glue(*arguments(made, tmp_path, "adam", "stsb"))[2]


@pytest.mark.slow
def test_a_run_that_broke_off_goes_on_to_the_same_record(glue, made, tmp_path, monkeypatch):
    """Also past a checkpoint of which the kill left half: step 12's, with weights and half a state."""
    name = "alice_rank_4_sst2_s0"
    assert glue(*arguments(made, tmp_path / "whole", "alice_rank_4", "sst2"))[0] == 0
    broken = arguments(made, tmp_path / "broken", "alice_rank_4", "sst2", "--only", name)
    step = transformers.Trainer.training_step
    taken = []

    def unplugged(*given, **named):
        taken.append(None)
        if len(taken) > 10:
            raise KeyboardInterrupt
        return step(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(transformers.Trainer, "training_step", unplugged)
        with pytest.raises(KeyboardInterrupt):
            glue(*broken)
    checkpoints = tmp_path / "broken" / name / "checkpoints"
    assert [path.name for path in checkpoints.iterdir()] == ["checkpoint-6"]
    (checkpoints / "checkpoint-12").mkdir()
    (checkpoints / "checkpoint-12" / "trainer_state.json").write_text('{"epoch": 2.0, ')
    (checkpoints / "checkpoint-12" / "model.safetensors").write_bytes(b"half")
    assert newest_checkpoint(checkpoints) == str(checkpoints / "checkpoint-6")
    code, said, _ = glue(*broken)
    assert code == 0 and said.count("epoch=") == 5, "the first epoch is not run again"
    assert kept(tmp_path / "broken", name) == kept(tmp_path / "whole", name)


@pytest.mark.slow
def test_a_killed_process_goes_on_to_the_same_record(glue, made, tmp_path):
    name = "galore_rank_4_sst2_s0"
    only = ("--only", name)
    assert glue(*arguments(made, tmp_path / "whole", "galore_rank_4", "sst2", *only, epochs=12))[0] == 0
    killed = arguments(made, tmp_path / "killed", "galore_rank_4", "sst2", *only, epochs=12)
    saved = tmp_path / "killed" / name / "checkpoints" / "checkpoint-6" / "trainer_state.json"
    with started([sys.executable, "scripts/glue.py", *killed], stdout=subprocess.DEVNULL) as process:
        wait_until(lambda: saved.exists() or process.poll() is not None)
        assert process.poll() is None, "it ended before its first checkpoint"
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL and not (tmp_path / "killed" / name / "record.jsonl").exists()
    assert glue(*killed)[0] == 0
    assert kept(tmp_path / "killed", name) == kept(tmp_path / "whole", name)


@pytest.mark.slow
def test_a_run_that_cannot_be_made_ends_with_one_sentence(glue, made, tmp_path):
    def refused(task: str, *others: str) -> str:
        code, _, said = glue(*arguments(made, tmp_path, "adam", task, "--only", f"adam_{task}_s0", *others))
        assert code == 2 and "Traceback" not in said
        return said.rpartition("error: ")[2]

    assert refused("cola").startswith(f"{made}/data has no train file (.jsonl, .json, .csv, .tsv, .parquet)")
    assert refused("sts").startswith("unknown task 'sts', must be one of cola, stsb,")
    (tmp_path / "rte").mkdir()
    (tmp_path / "rte" / "train.csv").write_text("sentence1,label\na,0\nb,1\n")
    assert "train.csv has no column sentence2, which rte needs" in refused("rte", "--data", str(tmp_path))
    assert refused("sst2", "--model", str(tmp_path / "none")).startswith(f"glue.model: {tmp_path}/none is no encoder")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "config.json").write_text('{"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}')
    assert "it comes with code of its own, which is never run" in refused("sst2", "--model", str(tmp_path / "own"))
    assert refused("sst2", "glue.max_length=512").startswith("glue.max_length must be at most ")
    assert refused("sst2", "--only", "adam").startswith("--only: no run is called adam; there are adam_sst2_s0")
    with RunFolder(tmp_path / "adam_sst2_s0"):
        assert refused("sst2").startswith(f"run.dir: another run (process {os.getpid()} on ")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "record.jsonl").write_text("{")
    assert glue(str(tmp_path), "--table")[2].endswith("broken/record.jsonl is no whole record of a run; move it away\n")
    (tmp_path / "broken" / "record.jsonl").unlink()
    assert glue(str(tmp_path), "--table")[::2] == (2, f"{tmp_path} holds no finished run of scripts/glue.py\n")
    assert "name settings files to run, or --table" in glue(str(tmp_path))[2]
    code, _, said = glue(*arguments(made, tmp_path, "adam", "sst2", "optimizer.lr=1e30", "--only", "adam_sst2_s0"))
    assert code == 1 and said.endswith("the loss of epoch 1 is not finite: try a smaller optimizer.lr\n")


@pytest.mark.slow
def test_the_commands_of_the_page_do_what_it_says(glue, tmp_path, monkeypatch):
    """Those of the last section for real, those that need a network or a GPU as a list."""
    page = (ROOT / "docs" / "glue.md").read_text()
    lines = [line for block in re.findall(r"```bash\n(.*?)```", page, flags=re.S) for line in block.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    (make,) = (line[2] for line in words if line[1] == "-m")
    monkeypatch.setattr(sys, "argv", [make, str(tmp_path / "made")])
    runpy.run_module(make, run_name="__main__")
    counts = []
    for command in (line[2:] for line in words if line[1] == "scripts/glue.py"):
        moved = [word.replace("runs/", f"{tmp_path}/") for word in command]
        real = moved[0].startswith(f"{tmp_path}/made")
        if not real and "--table" not in moved:
            code, said, _ = glue(*moved, "-n")
            assert code == 0
            counts.append(said.count("\n"))
        elif real:
            code, said, _ = glue(*moved)
            assert code == 0
    assert counts == [24, 24, 6, 2, 1]
    assert said.startswith("# Made-up tasks, no result\n\n| settings | STS-B | SST-2 |") and said.count("(2)") == 2


@pytest.mark.parametrize("kind", ["Roberta", "Bert", "Electra"])
def test_the_method_steps_the_matrices_of_attention_and_mlp_alone(kind):
    """Those that GaLore's run_glue.py names; a pooler and a classifier are Adam's."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = getattr(transformers, f"{kind}Config")(vocab_size=20, **sizes)
    model = getattr(transformers, f"{kind}ForSequenceClassification")(config)
    optimizer = build_optimizer(model, load(f"{GLUE}/galore_rank_4.yaml", [], "rte", 0))
    method, adam = (set(group["param_names"]) for group in optimizer.param_groups)
    named = re.compile(r"(query|value|key|intermediate\.dense|output\.dense)\.weight$")
    assert method == {name for name, _ in model.named_parameters() if named.search(name)} and len(method) == 12
    assert method | adam == {name for name, _ in model.named_parameters()}
    assert [group["lr"] for group in optimizer.param_groups] == [1e-5, 1e-5]


def test_an_epoch_of_the_log_is_one_row():
    history = [
        {"loss": 0.7, "epoch": 1.0, "step": 6, "learning_rate": 1e-3},
        {"eval_loss": 0.6, "eval_f1": 0.5, "eval_runtime": 0.1, "epoch": 1.0, "step": 6, "train_seconds": 2.0},
        {"loss": 0.5, "epoch": 2.0, "step": 12},
        {"train_runtime": 3.0, "train_loss": 0.6, "epoch": 2.0, "step": 12},
    ]
    row = {"epoch": 1, "step": 6, "loss": 0.7, "validation_loss": 0.6, "train_seconds": 2.0, "f1": 0.5}
    assert epochs_of(history) == [row]
