"""GaLore and its descendants, against the official packages and the papers' formulas.

A package takes its basis from LAPACK, whose signs are arbitrary and matter once a basis is renewed. So each
package's projector is handed our basis, after it was held to be the package's own up to the columns' signs.
"""

import pytest
import torch
from fira.fira_adamw import AdamW as FiraPackage
from fira.gradient_projection import GradientProjector
from galore_torch.adamw import AdamW as GaLorePackage
from galore_torch.galore_projector import GaLoreProjector

from optimizers import Apollo, Fira, GaLore, NaturalGaLore, registry
from optimizers.engine.generators import generator

from .harness import gradient, options_of, parameters, train

pytestmark = pytest.mark.usefixtures("form")

SHAPES = [(16, 24), (24, 16), (16, 16)]
SHARED = {"rank": 6, "update_interval": 4}
STEPS = range(1, 11)  # refreshes at 1, 5 and 9
FROM_SVD = ["galore", "fira", "apollo_svd", "natural_galore"]
LIMITED = ["fira", "apollo", "apollo_mini", "apollo_svd"]
FAMILY = ["galore", "natural_galore", *LIMITED]


def small(name, weights, **options):
    cls, presets = registry.get(name)
    return cls(weights, **{**presets, **SHARED, **options})


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


@pytest.mark.parametrize("name", FAMILY)
def test_basis_is_renewed_at_1_and_each_interval_later(name):
    """t = 1, K + 1, 2 K + 1, ... as the packages do; not t = K, 2 K, ... as others read them."""
    weights = parameters(SHAPES)
    optimizer = small(name, weights)
    changed, old = [], None
    for step in STEPS:
        train(optimizer, range(step, step + 1))
        basis = optimizer.state[weights[0]]["basis"].clone()
        changed += [] if old is not None and torch.equal(basis, old) else [step]
        old = basis
    assert changed == [1, 5, 9]


@pytest.mark.parametrize("name", FROM_SVD)
def test_basis_has_leading_singular_vectors_with_the_old_signs(name):
    weights = parameters(SHAPES)
    optimizer = small(name, weights)
    train(optimizer, range(1, 5))
    old = [optimizer.state[weight]["basis"].clone() for weight in weights]
    train(optimizer, range(5, 6))
    for index, (weight, before) in enumerate(zip(weights, old, strict=True)):
        basis = optimizer.state[weight]["basis"]
        assert torch.allclose(basis.T @ basis, torch.eye(6, dtype=torch.float64), atol=1e-12)
        exact = torch.linalg.svd(oriented(gradient(tuple(weight.shape), 5, index))).U[:, :6]
        assert torch.allclose((exact * basis).sum(0).abs(), torch.ones(6, dtype=torch.float64))
        assert ((basis * before).sum(0) >= 0).all()


@pytest.mark.parametrize("name", FAMILY)
def test_defaults_have_no_weight_decay_and_eps_of_1e_6(name):
    """The packages' 8-bit classes decay weights by 1e-2 by default."""
    defaults = {key: parameter.default for key, parameter in registry.options(name).items()}
    assert defaults["weight_decay"] == 0.0
    assert defaults["eps"] == 1e-6


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("galore", lambda m, n, r: 2 * r * n + m * r),
        ("fira", lambda m, n, r: 2 * r * n + m * r + 1),
        ("apollo", lambda m, n, r: 2 * r * n + m * r + 1),
        ("natural_galore", lambda m, n, r: 2 * r * n + m * r + 20 * r * n + 20**2),
    ],
)
def test_state_is_as_large_as_its_docstring_says(name, numbers):
    weight = torch.nn.Parameter(torch.empty(40, 16, device="meta"))
    optimizer = small(name, [weight])
    optimizer.allocate_state()
    held = sum(value.numel() for value in optimizer.state[weight].values() if isinstance(value, torch.Tensor))
    assert held == numbers(16, 40, 6)


