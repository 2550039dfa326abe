"""Adam and GaLore with 8-bit moments, against bitsandbytes' own optimizer on the same gradients."""

import io
import sys

import bitsandbytes
import pytest
import torch

from optimizers import Adam, Adam8bit, GaLore, GaLore8bit

from .harness import gradient, largest_difference, parameters, train

LARGE = [(64, 96), (96, 64), (72, 72)]  # 8-bit as they are, and when projected to 48 rows or 60
STEPS = range(1, 8)


def any_shape(shape, step, index):
    return gradient((1, *shape)[-2:], step, index).reshape(shape)


def relative_distance(moved, expected, start):
    pairs = zip(moved, expected, start, strict=True)
    return max(((a - b).norm() / (b - c).norm()).item() for a, b, c in pairs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(64, 96), (5000,), (40, 30), (7,)])
def test_adam_8bit_is_bitsandbytes_own(shape, dtype):
    mine = torch.nn.Parameter(torch.linspace(-1, 1, torch.Size(shape).numel()).reshape(shape).to(dtype))
    twin = torch.nn.Parameter(mine.detach().clone())
    ours = Adam8bit([mine], lr=0.01, betas=(0.8, 0.99), eps=1e-7, weight_decay=0.1)
    theirs = bitsandbytes.optim.Adam8bit([twin], lr=0.01, betas=(0.8, 0.99), eps=1e-7, weight_decay=0.1)
    for step in STEPS:
        mine.grad = any_shape(shape, step, 0).to(dtype)
        twin.grad = mine.grad.clone()
        ours.step(), theirs.step()
    assert torch.equal(mine, twin)
    held, expected = ours.state[mine], theirs.state[twin]
    names = {
        "exp_avg": "state1",
        "exp_avg_sq": "state2",
        "exp_avg_absmax": "absmax1",
        "exp_avg_sq_absmax": "absmax2",
        "step": "step",
    }
    for key, value in held.items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(expected[names[key]])), key


def test_8bit_moments_follow_float32_ones():
    start = parameters(LARGE, torch.float32)
    galore = {"rank": 60, "update_interval": 3}
    for eight, full in (
        (Adam8bit(parameters(LARGE, torch.float32)), Adam(parameters(LARGE, torch.float32))),
        (GaLore8bit(parameters(LARGE, torch.float32), **galore), GaLore(parameters(LARGE, torch.float32), **galore)),
    ):
        distance = relative_distance(train(eight, STEPS), train(full, STEPS), start)
        assert 0 < distance < 0.05


def test_blocks_do_not_span_matrices_stepped_together():
    """60 x 70 projected moments do not fill their last block: the next matrix must not end up in it."""
    shapes, options = [(64, 70), (70, 64), (64, 70)], {"rank": 60, "update_interval": 3}
    together = GaLore8bit(parameters(shapes, torch.float32), **options)
    first = parameters(shapes, torch.float32)[:1]
    alone = train(GaLore8bit(first, **options), STEPS)
    moved = train(together, STEPS)
    assert largest_difference(moved[:1], alone) < 1e-3 * largest_difference(alone, parameters(shapes)[:1])


@pytest.mark.parametrize("cls", [Adam8bit, GaLore8bit])
def test_state_takes_a_byte_an_element_from_4096_on(cls):
    options = {} if cls is Adam8bit else {"rank": 64}
    large, small = (torch.nn.Parameter(torch.empty(64, n, dtype=torch.bfloat16, device="meta")) for n in (65, 64 - 1))
    optimizer = cls([large, small], **options)
    optimizer.allocate_state()
    for key in ("exp_avg", "exp_avg_sq"):
        assert optimizer.state[large][key].dtype == torch.uint8
        assert optimizer.state[large][f"{key}_absmax"].shape == (17,)
        # Adam's small moments are float32, as bitsandbytes' own.
        assert optimizer.state[small][key].dtype == (torch.float32 if cls is Adam8bit else torch.bfloat16)
        assert f"{key}_absmax" not in optimizer.state[small]
    assert optimizer.state[large]["exp_avg"].shape == (64, 65)


@pytest.mark.parametrize("cls", [Adam8bit, GaLore8bit])
def test_8bit_state_resumes_bitwise(cls):
    options = {} if cls is Adam8bit else {"rank": 60, "update_interval": 3}
    weights = parameters(LARGE, torch.bfloat16)
    optimizer = cls(weights, **options)
    train(optimizer, range(1, 5))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    again = [torch.nn.Parameter(weight.detach().clone()) for weight in weights]
    resumed = cls(again, **options)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.state[again[0]]["exp_avg_sq"].dtype == torch.uint8
    assert largest_difference(train(optimizer, range(5, 9)), train(resumed, range(5, 9))) == 0


@pytest.mark.parametrize("cls", [Adam8bit, GaLore8bit])
def test_blocks_of_zeros_stay_finite(cls):
    weight = parameters([(64, 96)], torch.float32)[0]
    optimizer = cls([weight], **({} if cls is Adam8bit else {"rank": 64}))
    for step in range(1, 5):
        weight.grad = gradient((64, 96), step, 0, scale=float(step > 2)).float()
        weight.grad[8:] = 0
        optimizer.step()
    assert weight.isfinite().all()
    assert (weight[:8] != parameters([(64, 96)], torch.float32)[0][:8]).all()


def test_adam_8bit_takes_float64_and_transposed_parameters():
    """bitsandbytes takes neither: it would round float64 to float32 at each step, and ignore strides."""
    plain, wide = parameters(LARGE[:1], torch.float32)[0], parameters(LARGE[:1])[0]
    turned = torch.nn.Parameter(plain.detach().T.contiguous().T)
    assert not turned.is_contiguous()
    options = {"lr": 0.01, "weight_decay": 0.1}
    expected = train(Adam8bit([plain], **options), STEPS)
    assert largest_difference(train(Adam8bit([wide], **options), STEPS), expected) < 1e-5
    assert largest_difference(train(Adam8bit([turned], **options), STEPS), expected) < 1e-5
    still = parameters(LARGE[:1])
    assert largest_difference(train(Adam8bit(still, lr=0.0), STEPS), parameters(LARGE[:1])) == 0


@pytest.mark.parametrize("cls", [Adam8bit, GaLore8bit])
def test_missing_bitsandbytes_is_said_when_the_optimizer_is_made(cls, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ImportError, match="pip install bitsandbytes"):
        cls(parameters([(8, 16)]))


@pytest.mark.parametrize("cls", [Adam8bit, GaLore8bit])
def test_weights_do_not_decay_unless_asked_to(cls):
    """galore-torch's 8-bit class decays weights by 1e-2 by default."""
    weight = parameters([(8, 16)])[0]
    before = weight.detach().clone()
    optimizer = cls([weight])
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert torch.equal(weight, before)
