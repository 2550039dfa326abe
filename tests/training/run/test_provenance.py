"""Where a run took place."""

import subprocess
from pathlib import Path

import torch

from training.run.provenance import environment


def test_environment_names_commit_device_and_versions():
    found = environment(torch.device("cpu"))
    assert found["versions"]["torch"] == torch.__version__
    assert found["device"]
    root = Path(__file__).parent
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    if head.returncode == 0:
        assert found["git_commit"].removesuffix("-dirty") == head.stdout.strip()
    else:
        assert found["git_commit"] is None