# ---- Fira


@pytest.mark.parametrize("scale", [0.25, 1.0])
@pytest.mark.parametrize("residual", ["official", "exact"])
def test_fira_is_the_official_package(residual, scale):
    """The package's residual keeps (1 - scale) of the gradient inside the subspace: only at 1 is it exact."""
    ours = Fira(parameters(SHAPES, torch.float32), lr=0.01, scale=scale, residual=residual, weight_decay=0.1, **SHARED)
    distance = distance_from_package(ours, FiraPackage, GradientProjector, {"alpha": scale})
    if residual == "official" or scale == 1.0:
        assert distance < 1e-5
    else:
        assert distance > 1e-3


@pytest.mark.parametrize(("residual", "kept"), [("official", 0.75), ("exact", 0.0)])
def test_fira_residual_keeps_its_share_of_the_projected_gradient(residual, kept):
    optimizer = Fira(parameters([(16, 24)]), lr=1.0, residual=residual, **SHARED)
    inside = GaLore(parameters([(16, 24)]), lr=1.0, **SHARED)
    weight = optimizer.param_groups[0]["params"][0]
    added = moves(optimizer, range(1, 2))[0] - moves(inside, range(1, 2))[0]
    basis, sigma = optimizer.state[weight]["basis"], optimizer.state[weight]["basis"].T @ gradient((16, 24), 1, 0)
    moment = inside.state[inside.param_groups[0]["params"][0]]
    normalized = moment["exp_avg"] / (moment["exp_avg_sq"].sqrt() + 1e-6)
    ratio = 0.001**0.5 / 0.1 * normalized.norm(dim=0) / (sigma.norm(dim=0) + 1e-8)
    assert torch.allclose(basis.T @ added, -kept * sigma * ratio, atol=1e-12)
    assert added.norm() > 1.0


@pytest.mark.parametrize("name", LIMITED)
def test_growth_is_limited_from_the_second_step_on(name):
    """The norm that is kept for the next step is the limited one."""
    free, limited = [], []
    for gamma, norms in ((1e9, free), (1.01, limited)):
        weight = parameters([(16, 24)])[0]
        optimizer = small(name, [weight], gamma=gamma)
        for step in range(1, 11):
            moves(optimizer, range(step, step + 1), scale=1.0 if step < 8 else 100.0)
            norms.append(optimizer.state[weight]["phi"].item())
    assert limited[0] == free[0]
    assert free[7] > 1.2 * free[6]
    assert limited[7] == pytest.approx(1.01 * limited[6])
    assert limited[8] == pytest.approx(1.01 * limited[7])


@pytest.mark.parametrize("name", LIMITED)
def test_limiter_lets_go_after_a_zero_gradient(name):
    """A stored norm of 0 would hold every later update at 1e-8."""
    fresh, after_zero = (small(name, parameters([(16, 24)])) for _ in range(2))
    for optimizer in (fresh, after_zero):
        moves(optimizer, range(1, 2))
    moves(after_zero, range(2, 3), scale=0.0)
    assert moves(after_zero, range(3, 4))[0].norm() > 0.1 * moves(fresh, range(3, 4))[0].norm()


# ---- APOLLO, whose package has a non-commercial licence: Fira's is the oracle of what they share


@pytest.mark.parametrize("projection", ["random", "svd"])
def test_apollo_is_firas_package_with_the_whole_gradient(projection):
    """With alpha -> 0 Fira's residual is the whole gradient, scaled and limited per channel: APOLLO at scale 1."""
    ours = Apollo(parameters(SHAPES, torch.float32), lr=0.01, projection=projection, weight_decay=0.1, **SHARED)
    settings = {"alpha": 1e-12}
    assert distance_from_package(ours, FiraPackage, GradientProjector, settings, check=projection == "svd") < 1e-5


