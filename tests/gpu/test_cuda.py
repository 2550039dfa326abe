"""What every registered optimizer must do on a CUDA device. New ones are found in the registry by themselves."""

import io

import pytest
import torch
from torch import Tensor

import train
from optimizers import registry
from tests import tiny
from tests.optimizers.harness import (
    assert_follows_in_bfloat16,
    gradient,
    largest_difference,
    options_of,
    parameters,
    reference,
)
from tests.optimizers.test_contract import LR, make, tolerance

DEVICE = torch.device("cuda")

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
every_optimizer = pytest.mark.parametrize("name", registry.names())


@pytest.fixture
def deterministic(monkeypatch):
    """Kernels that give the same bits each time, for the test alone."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def on_device(weights: list[Tensor]) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(weight.detach().to(DEVICE, copy=True)) for weight in weights]


def step(optimizer, weights: list[torch.nn.Parameter], steps: range) -> list[Tensor]:
    """Step through `steps` on gradient(); returns copies of the weights on the CPU."""
    for number in steps:
        for index, weight in enumerate(weights):
            weight.grad = gradient(tuple(weight.shape), number, index).to(weight)
        optimizer.step()
    return [weight.detach().cpu().clone() for weight in weights]


@every_optimizer
def test_equals_its_plain_form_in_float64(name):
    """The plain form runs on the CPU: random draws are the same on every device."""
    weights = on_device(parameters())
    optimizer = make(name, weights)
    expected = reference(type(optimizer), parameters(), options_of(name), range(1, 10), LR)
    moved = step(optimizer, weights, range(1, 10))
    assert largest_difference(moved, expected) <= tolerance(name)
    assert all(not torch.equal(after, before) for after, before in zip(moved, parameters(), strict=True))


@every_optimizer
def test_states_in_8_bits_are_those_of_the_cpu(name):
    """Moments of 60 x 70. A basis of another solver may have other signs, in which the map is not symmetric, and a
    number at a boundary may become the other byte. The noise of a slow average is drawn on the device. Both are per
    cents of an update, 6 of Lion's."""
    known = options_of(name)
    options = {"rank": 60} if known.get("rank", 1) != 1 else {}
    options |= {"ns_dtype": "float32"} if "ns_dtype" in known else {}
    start = parameters([(64, 70), (70, 64), (64, 128), (64, 128)], torch.float32)
    weights = on_device(start)
    moved = step(make(name, weights, state_bits=8, **options), weights, range(1, 6))
    alone = [torch.nn.Parameter(weight.detach().clone()) for weight in start]
    expected = step(make(name, alone, state_bits=8, **options), alone, range(1, 6))
    for after, plain, before in zip(moved, expected, start, strict=True):
        assert (after - plain).norm() < 0.1 * (plain - before).norm()


@every_optimizer
def test_float32_follows_float64(name):
    """Iterations that a GPU would run in bfloat16 are kept in float32 here."""
    changes = {"ns_dtype": "float32"} if "ns_dtype" in options_of(name) else {}
    start = parameters(dtype=torch.float32)
    weights = on_device(start)
    optimizer = make(name, weights, **changes)
    expected = reference(type(optimizer), start, options_of(name, **changes), range(1, 10), LR)
    moved = step(optimizer, weights, range(1, 10))
    assert largest_difference(moved, expected) <= max(5e-4, tolerance(name))


@every_optimizer
def test_bfloat16_parameters_stay_close_and_finite(name):
    start = parameters(dtype=torch.bfloat16, scale=0.02)
    weights = on_device(start)
    optimizer = make(name, weights)
    expected = reference(type(optimizer), start, options_of(name), range(1, 10), LR)
    moved = step(optimizer, weights, range(1, 10))
    assert all(weight.dtype == torch.bfloat16 and weight.isfinite().all() for weight in moved)
    assert_follows_in_bfloat16(name, moved, expected, start)


@every_optimizer
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_resumes_bitwise(name, dtype, deterministic):
    weights = on_device(parameters(dtype=dtype))
    optimizer = make(name, weights)
    step(optimizer, weights, range(1, 6))
    file = io.BytesIO()
    torch.save({"weights": weights, "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True, map_location="cpu")

    again = on_device(saved["weights"])
    resumed = make(name, again)
    resumed.load_state_dict(saved["optimizer"])
    assert largest_difference(step(optimizer, weights, range(6, 11)), step(resumed, again, range(6, 11))) == 0


@every_optimizer
def test_steps_without_refresh_never_wait_for_the_device(name):
    """A step enqueues its work: nothing in it reads a number back to the CPU."""
    changes = {"update_interval": 1000} if "update_interval" in options_of(name) else {}
    weights = on_device(parameters(dtype=torch.float32))
    optimizer = make(name, weights, **changes)
    step(optimizer, weights, range(1, 4))  # bases, and whatever is made once
    before = [weight.detach().clone() for weight in weights]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(not torch.equal(weight, old) for weight, old in zip(weights, before, strict=True))


@every_optimizer
def test_zero_rows_and_columns_give_finite_updates(name):
    weights = on_device(parameters(dtype=torch.float32))
    optimizer = make(name, weights)
    for number in range(1, 6):
        for index, weight in enumerate(weights):
            weight.grad = gradient(tuple(weight.shape), number, index).to(weight)
            weight.grad[3] = 0
            weight.grad[:, 2] = 0
        optimizer.step()
    assert all(weight.isfinite().all() for weight in weights)


@pytest.mark.parametrize("optimizer", ["adam", "racs", "alice"])
def test_a_run_resumes_to_the_same_bits(optimizer, text, tmp_path, monkeypatch):
    """With run.deterministic, as docs/data-order.md promises for CUDA."""
    settings = (f"optimizer={optimizer}", "run.deterministic=true", "train.steps=4", "train.checkpoint_every=2")
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert train.main(tiny.command(text, whole, *settings)) == 0
    with monkeypatch.context() as patch:
        patch.setattr("training.loop.Trainer._update", tiny.unplugged_after(2))
        assert train.main(tiny.command(text, resumed, *settings)) == 1
    assert train.main(tiny.command(text, resumed, *settings)) == 0
    assert tiny.weights(resumed) == tiny.weights(whole)
    assert tiny.metrics(resumed) == tiny.metrics(whole)
