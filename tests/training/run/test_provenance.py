"""Where a run took place."""

import hashlib
import subprocess
from pathlib import Path

import torch

from configs.schema import load
from tests import tiny
from training.run.provenance import changed_method, commit, environment


def test_environment_names_commit_device_and_versions():
    found = environment(torch.device("cpu"), load([]).config.optimizer)
    assert "optimizer_file_sha256" not in found
    assert found["versions"]["torch"] == torch.__version__
    assert found["device"]
    root = Path(__file__).parent
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    if head.returncode == 0:
        assert found["git_commit"].removesuffix("-dirty") == head.stdout.strip()
    else:
        assert found["git_commit"] is None


def test_environment_names_the_content_of_a_methods_own_file(tmp_path):
    file = tiny.method_file(tmp_path, "mine_g")
    section = load([f"optimizer={file}", "optimizer.lr=0.01"]).config.optimizer
    found = environment(torch.device("cpu"), section)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    assert found["optimizer_file_sha256"] == digest and changed_method(found, section) == []
    file.write_text("")  # what was run is what counts
    assert environment(torch.device("cpu"), section)["optimizer_file_sha256"] == digest
    assert changed_method({**found, "optimizer_file_sha256": "0" * 12}, section) == ["optimizer_file_sha256"]
    assert changed_method({}, section) == []
    assert changed_method({"optimizer_file_sha256": "of before"}, load([]).config.optimizer) == [
        "optimizer_file_sha256"
    ]


def test_a_ledger_that_grows_makes_no_commit_dirty(tmp_path):
    def git(*words: str) -> None:
        name = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        subprocess.run(["git", *name, *words], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "results" / "arena").mkdir(parents=True)
    files = [tmp_path / "results" / "arena" / "nano.jsonl", tmp_path / "train.py"]
    for file in files:
        file.write_text("1\n")
    git("init")
    git("add", ".")
    git("commit", "--message", "first")
    clean = commit(tmp_path / "results")
    assert clean is not None and len(clean) == 40
    files[0].write_text("1\n2\n")
    assert commit(tmp_path / "results") == clean
    files[1].write_text("1\n2\n")
    assert commit(tmp_path / "results") == f"{clean}-dirty"
