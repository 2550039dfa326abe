"""The optimizers outside of this project's training loop."""

import ast
import logging
import re
import sys
from pathlib import Path

import pytest
import torch
import transformers

import optimizers
from optimizers import RACS
from tests.snippets import PAGE, batches, sentences, snippet

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


def run(heading: str, **names) -> dict:
    """The names after a snippet of docs/in-your-own-loop.md was run with `names`."""
    names = {"torch": torch, "optimizers": optimizers, **names}
    exec(snippet(heading), names)
    return names


def fresh() -> transformers.LlamaForCausalLM:
    torch.manual_seed(0)
    return llama()


def same_weights(first, second) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_every_snippet_of_the_page_has_a_test():
    """Those of several processes in tests/distributed/own_loops.py."""
    called = Path(__file__).read_text() + (Path(__file__).parents[1] / "distributed" / "own_loops.py").read_text()
    headings = re.findall(r"^## (.*)$", PAGE.read_text(), flags=re.M)
    assert len(headings) >= 8
    assert [heading for heading in headings if f'run("{heading}"' not in called] == []


@pytest.mark.parametrize("method", ["adam_mini", "muon", "scale", "adam_8bit"])
def test_layers_that_are_unfrozen_get_the_groups_of_build(method):
    """Heads of queries, Adam for embeddings, and a method of its own for the last layer are not lost."""
    whole = optimizers.build(fresh(), method, lr=0.02)
    model = fresh()
    for parameter in [*model.model.embed_tokens.parameters(), *model.model.layers[0].parameters()]:
        parameter.requires_grad = False
    optimizer = optimizers.build(model, method, lr=0.02)
    for parameter in model.parameters():
        parameter.requires_grad = True
    run("Layers that are unfrozen later", model=model, optimizer=optimizer)

    def treatment(of):
        skipped = ("params", "param_names")
        return {
            name: {key: value for key, value in group.items() if key not in skipped}
            for group in of.param_groups
            for name in group["param_names"]
        }

    assert treatment(optimizer) == treatment(whole)


@pytest.mark.parametrize("has_adapters", [False, True])
def test_destinations_with_and_without_rules(has_adapters):
    model = llama(tie_word_embeddings=True)
    rules = [(r"layers\.0\.", "adam"), (r"adapter\.", "method")] if has_adapters else []
    if has_adapters:
        model.adapter = torch.nn.ParameterDict({"down": torch.ones(4, 16)})
    optimizer = run("Which parameter goes where", model=model, rules=rules)["optimizer"]
    (method, adam) = ({*group["param_names"]} for group in optimizer.param_groups)
    assert ("adapter.down" in method) == has_adapters
    assert any("layers.0." in name and "proj" in name for name in adam) == has_adapters
    assert "model.embed_tokens.weight" in adam


def plainly(model, optimizer, rows) -> None:
    """Train on `rows`, every parameter in one call of `step`."""
    for batch in rows:
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def test_little_memory_gives_the_weights_of_a_plain_loop_and_goes_on_from_its_file(tmp_path):
    rows, file = batches(4), tmp_path / "saved.pt"
    ours, plain = fresh(), fresh().bfloat16()
    run("Little memory", model=ours, batches=rows[:2], file=file)
    assert all(p.grad is None for p in ours.parameters())
    other = optimizers.build(plain, "racs", lr=0.02, adam_lr=1e-2)
    other.round_stochastically(seed=0)
    resumed = fresh().bfloat16()
    going_on = optimizers.build(resumed, "racs", lr=0.02, adam_lr=1e-2)
    going_on.round_stochastically(seed=0)
    saved = torch.load(file, weights_only=True)
    resumed.load_state_dict(saved["model"])
    going_on.load_state_dict(saved["optimizer"])
    plainly(plain, other, rows[:2])
    assert same_weights(ours, plain)
    plainly(plain, other, rows[2:])
    plainly(resumed, going_on, rows[2:])
    assert same_weights(resumed, plain)


