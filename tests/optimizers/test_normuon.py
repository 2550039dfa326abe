"""NorMuon, against pytorch_optimizer's port of the official code."""

import pytest
import pytorch_optimizer
import torch

from optimizers import Muon, NorMuon, Octave
from optimizers.functional.newton_schulz import newton_schulz

from .harness import SHAPES, gradient, largest_difference, options_of, parameters, reference, train

STEPS = range(1, 9)
# Names of the sizes here and there.
SCALES = {"original": "preserve_norm", "match_rms": "match_rms"}


def ports(adjust_lr, nesterov, weight_decay, beta2):
    weights = parameters(dtype=torch.float32)
    groups = [{"params": weights, "use_muon": True, "lr": 0.02, "weight_decay": weight_decay, "nesterov": nesterov}]
    groups[0]["beta2"] = beta2
    optimizer = pytorch_optimizer.NorMuon(groups, update_scale=SCALES[adjust_lr])
    return train(optimizer, STEPS)


@pytest.mark.parametrize("adjust_lr", SCALES)
@pytest.mark.parametrize(
    ("nesterov", "weight_decay", "beta2"),
    [(True, 0.0, 0.95), (True, 0.5, 0.95), (False, 0.0, 0.95), (False, 0.5, 0.95), (True, 0.0, 0.5)],
)
def test_follows_the_port_of_the_official_code(adjust_lr, nesterov, weight_decay, beta2):
    """The port iterates in bfloat16, as the official code does, and so do we here."""
    weights, starts = parameters(dtype=torch.float32), parameters(dtype=torch.float32)
    options = {"adjust_lr": adjust_lr, "nesterov": nesterov, "weight_decay": weight_decay, "beta2": beta2}
    options["ns_dtype"] = "bfloat16"
    ours = train(NorMuon(weights, lr=0.02, **options), STEPS)
    for one, other, start in zip(ours, ports(adjust_lr, nesterov, weight_decay, beta2), starts, strict=True):
        assert (one - other).norm() < 2e-2 * (other - start).norm()


@pytest.mark.parametrize("changes", [{"adjust_lr": "original"}, {"adjust_lr": "spectral"}, {"nesterov": False}])
def test_equals_its_plain_form(changes):
    options = options_of("normuon", **changes)
    expected = reference(NorMuon, parameters(), options, STEPS, lr=0.02)
    assert largest_difference(train(NorMuon(parameters(), lr=0.02, **options), STEPS), expected) < 1e-9


def test_updates_have_rms_0_2_and_rows_of_one_size_at_first():
    for shape in SHAPES:
        weight = torch.nn.Parameter(torch.zeros(shape, dtype=torch.float64))
        weight.grad = gradient(shape, 1, 0)
        NorMuon([weight], lr=1.0).step()
        assert torch.allclose(weight.square().mean(1).sqrt(), torch.tensor(0.2, dtype=torch.float64))


@pytest.mark.parametrize("cls", [NorMuon, Octave])
@pytest.mark.parametrize(("beta2", "factors"), [(0.95, (0.045125, 0.0475, 0.05)), (0.5, (0.125, 0.25, 0.5))])
def test_rows_are_averaged_over_steps_by_beta2(cls, beta2, factors, monkeypatch):
    """The mean over three steps, of the matrices that the iteration gave."""
    iterated = []

    def watched(*arguments, original=newton_schulz):
        iterated.append(original(*arguments))
        return iterated[-1]

    monkeypatch.setattr("optimizers.normuon.newton_schulz", watched)
    (weight,) = weights = parameters([(16, 24)])
    optimizer = cls(weights, beta2=beta2)
    train(optimizer, range(1, 4))
    expected = sum(factor * each[0].square().mean(1) for factor, each in zip(factors, iterated, strict=True))
    torch.testing.assert_close(optimizer.state[weight]["exp_avg_sq"], expected)


def test_the_update_of_a_tall_matrix_is_not_that_of_its_transpose():
    """Rows are output units whatever the shape: only Muon does not see the difference."""
    tall = torch.nn.Parameter(torch.zeros(24, 8, dtype=torch.float64))
    wide = torch.nn.Parameter(torch.zeros(8, 24, dtype=torch.float64))
    differences = []
    for cls in (Muon, NorMuon):
        for weight in (tall, wide):
            weight.data.zero_()
            weight.grad = gradient((24, 8), 1, 0) if weight is tall else gradient((24, 8), 1, 0).T.contiguous()
            cls([weight], lr=1.0).step()
        differences.append((tall - wide.T).norm() / tall.norm())
    assert differences[0] < 1e-12 and differences[1] > 0.1


@pytest.mark.parametrize("scale", [1e-12, 1e6])
def test_does_not_depend_on_the_gradients_scale(scale):
    plain = train(NorMuon(parameters(dtype=torch.float32)), STEPS)
    assert largest_difference(plain, train(NorMuon(parameters(dtype=torch.float32)), STEPS, scale=scale)) < 1e-5


def test_zero_rows_and_zero_gradients_move_nothing():
    weight = parameters([(16, 24)], dtype=torch.float32)[0]
    start = weight.detach().clone()
    optimizer = NorMuon([weight], lr=0.1)
    for step in range(4):
        weight.grad = gradient((16, 24), step, 0).float() if step else torch.zeros(16, 24)
        weight.grad[3] = 0
        optimizer.step()
        if step == 0:
            assert torch.equal(weight, start)
    assert torch.equal(weight[3], start[3])
    assert not torch.equal(weight[2], start[2]) and weight.isfinite().all()


def test_second_moments_of_bfloat16_weights_are_float32():
    optimizer = NorMuon(parameters(dtype=torch.bfloat16))
    optimizer.allocate_state()
    for weight, state in optimizer.state.items():
        assert state["exp_avg"].dtype == torch.bfloat16
        assert state["exp_avg_sq"].dtype == torch.float32 and state["exp_avg_sq"].shape == weight.shape[:1]


def test_small_rows_are_scaled_beyond_the_range_of_float16(monkeypatch):
    """A GPU iterates in float16, where a row of 1e-5 would need a scale above its largest number."""
    monkeypatch.setattr("optimizers.normuon.iteration_dtype", lambda *_: torch.float16)
    weight = torch.nn.Parameter(torch.zeros(64, 8))
    weight.grad = gradient((64, 8), 1, 0).float()
    weight.grad[3] *= 1e-5
    NorMuon([weight], lr=1.0).step()
    assert weight.isfinite().all() and weight[3].square().mean().sqrt() > 0.1
