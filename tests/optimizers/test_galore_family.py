"""GaLore and what descends from it, against the official packages and the papers' formulas.

A package takes its basis from LAPACK, whose signs are arbitrary and matter once a basis is renewed. So each
package's projector is handed our basis, after it was held to be the package's own up to the columns' signs.
"""

import pytest
import torch
from galore_torch.adamw import AdamW as GaLorePackage
from galore_torch.galore_projector import GaLoreProjector

from optimizers import GaLore, registry

from .harness import gradient, parameters, train

SHAPES = [(16, 24), (24, 16), (16, 16)]
SHARED = {"rank": 6, "update_interval": 4}
STEPS = range(1, 11)  # refreshes at 1, 5 and 9


def oriented(matrix):
    """GaLore's sides: a tall or square matrix is projected from the right, which is the left of its transpose."""
    return matrix.T if matrix.shape[0] >= matrix.shape[1] else matrix


def given_our_basis(projector_class, ours, parameter, check=True):
    """A package's projector class that takes the basis `ours` holds for `parameter`."""

    class Projector(projector_class):
        def get_orthogonal_matrix(self, weights, rank, type):
            basis = ours.state[parameter]["basis"].clone()
            if check:
                own = super().get_orthogonal_matrix(weights, rank, type)
                own = own.T if type == "right" else own
                cosines = (own * basis).sum(0).abs()
                assert torch.allclose(cosines, torch.ones_like(cosines), atol=1e-4)
            return basis.T if type == "right" else basis

    return Projector


def distance_from_package(ours, package, projector_class, settings, check=True):
    """Largest difference of weights after STEPS of `ours` and of the package, on the same float32 gradients."""
    mine = ours.param_groups[0]["params"]
    twins = [torch.nn.Parameter(p.detach().clone()) for p in mine]
    group = {"params": twins, "rank": SHARED["rank"], "update_proj_gap": SHARED["update_interval"], **settings}
    theirs = package([{**group, "proj_type": "std"}], lr=0.01, weight_decay=0.1, no_deprecation_warning=True)
    for parameter, twin in zip(mine, twins, strict=True):
        projector = given_our_basis(projector_class, ours, parameter, check)
        strength = settings.get("alpha", settings.get("scale"))
        theirs.state[twin] = {
            "step": 0,
            "projector": projector(SHARED["rank"], False, SHARED["update_interval"], strength),
        }
    for step in STEPS:
        for index, (parameter, twin) in enumerate(zip(mine, twins, strict=True)):
            parameter.grad = gradient(tuple(parameter.shape), step, index).float()
            twin.grad = parameter.grad.clone()
        ours.step(), theirs.step()
    return max((a - b).abs().max().item() for a, b in zip(mine, twins, strict=True))


def moves(optimizer, steps, scale=1.0):
    """What each of `steps` adds to the optimizer's first parameter."""
    weight = optimizer.param_groups[0]["params"][0]
    changes = []
    for step in steps:
        before = weight.detach().clone()
        train(optimizer, range(step, step + 1), scale)
        changes.append(weight.detach() - before)
    return changes


# ---- GaLore


def test_galore_is_the_official_package():
    ours = GaLore(parameters(SHAPES, torch.float32), lr=0.01, scale=0.25, weight_decay=0.1, **SHARED)
    assert distance_from_package(ours, GaLorePackage, GaLoreProjector, {"scale": 0.25}) < 1e-5


@pytest.mark.parametrize("name", ["galore"])
def test_basis_is_renewed_at_1_and_each_interval_later(name):
    """t = 1, K + 1, 2 K + 1, ... as the packages do; not t = K, 2 K, ... as others read them."""
    weights = parameters(SHAPES)
    optimizer = registry.get(name)[0](weights, **{**registry.get(name)[1], **SHARED})
    changed, old = [], None
    for step in STEPS:
        train(optimizer, range(step, step + 1))
        basis = optimizer.state[weights[0]]["basis"].clone()
        changed += [] if old is not None and torch.equal(basis, old) else [step]
        old = basis
    assert changed == [1, 5, 9]


@pytest.mark.parametrize("name", ["galore"])
def test_basis_holds_leading_singular_vectors_signed_like_the_old_ones(name):
    weights = parameters(SHAPES)
    optimizer = registry.get(name)[0](weights, **{**registry.get(name)[1], **SHARED})
    train(optimizer, range(1, 5))
    old = [optimizer.state[weight]["basis"].clone() for weight in weights]
    train(optimizer, range(5, 6))
    for index, (weight, before) in enumerate(zip(weights, old, strict=True)):
        basis = optimizer.state[weight]["basis"]
        assert torch.allclose(basis.T @ basis, torch.eye(6, dtype=torch.float64), atol=1e-12)
        exact = torch.linalg.svd(oriented(gradient(tuple(weight.shape), 5, index))).U[:, :6]
        assert torch.allclose((exact * basis).sum(0).abs(), torch.ones(6, dtype=torch.float64))
        assert ((basis * before).sum(0) >= 0).all()


@pytest.mark.parametrize("name", ["galore"])
def test_no_weight_decay_and_a_step_of_1e_6_in_eps_unless_asked_for(name):
    """The packages' 8-bit classes decay weights by 1e-2 when nobody asked."""
    defaults = {key: parameter.default for key, parameter in registry.options(name).items()}
    assert defaults["weight_decay"] == 0.0
    assert defaults["eps"] == 1e-6


@pytest.mark.parametrize(
    ("name", "numbers"),
    [("galore", lambda m, n, r: 2 * r * n + m * r)],
)
def test_state_is_as_large_as_its_docstring_says(name, numbers):
    weight = torch.nn.Parameter(torch.empty(40, 16, device="meta"))
    optimizer = registry.get(name)[0]([weight], **{**registry.get(name)[1], **SHARED})
    optimizer.allocate_state()
    held = sum(value.numel() for value in optimizer.state[weight].values() if isinstance(value, torch.Tensor))
    assert held == numbers(16, 40, 6)