def test_random_projection_comes_from_seed_step_and_position_alone():
    """Drawn on the CPU by a source of its own: the same on every host, device, process and resumed run."""
    weights = parameters(SHAPES, torch.float32)
    optimizer = Apollo(weights, seed=3, **SHARED)
    torch.manual_seed(1)
    train(optimizer, range(1, 6))
    for index, weight in enumerate(weights):
        first, second = (torch.randn(16, 6, generator=generator(3, t, index), dtype=torch.float64) for t in (1, 5))
        expected = torch.where((first * second).sum(0) < 0, -second, second) / 6**0.5
        assert torch.equal(optimizer.state[weight]["basis"], expected.float())


def test_random_projection_has_variance_one_over_rank():
    weight = torch.nn.Parameter(torch.zeros(400, 500))
    optimizer = Apollo([weight], rank=100)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert optimizer.state[weight]["basis"].square().mean() == pytest.approx(1 / 100, rel=0.03)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["apollo", "apollo_mini", "apollo_svd"])
def test_update_is_the_whole_gradient_scaled(name, shape):
    """Not a scaled projection put back, which has rank r and a cosine of .2 with the gradient."""
    optimizer = small(name, parameters([shape]))
    for step, move in zip(STEPS, moves(optimizer, STEPS), strict=True):
        g = oriented(gradient(shape, step, 0))
        factors = oriented(move) / g
        assert torch.allclose(factors, factors[:1].expand_as(factors))
        if name == "apollo_mini":
            assert torch.allclose(factors, factors[0, 0].expand_as(factors))
        assert (factors < 0).all()
        assert torch.cosine_similarity(-oriented(move).flatten(), g.flatten(), dim=0) > 0.5


@pytest.mark.parametrize("scale_front", [True, False])
@pytest.mark.parametrize("name", ["apollo", "apollo_mini"])
def test_scale_enters_once_as_its_square_root(name, scale_front):
    """Others let it in twice: at 1, 4 and 16 their updates are 1, 8 and 64 times as large, not 1, 2 and 4."""
    once, sixteen = (small(name, parameters([(16, 24)]), scale=s, scale_front=scale_front) for s in (1.0, 16.0))
    for small_move, large_move in zip(moves(once, STEPS), moves(sixteen, STEPS), strict=True):
        assert torch.allclose(large_move, 4 * small_move, rtol=1e-6)
    seen = [o.state[o.param_groups[0]["params"][0]]["phi"].item() for o in (once, sixteen)]
    assert seen[1] / seen[0] == pytest.approx(4.0 if scale_front else 1.0)


def test_mini_has_one_factor_from_the_norms_of_the_whole_projection():
    weight = parameters([(16, 24)])[0]
    cls, presets = registry.get("apollo_mini")
    optimizer = cls([weight], lr=1.0, **presets)
    move = moves(optimizer, range(1, 2))[0]
    g, basis = gradient((16, 24), 1, 0), optimizer.state[weight]["basis"]
    assert basis.shape == (16, 1)
    projected = basis.T @ g
    normalized = 0.1 * projected / (0.001**0.5 * projected.abs() + 1e-6)
    factor = 128**0.5 * normalized.norm() / (projected.norm() + 1e-8)
    assert torch.allclose(move, -(0.001**0.5) / 0.1 * factor * g)


# ---- Natural GaLore


def natural_gradients(scale, dtype=torch.float64, steps=STEPS, grads=None, **options):
    """(the natural gradient that NaturalGaLore gives to Adam, the projected gradient) at each step, both [r, n]."""
    weight = torch.nn.Parameter(torch.zeros(16, 24, dtype=dtype))
    optimizer = NaturalGaLore([weight], betas=(0.0, 0.999), **{**SHARED, "update_interval": 6, **options})
    pairs = []
    for step in steps:
        weight.grad = (gradient((16, 24), step, 0, scale) if grads is None else grads[step - 1]).to(dtype)
        optimizer.step()
        state = optimizer.state[weight]
        pairs.append((state["exp_avg"].double().clone(), state["basis"].double().T @ weight.grad.double()))
    return pairs


