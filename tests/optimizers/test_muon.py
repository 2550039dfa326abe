"""Muon, against torch.optim.Muon."""

import pytest
import torch

from optimizers import Muon

from .harness import SHAPES, gradient, largest_difference, options_of, parameters, reference, train

STEPS = range(1, 7)


def torch_muon(weights, **options):
    return train(torch.optim.Muon(weights, lr=0.02, **options), STEPS)


def moved(weights):
    """The sum of all updates of each matrix, by its size."""
    starts = parameters(dtype=weights[0].dtype)
    return [weight - start for weight, start in zip(weights, starts, strict=True)]


def relative_difference(a, b):
    return max(((x - y).norm() / y.norm()).item() for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("adjust_lr_fn", ["match_rms_adamw", "original"])
@pytest.mark.parametrize(("ns_dtype", "tolerance"), [("bfloat16", 5e-3), ("auto", 3e-2)])
def test_follows_torch(adjust_lr_fn, nesterov, ns_dtype, tolerance):
    """Its own precision to its last bits, float32 to bfloat16's accuracy; decay comes first, by the plain rate."""
    options = {"adjust_lr_fn": adjust_lr_fn, "nesterov": nesterov, "weight_decay": 0.5}
    ours = train(Muon(parameters(dtype=torch.float32), lr=0.02, ns_dtype=ns_dtype, **options), STEPS)
    theirs = torch_muon(parameters(dtype=torch.float32), **options)
    assert relative_difference(moved(ours), moved(theirs)) < tolerance


@pytest.mark.parametrize("changes", [{"adjust_lr_fn": "original", "weight_decay": 0.5}, {"nesterov": False}])
def test_equals_its_plain_form(changes):
    weights, options = parameters(), options_of("muon", **changes)
    expected = reference(Muon, weights, options, STEPS, lr=0.02)
    assert largest_difference(train(Muon(weights, lr=0.02, **options), STEPS), expected) < 1e-9


def test_defaults_are_torchs_except_decay_and_update_size():
    ours, theirs = (cls(parameters()).defaults for cls in (Muon, torch.optim.Muon))
    changed = {key for key in theirs if ours[key] != theirs[key]}
    assert changed == {"weight_decay", "adjust_lr_fn"}
    assert ours["weight_decay"] == 0.0
    assert ours["adjust_lr_fn"] == "match_rms_adamw"


def test_singular_values_near_one_and_updates_as_large_as_adams():
    for shape in SHAPES:
        weight = torch.nn.Parameter(torch.zeros(shape))
        weight.grad = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        Muon([weight], lr=1.0).step()
        values = torch.linalg.svdvals(weight) / (0.2 * max(shape) ** 0.5)
        assert values.min() > 0.5 and values.max() < 1.3
        assert 0.1 < weight.square().mean().sqrt() < 0.25


def test_float64_parameters_are_iterated_in_float64_for_any_ns_dtype():
    weights = parameters()
    plain = train(Muon(weights), STEPS)
    assert largest_difference(plain, train(Muon(parameters(), ns_dtype="bfloat16"), STEPS)) == 0


def test_bad_options_are_refused_by_name():
    for option, bad in {"ns_dtype": "half", "adjust_lr_fn": "none", "ns_steps": 0, "momentum": 1.0}.items():
        with pytest.raises(ValueError, match=f"^{option}"):
            Muon(parameters(), **{option: bad})
    with pytest.raises(ValueError, match=r"^ns_coefficients must be 3 numbers"):
        Muon(parameters(), ns_coefficients=(1.5, -0.5))


def test_gradient_is_left_as_it_was():
    """Keller Jordan's own step writes the Nesterov average over it."""
    weight = parameters([(16, 24)], torch.float32)[0]
    weight.grad = gradient((16, 24), 1, 0).float()
    before = weight.grad.clone()
    Muon([weight]).step()
    assert torch.equal(weight.grad, before)
