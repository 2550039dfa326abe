"""train.py itself, small and short: what a run promises on this device."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

import train
from benchmarks.acceptance.items import Item, Measured, Setup, at_most, holds

STEPS = 6
SETTINGS = {
    "data": "builtin",
    "optimizer": "alice",
    "optimizer.update_interval": "2",
    "train.steps": str(STEPS),
    "train.batch_size": "8",
    "train.compile": "false",
    "data.eval_tokens": "2000",
    "wandb.mode": "disabled",
}
Changes = dict[str, str | None]  # None: the setting is left out
ADAM: Changes = {"optimizer": "adam", "optimizer.update_interval": None}
KINDS: dict[str, Changes] = {
    "stochastic rounding": {"train.dtype": "bfloat16", "train.stochastic_rounding": "true"},
    "activation checkpointing": {"train.activation_checkpointing": "true"},
    "adam_8bit": {**ADAM, "optimizer": "adam_8bit"},
    "galore_8bit": {"optimizer": "galore_8bit"},
}


def runs(setup: Setup, model: str = "llama_nano") -> Iterator[Item]:
    """A resumed run against an undisturbed one, layer-wise against plain training, and runs that need only end."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        yield Item("resume", lambda: [_resume(folder, model)])
        yield Item("layerwise", lambda: _layerwise(folder, model, setup))
        for kind, changes in KINDS.items():
            yield Item(kind, lambda kind=kind, changes=changes: [_ends(folder / kind, model, kind, changes)])  # type: ignore[misc]


def run(folder: Path, model: str, changes: Changes) -> int:
    """The exit code of a run in `folder`. Deterministic kernels are switched off again after it."""
    settings: Changes = {"model": model, **SETTINGS, **changes, "run.dir": str(folder)}
    try:
        return train.main([f"{key}={value}" for key, value in settings.items() if value is not None])
    finally:
        torch.use_deterministic_algorithms(False)


def losses(folder: Path) -> list[float]:
    """Of each training step."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if row["kind"] == "train"]


def _resume(folder: Path, model: str) -> Measured:
    """Six steps, then the last three again from the checkpoint at the third."""
    exact: Changes = {"run.deterministic": "true", "train.checkpoint_every": "3"}
    codes = [run(folder / "whole", model, exact)]
    expected = losses(folder / "whole")
    undo(folder / "whole", step=3)
    codes.append(run(folder / "whole", model, exact))
    found = losses(folder / "whole")
    same = codes == [0, 0] and found == expected and len(found) == STEPS
    return holds("resumed at step 3, losses", " ".join(f"{loss:.6f}" for loss in found), same, "the same bits")


def undo(folder: Path, *, step: int) -> None:
    """Make a finished run one that ended after `step` without a word."""
    (folder / "summary.json").unlink()
    for path in (folder / "checkpoints").iterdir():
        if path.name > f"step_{step:08d}":
            (path / "complete.json").unlink()


def _layerwise(folder: Path, model: str, setup: Setup) -> list[Measured]:
    codes, peaks = [], []
    for layerwise in ("false", "true"):
        path = folder / f"layerwise_{layerwise}"
        if setup.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        codes.append(run(path, model, {**ADAM, "run.deterministic": "true", "train.layerwise": layerwise}))
        peaks.append(json.loads((path / "summary.json").read_text())["peak_memory_bytes"] if not codes[-1] else 0)
    same = losses(folder / "layerwise_true") == losses(folder / "layerwise_false")
    return [
        holds("layerwise, exit codes", str(codes), codes == [0, 0], "0"),
        holds("layerwise, losses of both", "equal" if same else "different", same, "equal"),
        at_most("layerwise, peak memory over plain", peaks[1] / peaks[0], 1.0, asked=setup.device.type == "cuda"),
    ]


def _ends(folder: Path, model: str, kind: str, changes: Changes) -> Measured:
    code = run(folder, model, changes)
    return holds(f"{kind}, exit code", str(code), code == 0, "0")