@pytest.mark.parametrize("history", [1, 4, 20])
@pytest.mark.parametrize("scale", [1e-2, 1.0])
def test_natural_gradient_forgets_projections_of_older_bases(scale, history):
    """It is the dense inverse Fisher of the projections on its own basis, which is renewed at step 7."""
    pairs = natural_gradients(scale, history=history)
    for step, (natural, sigma) in enumerate(pairs, start=1):
        first = 1 if step < 7 else 7
        seen = range(max(first, step - history + 1), step + 1)
        H = torch.stack([pairs[s - 1][1].flatten() for s in seen], 1)
        fisher = 1e-3 * torch.eye(len(H), dtype=H.dtype) + H @ H.T
        assert torch.allclose(natural.flatten(), torch.linalg.solve(fisher, sigma.flatten()), rtol=1e-5, atol=1e-12)


def test_natural_gradient_keeps_its_digits_at_small_damping():
    """g / lambda - (...) in float32 is wrong by more than its own size here."""
    exact, single = natural_gradients(1e2), natural_gradients(1e2, torch.float32)
    for (natural, sigma), (rounded, _) in zip(exact, single, strict=True):
        assert sigma.square().sum() > 1e8 * 1e-3
        signs = (natural * rounded).sum(-1, keepdim=True).sign()  # of basis columns: another solver's are others
        assert (natural - signs * rounded).norm() < 1e-3 * natural.norm()


def test_natural_gradient_survives_nearly_parallel_gradients():
    """In float32 their inner products differ by less than rounding: H^T H alone is not even semi-definite."""
    base = gradient((16, 24), 1, 0, 1e3)
    grads = [base + 1e-5 * gradient((16, 24), step, 0) for step in range(1, 25)]
    pairs = natural_gradients(1.0, torch.float32, range(1, 25), grads, history=20, update_interval=100)
    for natural, sigma in pairs:
        assert torch.cosine_similarity(natural.flatten(), sigma.flatten(), dim=0) > 0.9


def test_natural_gradient_keeps_its_digits_beside_one_large_gradient():
    """Damping that grows with the largest gradient of the history would be larger than all later ones."""
    grads = [gradient((16, 24), step, 0) * (1e4 if step == 2 else 1) for step in range(1, 13)]
    options = {"grads": grads, "steps": range(1, 13), "history": 20, "update_interval": 100}
    exact, single = natural_gradients(1.0, **options), natural_gradients(1.0, torch.float32, **options)
    for (natural, _), (rounded, _) in zip(exact, single, strict=True):
        signs = (natural * rounded).sum(-1, keepdim=True).sign()
        assert (natural - signs * rounded).norm() < 1e-3 * natural.norm()


@pytest.mark.parametrize("name", ["galore", "fira", "apollo", "alice"])
@pytest.mark.parametrize("shape", [(24, 16), (16, 24)])
def test_state_loads_from_any_memory_order(name, shape):
    """Moments of a single tall matrix are stored by columns; in a stack, and in other packages, by rows."""
    runs = []
    for by_rows in (False, True):
        (weight,) = weights = parameters([shape])
        optimizer = registry.get(name)[0](weights, lr=0.01, **options_of(name))
        train(optimizer, range(1, 4))
        saved = optimizer.state_dict()
        if by_rows:
            saved["state"][0] |= {key: saved["state"][0][key].contiguous() for key in ("exp_avg", "exp_avg_sq")}
        resumed = registry.get(name)[0](weights, lr=0.01, **options_of(name))
        resumed.load_state_dict(saved)
        train(resumed, range(4, 9))
        assert resumed.state[weight]["exp_avg"].mT.is_contiguous() == (shape == (24, 16))
        runs.append(weight)
    assert torch.equal(*runs)
