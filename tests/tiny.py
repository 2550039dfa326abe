"""Tiny runs of tests/tiny.yaml, and their results."""

import json
import random
from pathlib import Path

import pytest

from training.loop import Trainer
from training.run_errors import MachineError

CLOCKED = ("tokens_per_second", "optimizer_seconds", "data_seconds", "train_seconds")
WORDS = ("the", "people", "of", "this", "nation", "have", "seen", "work", "and", "hope", "in", "every", "state")

# Settings of another architecture: shared heads of keys and values, wide heads, scaled positions, a tied last layer.
GROUPED_AND_TIED = (
    "model.num_key_value_heads=1",
    "model.head_dim=24",
    "model.rope_scaling={rope_type: linear, factor: 2.0}",
    "model.tie_word_embeddings=true",
    "optimizer.last_layer=adam",
)


def write_text(folder: Path) -> Path:
    """Put train.jsonl and eval.jsonl, 120 and 60 documents of 5 to 60 words, into `folder`; returns it."""
    draw = random.Random(0)
    for name, documents in (("train", 120), ("eval", 60)):
        texts = (" ".join(draw.choices(WORDS, k=draw.randint(5, 60))) for _ in range(documents))
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder


def command(text: Path, run: Path, *changes: str) -> list[str]:
    """Arguments of train.py for a tiny run on `text` in the folder `run`."""
    data = (f"data.path={text}/train.jsonl", f"data.eval_path={text}/eval.jsonl")
    return ["tests/tiny.yaml", *data, f"run.dir={run}", *changes]


def metrics(run: Path) -> list[dict]:
    """The rows of metrics.jsonl without what a clock measured."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in CLOCKED} for row in rows]


def assert_nearly_same_end(run: Path, whole: Path) -> None:
    """Rows of the same steps, with numbers that differ by rounding."""
    for row, expected in zip(metrics(run), metrics(whole), strict=True):
        assert row.pop("kind") == expected.pop("kind")
        assert row == pytest.approx(expected, rel=1e-4)


def weights(run: Path) -> bytes:
    """The bytes of the final weights."""
    return (run / "model" / "model.safetensors").read_bytes()


def saved_steps(run: Path) -> list[int]:
    """The steps of the run's checkpoints that have their marker."""
    return sorted(int(path.parent.name[5:]) for path in run.glob("checkpoints/step_*/complete.json"))


def unplugged_after(step: int):
    """A replacement of `Trainer._update`: the run ends after `step` steps without saving."""

    def update(self, *arguments, original=Trainer._update):
        if self.counters.step == step:
            raise MachineError("the plug was pulled")
        return original(self, *arguments)

    return update


def method_file(folder: Path, name: str) -> Path:
    """A Python file in `folder` that registers RACS by another name, new to this process."""
    path = folder / f"{name}.py"
    path.write_text(
        f"from optimizers.engine import register\nfrom optimizers.racs import RACS\n\nregister({name!r})(RACS)\n"
    )
    return path
