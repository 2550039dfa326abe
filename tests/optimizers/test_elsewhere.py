"""The optimizers outside of this project's training loop."""

import ast
import sys
from pathlib import Path

import pytest
import torch
import transformers

import optimizers
from optimizers import RACS

from .test_partition import llama

FOLDER = Path(optimizers.__file__).parent


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.py")), ids=lambda path: str(path.relative_to(FOLDER)))
def test_imports_torch_and_the_standard_library_alone(path):
    """At module level; bitsandbytes is imported when an 8-bit optimizer is made."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.partition(".")[0])
    assert names <= {"torch", *sys.stdlib_module_names}


def sentences() -> list[dict]:
    """48 rows of 16 ids that follow each other by one rule, so that there is something to learn."""
    starts = torch.arange(48)
    ids = (starts[:, None] * 7 + 5 * torch.arange(16)) % 64
    return [{"input_ids": row, "labels": row} for row in ids]


def test_transformers_trainer(tmp_path):
    model = llama()
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        num_train_epochs=4,
        per_device_train_batch_size=8,
        learning_rate=0.02,
        lr_scheduler_type="constant",
        logging_steps=1,
        report_to="none",
        save_strategy="epoch",
        use_cpu=True,
        disable_tqdm=True,
    )
    optimizer = optimizers.build(model, "alice", lr=0.02, adam_lr=1e-2, rank=8, leading=2, update_interval=5)
    trainer = transformers.Trainer(model, arguments, train_dataset=sentences(), optimizers=(optimizer, None))
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert len(losses) == 24
    assert losses[-1] < 0.8 * losses[0]
    saved = torch.load(tmp_path / "checkpoint-24" / "optimizer.pt", weights_only=True)
    assert saved["param_groups"][0]["rank"] == 8


def test_a_bare_loop_with_groups_of_ones_own():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, 4))
    matrices = [p for p in model.parameters() if p.ndim == 2]
    rest = [p for p in model.parameters() if p.ndim != 2]
    optimizer = RACS([{"params": matrices}, {"params": rest, "algorithm": "adam", "lr": 1e-2}], lr=0.2)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=10)
    inputs = torch.randn(64, 8)
    targets = inputs[:, :4].sin()
    losses = []
    for _ in range(60):
        loss = torch.nn.functional.mse_loss(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
