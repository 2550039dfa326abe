"""The arithmetic of checks that need numbers, on a CPU."""

import math

import pytest
import torch

from benchmarks.acceptance import allocator, bases, contract, device, model_products, whole_runs
from benchmarks.acceptance.environment import environment
from benchmarks.acceptance.feeding import of_source
from benchmarks.acceptance.items import Setup
from benchmarks.acceptance.step_times import Rates, roofline
from optimizers import registry
from tests.phantom.count import Kernel

CPU = Setup(torch.device("cpu"))


def measured(items):
    return [line for item in items for line in item.measure()]


@pytest.mark.parametrize("name", registry.names())
def test_the_contract_holds_on_a_cpu(name):
    lines = list(contract._one(name, CPU.device))
    assert [line.passed for line in lines] == [True, True] and 0 < lines[0].value < 1
    assert "resumed" in lines[1].name


def test_a_wrong_step_breaks_the_contract(monkeypatch):
    real = contract.reference
    monkeypatch.setattr(contract, "reference", lambda *given: real(*given[:-1], 2 * given[-1]))
    error, resumed = contract._one("racs", CPU.device)
    assert error.passed is False and error.value > 100 and resumed.passed


def test_a_resume_with_other_bits_breaks_it(monkeypatch):
    steps = contract._step
    monkeypatch.setattr(contract, "_step", lambda *given: [weight + 1e-9 * torch.rand(()) for weight in steps(*given)])
    assert contract._resumed("adam", CPU.device, contract._options("adam"))[1] is False


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bases_are_orthonormal_and_their_residual_right(dtype):
    torch.manual_seed(0)
    lines = bases.of_matrix((48, 96), 12, dtype, CPU.device)
    assert [line.passed for line in lines] == [True, True]


def test_a_basis_that_is_not_orthonormal_and_a_wrong_residual_are_seen():
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(48, 12)).Q
    assert bases.off_orthonormal(basis) < 1e-6
    assert bases.off_orthonormal(basis * 1.001) == pytest.approx(2e-3, rel=0.01)
    gradient = bases.spectrum(48, 96, CPU.device)
    assert torch.allclose(torch.linalg.svdvals(gradient), torch.arange(1, 49) ** -0.5, atol=1e-5)
    assert bases.power_error(basis, gradient) < 1e-5 < 1e-3 < bases.power_error(basis * 1.01, gradient)


@pytest.mark.parametrize("autocast", [False, True])
def test_the_loss_is_held_against_float64(autocast, monkeypatch):
    lines = list(model_products.of_loss(CPU, 256, 32, 200, autocast=autocast))
    assert [line.passed for line in lines] == [True, True, True, None]
    assert all(line.value > 0 for line in lines)
    real = model_products.summed_cross_entropy
    monkeypatch.setattr(model_products, "summed_cross_entropy", lambda *arguments: real(*arguments) * 1.01)
    assert [line.passed for line in model_products.of_loss(CPU, 256, 32, 200, autocast=autocast)][:3] == [False] * 3


def test_a_machine_says_what_it_is():
    lines = {line.name: line for line in measured(environment(CPU))}
    assert lines["torch"].value == torch.__version__ and lines["float32 product, error"].passed


def test_products_of_odd_widths_run_and_are_named():
    lines = model_products.of_mlp(CPU, 16, 24, 13) + model_products.of_iterations(CPU, 8, 13)
    assert [line.name for line in lines] == [
        "[24, 13] padded over an even width",
        "[24, 13] as it is, over an even width",
        "Newton-Schulz of [8, 13] over an even width",
    ]
    assert all(line.value > 0 and line.passed is None for line in lines)


def test_memory_is_judged_by_the_plan():
    good = allocator.judged("60m", planned=100, full=90, fragments=1.1, retries=0)
    assert [line.passed for line in good] == [None, True, True, True]
    bad = allocator.judged("60m", planned=100, full=120, fragments=1.25, retries=1)
    assert [line.passed for line in bad] == [None, False, False, False]


def test_kernels_that_overlap_are_counted_once():
    seen = device.covered([(0.0, 1.0), (0.5, 2.0), (3.0, 4.0), (3.2, 3.5)])
    assert (seen.launches, seen.busy, seen.span) == (4, 3.0, 4.0)
    assert seen.idle == pytest.approx(0.25)


def test_a_kernel_takes_the_longest_of_its_parts():
    def kernel(launches, moved, flops, dtype):
        return Kernel("mm", launches, moved, flops, None, dtype, (1,))

    card = Rates(1e12, {torch.float32: 1e13, torch.bfloat16: 1e14})
    kernels = [
        kernel(1, 10**9, 10**6, torch.float32),
        kernel(1, 10**3, 10**12, torch.float32),
        kernel(1, 10**3, 10**12, torch.bfloat16),
        kernel(4, 10**3, 10**3, torch.int64),
    ]
    assert roofline(kernels, card) == pytest.approx(1e-3 + 0.1 + 0.01 + 4 * 2.5e-6)


@pytest.mark.parametrize("padded", [False, True])
def test_rows_have_the_lengths_of_c4(padded):
    ids, labels = device.rows_of_text(512, padded=padded)
    share = (labels[:, 1:] != -100).sum().item() / ids.numel()
    assert share == pytest.approx(0.75 if padded else 255 / 256, abs=0.04)
    assert not (labels == -100)[:, 0].any()


@pytest.mark.slow
@pytest.mark.parametrize("prepared", [False, True])
def test_text_is_fed_to_a_model(prepared, tmp_path, monkeypatch):
    monkeypatch.setitem(device.SIZES, "60m", device.Size("llama_nano", 8, 4))
    lines = list(of_source(tmp_path, prepared, CPU, 8, 2))
    assert len(lines) == 3 and lines[0].value > 0 and 0 <= lines[1].value < 1 and not math.isnan(lines[2].value)


@pytest.mark.slow
def test_whole_runs_resume_and_end():
    lines = measured(whole_runs.runs(CPU))
    assert [line.passed for line in lines if line.passed is not None] == [True] * 7, lines
    assert lines[3].name == "layerwise, peak memory over plain" and lines[3].passed is None


def test_a_resume_that_differs_is_seen(tmp_path, monkeypatch):
    found = iter([[1.0] * 6, [1.0] * 5 + [2.0]])
    monkeypatch.setattr(whole_runs, "run", lambda *_: 0)
    monkeypatch.setattr(whole_runs, "undo", lambda *_, **__: None)
    monkeypatch.setattr(whole_runs, "losses", lambda _: next(found))
    assert whole_runs._resume(tmp_path, "llama_nano").passed is False
