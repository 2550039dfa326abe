"""What a new method gets wrong is said where it is: when its class is registered or made, or at its first step."""

import pytest
import torch

from optimizers.engine import BaseOptimizer, Direction, MatrixOptimizer, Traits, register
from optimizers.engine.options import LearningRate, Params, WeightDecay
from optimizers.functional.numerics import average


class Signed(MatrixOptimizer):
    """Sound."""

    def __init__(self, params: Params, lr: LearningRate = 0.1, *, weight_decay: WeightDecay = 0.0):
        super().__init__(params, lr=lr, weight_decay=weight_decay)

    def state_shapes(self, m, n, dtype, group):
        return {"exp_avg": ((m, n), dtype), "projector": ((m, 2), dtype)}

    def update(self, gradient, state, group, t):
        return Direction(dense=average(state["exp_avg"], gradient, 0.9).sign())


class Rebinds(Signed):
    def update(self, gradient, state, group, t):
        state["exp_avg"] = 0.9 * state["exp_avg"] + 0.1 * gradient
        return Direction(dense=state["exp_avg"])


class Adds(Signed):
    def update(self, gradient, state, group, t):
        state["prev"] = gradient.clone()
        return Direction(dense=gradient)


class RefreshesUnnamed(Signed):
    def refresh_due(self, t, group):
        return t % 2 == 1

    def refresh(self, gradient, state, group, t, sources):
        state["projector"].copy_(gradient[..., :2])


class RefreshesBesideState(RefreshesUnnamed):
    def refresh(self, gradient, state, group, t, sources):
        state["projector"] = gradient[..., :2].clone()


class AccumulatesBytes(Signed):
    def accumulate(self, gradient, state, group):
        average(state["exp_avg"], gradient, 0.9)

    def update(self, gradient, state, group, t):
        return Direction(dense=state["exp_avg"].sign())


class AccumulatesBeside(AccumulatesBytes):
    def accumulate(self, gradient, state, group):
        state["exp_avg"] = gradient


class Bare(Signed):
    def update(self, gradient, state, group, t):
        return gradient


class Half(Signed):
    def update(self, gradient, state, group, t):
        return Direction(left=gradient, dense=gradient)


class Empty(Signed):
    def update(self, gradient, state, group, t):
        return Direction()


class Taken(Signed):
    def state_shapes(self, m, n, dtype, group):
        return {"exp_avg": ((m, n), dtype), "exp_avg_absmax": ((m, n), dtype)}


class Whole(Signed):
    def state_shapes(self, m, n, dtype, group):
        return {"exp_avg": ((m, n), torch.int64)}


class Normalizes(Signed):
    def update(self, gradient, state, group, t):
        gradient /= gradient.norm()
        return Direction(dense=gradient.sign())


class RefreshNormalizes(RefreshesUnnamed):
    def refresh(self, gradient, state, group, t, sources):
        gradient /= gradient.norm()


class Shapeless(Signed):
    def state_shapes(self, m, n, dtype, group):
        return {"exp_avg": (m, n)}


def step(cls, shape=(4, 6), **options):
    weight = torch.nn.Parameter(torch.ones(shape))
    optimizer = cls([weight], **options)
    weight.grad = torch.arange(float(weight.numel())).view(shape)
    optimizer.step()


def test_a_sound_method_steps():
    step(Signed)


@pytest.mark.parametrize(
    ("cls", "said"),
    [
        (
            Rebinds,
            r"Rebinds.update put another tensor in the place of state\['exp_avg'\]: change it with copy_ or lerp_",
        ),
        (Adds, r"Adds.update added state\['prev'\]: name it in state_shapes"),
        (
            RefreshesUnnamed,
            r"RefreshesUnnamed.refresh changes state\['projector'\]: name it in Traits\(refreshed=...\)",
        ),
        (RefreshesBesideState, r"RefreshesBesideState.refresh put another tensor in the place of state\['projector'\]"),
        (AccumulatesBeside, r"AccumulatesBeside.accumulate put another tensor in the place of state\['exp_avg'\]"),
        (Normalizes, "Normalizes.update changes the gradient, which is read after it: change a copy"),
        (RefreshNormalizes, "RefreshNormalizes.refresh changes the gradient"),
        (Bare, "Bare.update must return a Direction, got Tensor"),
        (Half, "Half.update returned a direction with left or right alone"),
        (Empty, "Empty.update returned a direction without a part"),
        (Taken, "Taken.state_shapes: the state exp_avg_absmax needs another name"),
        (Shapeless, r"Shapeless.state_shapes: exp_avg must be \(\(sizes\), dtype\), got \(4, 6\)"),
        (Whole, "Whole.state_shapes: exp_avg is an average, torch.int64 cannot hold it"),
    ],
)
def test_a_fault_is_named_at_the_first_step(cls, said):
    with pytest.raises(ValueError, match=f"^{said}"):
        step(cls)


