"""Where a run took place: commit, device, versions."""

import contextlib
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

LIBRARIES = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "sentencepiece", "bitsandbytes")


def environment(device: torch.device) -> dict[str, Any]:
    """git_commit, device and versions for the summary: a number may depend on them as well as on the config.

    `git_commit` is that of `commit`.
    """
    versions = {"python": platform.python_version()}
    for library in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[library] = importlib.metadata.version(library)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {"git_commit": commit(Path(__file__).parent), "device": name, "versions": versions}


def commit(folder: Path) -> str | None:
    """The commit of the checkout that `folder` is in; None outside of one. It ends in "-dirty" if tracked files differ
    from it, other than ledgers of arenas: those grow by the runs themselves."""
    status = ["git", "status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)results/arena/*.jsonl"]
    try:
        head, changed = (
            subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=30).stdout.strip()
            for command in (["git", "rev-parse", "--verify", "HEAD"], status)
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return f"{head}-dirty" if head and changed else head or None


def _processor() -> str:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()