@pytest.mark.slow
def test_transformers_trainer_accumulates_clips_and_resumes(tmp_path):
    """bfloat16 autocast; a run that goes on from its middle ends with the bits of the one that was left alone."""
    names = {"transformers": transformers, "dataset": sentences()}
    whole, resumed = fresh(), fresh()
    trainer = run("Trainer of transformers", model=whole, folder=str(tmp_path), checkpoint=None, **names)["trainer"]
    middle = str(tmp_path / "checkpoint-4")
    saved = torch.load(f"{middle}/optimizer.pt", weights_only=True)
    assert saved["param_groups"][0]["rank"] == 8 and saved["state"][0]["step"] == 4
    run("Trainer of transformers", model=resumed, folder=str(tmp_path / "again"), checkpoint=middle, **names)
    assert same_weights(whole, resumed)
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert len(rows) == 8 and rows[-1]["loss"] < rows[0]["loss"]
    assert trainer.optimizer.param_groups[0]["lr"] < 1e-9, "the cosine ends at zero, from 0.02"


@pytest.fixture
def fit(tmp_path):
    """Lightning's training of a model, from a checkpoint or None; returns the checkpoint that it left."""
    lightning = pytest.importorskip("lightning", reason="needs lightning, of the version in requirements-test.txt")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    rows = torch.utils.data.DataLoader(sentences(), batch_size=4)

    def fit(model, name: str, epochs: int, *, accumulate: int = 1, checkpoint: Path | None = None) -> Path:
        folder = tmp_path / name
        settings = {"epochs": epochs, "accumulate": accumulate, "checkpoint": checkpoint, "folder": str(folder)}
        run("Lightning", lightning=lightning, model=model, loader=rows, **settings)
        return next(folder.glob("checkpoints/*.ckpt"))

    return fit


@pytest.mark.slow
def test_lightning_resumes_exactly(fit):
    whole, resumed = fresh(), fresh()
    fit(whole, "whole", 2)
    fit(resumed, "resumed", 2, checkpoint=fit(fresh(), "first", 1))
    assert same_weights(whole, resumed)


@pytest.mark.slow
def test_lightning_accumulates_and_clips_as_a_plain_loop_does(fit):
    ours, plain, rows = fresh(), fresh(), sentences()
    fit(ours, "ours", 1, accumulate=2)
    optimizer = optimizers.build(plain, "racs", lr=0.02, adam_lr=1e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=4)
    for step in range(6):
        for half in (rows[8 * step : 8 * step + 4], rows[8 * step + 4 : 8 * step + 8]):
            ids = torch.stack([row["input_ids"] for row in half])
            (plain(input_ids=ids, labels=ids).loss / 2).backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_grad_scaler_steps_unscaled_gradients_and_leaves_out_overflows():
    model = fresh()
    optimizer = optimizers.build(model, "muon", lr=0.01, adam_lr=1e-2)
    names = {"model": model, "optimizer": optimizer, "device": "cpu"}
    scaler = run("float16 with a GradScaler", batches=batches(6), **names)["scaler"]
    assert scaler.get_scale() == 2.0**8 and optimizer.state[model.lm_head.weight]["step"] == 6
    before = [p.detach().clone() for p in model.parameters()]
    model.lm_head.weight.register_hook(lambda gradient: gradient * torch.inf)
    scaler = run("float16 with a GradScaler", batches=batches(1), **names)["scaler"]
    assert scaler.get_scale() == 2.0**7 and optimizer.state[model.lm_head.weight]["step"] == 6
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.slow
def test_a_compiled_function_may_step():
    """With a backend that compiles nothing, so that the numbers are those of the plain loop to the bit."""
    ours, plain, rows = fresh(), fresh(), batches(4)
    optimizer, other = (optimizers.build(model, "alice", lr=0.02, rank=8, leading=2) for model in (ours, plain))
    losses = run("torch.compile", model=ours, optimizer=optimizer, batches=rows, backend="eager")["losses"]
    expected = []
    for batch in rows:
        loss = plain(**batch).loss
        loss.backward()
        other.step()
        other.zero_grad()
        expected.append(loss.item())
    assert losses == expected and same_weights(ours, plain)


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
