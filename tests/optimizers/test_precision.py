"""The precision of products: a step's own, whatever the program has chosen."""

import pytest
import torch

from optimizers import Adam, Muon

MATMUL = torch.backends.cuda.matmul


@pytest.fixture(params=["high", "highest"])
def chosen(request):
    """What a program has chosen for its model."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield request.param
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("layerwise", [False, True])
def test_steps_multiply_in_float32_and_leave_the_choice_alone(chosen, monkeypatch, layerwise):
    seen = []

    def watch(original):
        def watched(self, *rest):  # the getters raise if the two ways of choosing disagree
            seen.append((MATMUL.fp32_precision, torch.get_float32_matmul_precision(), MATMUL.allow_tf32))
            return original(self, *rest)

        return watched

    monkeypatch.setattr(Muon, "step_group", watch(Muon.step_group))
    monkeypatch.setattr(Muon, "step_adam", watch(Muon.step_adam))
    weights = [torch.nn.Parameter(torch.ones(4, 6)) for _ in range(2)]
    optimizer = Muon([{"params": weights[:1]}, {"params": weights[1:], "algorithm": "adam"}])
    for weight in weights:
        weight.grad = torch.ones_like(weight)
        if layerwise:
            optimizer.step_parameter(weight)
    if not layerwise:
        optimizer.step()
    assert seen == [("ieee", "highest", False)] * 2
    assert torch.get_float32_matmul_precision() == chosen and MATMUL.allow_tf32 == (chosen == "high")


def test_a_choice_by_the_newer_switch_alone_is_kept(chosen):
    """torch then refuses to read the older one, which a step must not take for an error."""
    before = MATMUL.fp32_precision
    MATMUL.fp32_precision = {"ieee": "tf32", "tf32": "ieee"}[before]
    try:
        weight = torch.nn.Parameter(torch.ones(3))
        weight.grad = torch.ones(3)
        Adam([weight]).step()
        assert {MATMUL.fp32_precision, before} == {"ieee", "tf32"}
    finally:
        MATMUL.fp32_precision = before


def test_a_choice_for_all_of_torch_stays_one():
    """What followed torch's general switch before a step follows it afterwards."""
    general, held = torch.backends.fp32_precision, [MATMUL.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision]
    try:
        MATMUL.fp32_precision = torch.backends.mkldnn.matmul.fp32_precision = "none"
        torch.backends.fp32_precision = "tf32"
        weight = torch.nn.Parameter(torch.ones(3))
        weight.grad = torch.ones(3)
        Adam([weight]).step()
        for chosen in ("tf32", "ieee"):
            torch.backends.fp32_precision = chosen
            assert MATMUL.fp32_precision == torch.backends.mkldnn.matmul.fp32_precision == chosen
    finally:
        torch.backends.fp32_precision = general
        MATMUL.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision = held


def test_the_choice_is_restored_after_an_error(chosen, monkeypatch):
    before = MATMUL.fp32_precision
    monkeypatch.setattr(Adam, "step_group", lambda *_: 1 / 0)
    weight = torch.nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    with pytest.raises(ZeroDivisionError):
        Adam([weight]).step()
    assert MATMUL.fp32_precision == before
