"""What a number may depend on as well as on the settings: commit, device, versions, a method's own file."""

import contextlib
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from configs.method_files import register_file
from configs.sections import Optimizer

DIGEST = "optimizer_file_sha256"
LIBRARIES = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "sentencepiece", "bitsandbytes")


def environment(device: torch.device, optimizer: Optimizer) -> dict[str, Any]:
    """git_commit (that of `commit`), device and versions for the summary, and what `method_file` says."""
    versions = {"python": platform.python_version()}
    for library in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[library] = importlib.metadata.version(library)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    made_in = {"git_commit": commit(Path(__file__).parent), "device": name, "versions": versions}
    return made_in | method_file(optimizer)


def method_file(optimizer: Optimizer) -> dict[str, str]:
    """{DIGEST: of the content of `optimizer.file`}; {} for a method of the package."""
    return {} if optimizer.file is None else {DIGEST: register_file(optimizer.file).digest}


def beside_settings(optimizer: Optimizer, mixed_precision: str) -> dict[str, Any]:
    """What a checkpoint holds beside the settings, because a resume needs it equal."""
    return {"mixed_precision": mixed_precision, **method_file(optimizer)}


def method_file_of(made_in: dict[str, Any]) -> dict[str, str]:
    """As `method_file`, of what `environment` said then; {} if that was by a version before the digest."""
    return {DIGEST: made_in[DIGEST]} if DIGEST in made_in else {}


def changed_method(made_in: dict[str, Any], optimizer: Optimizer) -> list[str]:
    """[DIGEST] where `optimizer.file` holds something else now than when `environment` said `made_in`; otherwise []."""
    now = method_file(optimizer)
    return [DIGEST] if now | method_file_of(made_in) != now else []


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
