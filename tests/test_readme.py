"""Every command and snippet of README.md does what it says."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import torch
import transformers
import yaml

from configs.schema import load
from tests.optimizers.test_partition import llama

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.S)
LINES = [line.split(" #")[0].strip() for kind, block in BLOCKS if kind == "bash" for line in block.splitlines()]
COMMANDS = [line for line in LINES if line] + re.findall(r"\| `(.*?)`", README)


def commands(program: str) -> list[list[str]]:
    """The words of every command that runs `program`."""
    return [words for words in map(shlex.split, COMMANDS) if program in words]


def test_the_files_it_links_to_exist():
    links = re.findall(r"\]\((?!http)(.*?)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("words", commands("train.py"), ids=" ".join)
def test_commands_of_train_are_valid(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    arguments = words[words.index("train.py") + 1 :]
    load(["configs/experiment/table2/60m/racs.yaml" if word == "FILE.yaml" else word for word in arguments])
    if "--config_file" in words:
        launch = yaml.safe_load((ROOT / words[words.index("--config_file") + 1]).read_text())
        assert launch["num_processes"] >= 2


def test_sweep_plans_a_run_for_each_value():
    (words,) = commands("scripts/sweep.sh")
    shown = subprocess.run(
        ["scripts/sweep.sh", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert len(shown) == 3
    for line in shown:
        arguments = line.split("train.py ")[1].split()
        assert load([str(ROOT / arguments[0]), *arguments[1:]]).config.run.dir.startswith("runs/lr/racs_lr=")


def test_scripts_it_names_can_be_run():
    names = set(re.findall(r"(?<![\w/])scripts/[\w/]+\.(?:sh|py|sbatch)", README))
    assert {"scripts/quickstart.sh", "scripts/test.sh", "scripts/evaluate.py"} <= names
    for name in names:
        assert (ROOT / name).is_file(), name
        assert not name.endswith(".sh") or (ROOT / name).stat().st_mode & 0o100, name


def test_snippets_run(tmp_path):
    snippets = [block for kind, block in BLOCKS if kind == "python"]
    assert len(snippets) == 2
    model = llama()
    args = transformers.TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    for snippet in snippets:
        names = {"model": model, "args": args, "dataset": [], "transformers": transformers}
        exec(snippet, names)
        model(input_ids=torch.zeros(1, 4, dtype=torch.long), labels=torch.zeros(1, 4, dtype=torch.long)).loss.backward()
        before = [p.detach().clone() for p in model.parameters()]
        names["optimizer"].step()
        assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