def test_a_refresh_may_write_what_the_traits_name():
    class Named(RefreshesUnnamed):
        traits = Traits(refreshed=("projector",))

    step(Named)


def test_an_accumulation_may_not_write_bytes():
    step(AccumulatesBytes, (64, 64))
    with pytest.raises(ValueError, match=r"^AccumulatesBytes.accumulate changes state\['exp_avg'\]: advance it in upd"):
        step(AccumulatesBytes, (64, 64), state_bits=8)


def test_an_accumulation_may_not_write_moments_that_are_rounded_stochastically():
    """bfloat16's are as narrow as bytes then: a slow one would stay where it is."""
    optimizer = AccumulatesBytes([torch.nn.Parameter(torch.ones(4, 6, dtype=torch.bfloat16))])
    weight = optimizer.param_groups[0]["params"][0]
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    optimizer.round_stochastically(0)
    with pytest.raises(ValueError, match=r"^AccumulatesBytes.accumulate changes state\['exp_avg'\]: advance it in upd"):
        optimizer.step()


class AnyShape(BaseOptimizer):
    def __init__(self, params: Params, lr: LearningRate = 0.1):
        super().__init__(params, lr=lr)

    def allocate(self, parameter, group):
        return {"exp_avg": torch.zeros_like(parameter)}

    def step_group(self, group, parameters):
        for p in parameters:
            self.state[p]["exp_avg"] = torch.lerp(self.state[p]["exp_avg"], p.grad, 0.1)


def test_weights_that_a_method_writes_itself_are_not_said_to_be_rounded():
    class Rounding(AnyShape):
        traits = Traits(rounds_stochastically=True)

    weight = torch.nn.Parameter(torch.ones(4, 6, dtype=torch.bfloat16))
    with pytest.raises(ValueError, match="stochastic_rounding is not possible with AnyShape"):
        AnyShape([weight]).round_stochastically(0)
    for cls in (Rounding, Signed):
        optimizer = cls([weight])
        optimizer.round_stochastically(0)
        assert optimizer.rounds


def test_a_moment_in_8_bits_of_any_shape_is_not_rebound():
    step(AnyShape, (64, 64))
    with pytest.raises(ValueError, match=r"^AnyShape.step_group put another tensor in the place of state\['exp_avg'\]"):
        step(AnyShape, (64, 64), state_bits=8)


def test_a_number_that_no_other_process_can_follow_is_refused():
    class Counts(AnyShape):
        def allocate(self, parameter, group):
            return {"step": 0, "skipped": 0}

    with pytest.raises(ValueError, match=r"^Counts.allocate: skipped must be held in a tensor"):
        step(Counts)


@pytest.mark.parametrize(
    ("trait", "said"),
    [
        ({"last_layer": "methd"}, "last_layer must be one of method, adam, got 'methd'"),
        ({"sharding": "columns"}, "sharding must be one of owner, rows, got 'columns'"),
        ({"state_bits": 4}, "state_bits must be one of 32, 8, got 4"),
        ({"exact": "exp_avg"}, r"exact must be a tuple of names, as \('basis',\), got 'exp_avg'"),
    ],
)
def test_a_misspelt_trait_is_refused(trait, said):
    with pytest.raises(ValueError, match=f"^Traits: {said}$"):
        Traits(**trait)


def test_what_the_engine_needs_is_asked_for():
    class NoDecay(Signed):
        def __init__(self, params: Params, lr: LearningRate = 0.1):
            MatrixOptimizer.__init__(self, params, lr=lr)

    class Uncounted(RefreshesUnnamed):
        traits = Traits(counts_steps=False)

    with pytest.raises(ValueError, match=r"^NoDecay must pass weight_decay to super"):
        step(NoDecay)
    with pytest.raises(ValueError, match=r"^Uncounted.refresh_due needs Traits\(counts_steps=True\)"):
        register("uncounted")(Uncounted)
