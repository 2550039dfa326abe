"""analysis/fisher/structures.py against the dense algebra it avoids, and against the optimizers it speaks of."""

import pytest
import torch

from analysis.fisher import structures
from analysis.fisher.structures import Fisher
from optimizers import RACS, Alice, EigenAdam, registry

from .samples import dense_fisher, power_of, sampled_gradients, unvec, vec

FORMS = {
    "adam": structures.adam,
    "normalization": structures.normalization,
    "whitening": structures.whitening,
    "racs": structures.racs,
    "shampoo": structures.shampoo,
    "kronecker": structures.kronecker,
    "eigen_adam": structures.eigen_adam,
    "soap": structures.soap,
    "full_blocks": structures.full_blocks,
    "galore": lambda fisher: structures.galore(fisher, 2),
    "alice": lambda fisher: structures.alice(fisher, 3),
    "alice_switched": lambda fisher: structures.alice_switched(fisher, 3, 1, torch.Generator().manual_seed(5)),
}


@pytest.mark.parametrize("shape", [(4, 6), (5, 5)], ids=str)
@pytest.mark.parametrize("name", FORMS)
def test_implicit_error_is_the_dense_one(name, shape):
    """||F - A|| / ||F|| without F or A: fewer samples than F has rows, more, and A fitted to other samples than F's."""
    few, many, other = (
        sampled_gradients(3, *shape, 12),
        sampled_gradients(3, *shape, 80),
        sampled_gradients(4, *shape),
    )
    for fitted, measured in ((few, few), (many, many), (other, many)):
        F, A = dense_fisher(measured), FORMS[name](Fisher(fitted))
        relative = ((F - A.dense()).norm() / F.norm()).item()
        assert Fisher(measured).error(A) == pytest.approx(relative, rel=1e-10)


def root_step(structure, gradient):
    """Square-root natural gradient, Eq. (1): Mat(A^(-1/2) vec(G))."""
    return unvec(power_of(structure.dense(), -0.5) @ vec(gradient), *gradient.shape)


def first_update(optimizer, weight, gradient):
    before = weight.detach().clone()
    weight.grad = gradient.clone()
    optimizer.step()
    return before - weight.detach()


def test_racs_steps_along_its_structure():
    """Section 4: without averages, RACS's update is Mat(A^(-1/2) g) for S (x) Q of the one gradient it sees."""
    gradient = sampled_gradients(0)[0]
    weight = torch.nn.Parameter(torch.zeros_like(gradient))
    update = first_update(RACS([weight], lr=1.0, alpha=1.0, ema=False), weight, gradient)
    torch.testing.assert_close(update, root_step(structures.racs(Fisher(gradient[None])), gradient))


@pytest.mark.parametrize("rank", [1, 3, 4])
def test_alice_steps_along_its_structure(rank):
    """Eqs. (19) and (20): without averages, Alice's U omega + C is Mat(A^(-1/2) g) for its structure of that gradient.

    At the first step the limiter does nothing and the basis is all leading eigenvectors (switching="none").
    """
    gradient = sampled_gradients(0)[0]
    weight = torch.nn.Parameter(torch.zeros_like(gradient))
    options = {"alpha": 1.0, "alpha_c": 1.0, "betas": (0.0, 0.0, 0.0), "switching": "none"}
    update = first_update(Alice([weight], lr=1.0, rank=rank, leading=rank, **options), weight, gradient)
    torch.testing.assert_close(update, root_step(structures.alice(Fisher(gradient[None]), rank), gradient))


def test_whitening_and_normalization_steps():
    """Section 3.3: Mat(A^(-1/2) g) is sqrt(n) E[G G^T]^(-1/2) G for Eq. (7), and G S^(-1/2) for Eq. (8).

    The paper prints sqrt(m) G S^(-1/2): its S already carries the 1 / m, which then counts twice.
    """
    gradients = sampled_gradients(0)
    fisher, gradient = Fisher(gradients), gradients[0]
    whitened = 6**0.5 * power_of((gradients @ gradients.mT).mean(0), -0.5) @ gradient
    torch.testing.assert_close(root_step(structures.whitening(fisher), gradient), whitened)
    S = gradients.square().sum(1).mean(0) / 4
    torch.testing.assert_close(root_step(structures.normalization(fisher), gradient), gradient / S.sqrt())


def test_eigen_adam_steps_along_its_structure():
    """Eq. (12), without averages."""
    gradient = sampled_gradients(0)[0]
    weight = torch.nn.Parameter(torch.zeros_like(gradient))
    update = first_update(EigenAdam([weight], lr=1.0, betas=(0.0, 0.0, 0.0), eps=1e-15), weight, gradient)
    torch.testing.assert_close(update, root_step(structures.eigen_adam(Fisher(gradient[None])), gradient))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("adam", {}),
        ("racs", {}),
        ("shampoo", {}),
        ("eigen_adam", {}),
        ("soap", {}),
        ("galore", {"rank": 2}),
        ("alice", {"rank": 3, "leading": 1}),
    ],
)
def test_counts_are_what_the_optimizers_hold(name, options):
    """`numbers` is an optimizer's state without its first moment, its limiter's scalar and its count of steps."""
    weight = torch.nn.Parameter(torch.zeros(4, 6))
    optimizer = registry.get(name)[0]([weight], lr=0.1, **options)
    optimizer.allocate_state()
    held = {key: value.numel() for key, value in optimizer.state[weight].items() if torch.is_tensor(value)}
    for key in ("step", "phi", "exp_avg", "exp_avg"):
        held.pop(key, None)
    assert sum(held.values()) == FORMS[name](Fisher(sampled_gradients(0))).numbers
