"""The compiled step of a stack: one graph for all steps, the eager numbers, and which steps stay eager."""

import gc
import warnings
import weakref
from dataclasses import replace

import pytest
import torch
from torch._dynamo.utils import counters

from optimizers import LDAdam, kernels, registry
from optimizers.engine.matrix import MatrixOptimizer
from optimizers.kernels import compiled_step

from .harness import largest_difference, options_of, parameters, reference, train

MATRIX = [name for name in registry.names() if issubclass(registry.get(name)[0], MatrixOptimizer)]
WITH_GRAPH = [name for name in MATRIX if registry.get(name)[0].traits.same_every_step]
# Its averages have had the gradient when a basis was renewed, and have yet to have it in other steps.
ACCUMULATE = {"eigen_adam"}


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    counters.clear()
    compiled_step._warn.cache_clear()


@pytest.fixture
def traced(monkeypatch):
    """Graphs are traced and run operator by operator: no compiler of C++, and seconds less."""
    real = torch.compile
    options = {"fullgraph": True, "dynamic": False, "backend": "aot_eager"}
    monkeypatch.setattr(torch, "compile", lambda step, **_: real(step, **options))


def built(name, *, on, shapes=((16, 24), (16, 24)), dtype=torch.float32, **options):
    optimizer = registry.get(name)[0](parameters(shapes, dtype=dtype), lr=0.01, **options_of(name, **options))
    optimizer.compile_steps(on=on)
    return optimizer


def trained(optimizer, steps=50):
    """Weights after `steps` whose learning rate falls."""
    for step in range(1, steps + 1):
        optimizer.param_groups[0]["lr"] = 0.01 * (1 - step / 60)
        moved = train(optimizer, range(step, step + 1))
    return moved


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_GRAPH)
def test_every_step_is_one_graph_and_the_eager_step(name):
    """By torch's own compiler on this CPU, over refreshes, decay and fifty learning rates."""
    eager = trained(built(name, on=(), weight_decay=0.01))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compiled = trained(built(name, on=("cpu",), weight_decay=0.01))
    assert not [each for each in caught if "was not compiled" in str(each.message)]
    assert counters["stats"]["unique_graphs"] == (2 if name in ACCUMULATE else 1) and not counters["graph_break"]
    assert largest_difference(eager, compiled) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alice", "fira", "muon", "racs", "apollo_mini"])
@pytest.mark.parametrize("shapes", [[(16, 24)] * 2, [(24, 16)]], ids=str)
def test_bfloat16_steps_are_as_far_from_float64_as_the_eager_ones(traced, name, shapes):
    cls, distances = registry.get(name)[0], []
    for on in ((), ("cpu",)):
        start = parameters(shapes, dtype=torch.bfloat16, scale=0.02)
        expected = reference(cls, start, options_of(name), range(1, 6), 0.01)
        optimizer = cls(start, lr=0.01, **options_of(name))
        optimizer.compile_steps(on=on)
        with kernels.disabled() if not on else warnings.catch_warnings():
            moved = train(optimizer, range(1, 6))
        distances.append(sum((a.double() - b).square().sum() for a, b in zip(moved, expected, strict=True)).sqrt())
    assert counters["stats"]["unique_graphs"] == 1
    assert distances[1] <= 1.02 * distances[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["muon", "racs"])
@pytest.mark.parametrize("shapes", [[(256, 261)] * 2, [(261, 256)]], ids=str)
def test_narrow_gradients_keep_a_compiled_step_as_close(traced, monkeypatch, name, shapes):
    """What is traced on CUDA, on a CPU: gradients stay in bfloat16, and a graph is a graph."""
    monkeypatch.setitem(kernels.traced_on, "cpu", kernels.traced_on["cuda"])
    cls, distances = registry.get(name)[0], []
    for on in ((), ("cpu",)):
        start = parameters(shapes, dtype=torch.bfloat16, scale=0.02)
        expected = reference(cls, start, options_of(name), range(1, 4), 0.1)
        optimizer = cls(start, lr=0.1, **options_of(name))
        optimizer.compile_steps(on=on)
        with kernels.disabled() if not on else warnings.catch_warnings():
            moved = train(optimizer, range(1, 4))
        distances.append(sum((a.double() - b).square().sum() for a, b in zip(moved, expected, strict=True)).sqrt())
    assert counters["stats"]["unique_graphs"] == 1
    assert distances[1] <= 1.02 * distances[0]


@pytest.mark.slow
def test_changes_are_noticed_by_autograd_and_nothing_outlives_the_optimizer(traced):
    optimizer = built("lion", on=("cpu",))
    (weight, _), version = optimizer.param_groups[0]["params"], optimizer.param_groups[0]["params"][0]._version
    train(optimizer, range(1, 3))
    assert weight._version >= version + 2 and weight.requires_grad and weight.grad_fn is None
    alive = weakref.ref(optimizer)
    del optimizer, weight, _
    gc.collect()
    assert alive() is None


@pytest.mark.slow
def test_a_method_without_a_graph_is_stepped_eagerly(traced, monkeypatch):
    """LDAdam asks whether this is its first step."""
    eager = train(built("ldadam", on=("cpu",)), range(1, 4))
    assert not counters["stats"]
    monkeypatch.setattr(LDAdam, "traits", replace(LDAdam.traits, same_every_step=True))
    with pytest.warns(UserWarning, match="the step of LDAdam was not compiled") as caught:
        refused = train(built("ldadam", on=("cpu",)), range(1, 4))
    assert len([each for each in caught if "was not compiled" in str(each.message)]) == 1
    assert largest_difference(eager, refused) == 0


@pytest.mark.slow
@torch._dynamo.config.patch(recompile_limit=2)  # monkeypatch would leave it hidden
def test_an_option_of_many_values_is_stepped_eagerly_in_the_end(traced):
    """As a scheduled momentum is: torch compiles a step for each value, and only so many."""

    def moved(on):
        weights = parameters([(16, 24)])
        optimizer = registry.get("lion")[0](weights, lr=1e-3)
        optimizer.compile_steps(on=on)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=20)
        for step in range(5):
            train(optimizer, range(step, step + 1))
            schedule.step()
        return weights

    eager = moved(())
    with pytest.warns(UserWarning, match="the step of Lion was not compiled"):
        compiled = moved(("cpu",))
    assert largest_difference(eager, compiled) <= 1e-5


@pytest.fixture
def asked(monkeypatch):
    """The stacks of which a compiled step was asked for. There is none."""
    stacks = []
    monkeypatch.setattr(compiled_step, "step", lambda _, stack, *args, **kwargs: stacks.append(stack))
    return stacks


def test_a_cpu_is_asked_for_and_may_be_switched_off(asked):
    optimizer = registry.get("lion")[0](parameters([(4, 6)]), lr=0.01)
    train(optimizer, range(1, 2))
    assert optimizer.compiled_on == () and not asked
    optimizer.compile_steps(on=("cpu",))
    train(optimizer, range(2, 3))
    assert len(asked) == 1
    with kernels.disabled():
        train(optimizer, range(3, 4))
    optimizer.compile_steps(on=())
    train(optimizer, range(4, 5))
    assert len(asked) == 1


def test_whole_matrices_alone_are_compiled_and_rounded_to_nearest(asked):
    optimizer = built("lion", on=("cpu",), shapes=[(4, 6), (6,)])
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert [stack.parameters[0].ndim for stack in asked] == [2]
    experts = torch.nn.Parameter(torch.ones(3, 4, 6))
    experts.grad = torch.ones_like(experts)
    stacked = registry.get("lion")[0]([{"params": [experts], "stacked": True}], lr=0.01)
    rounding = built("lion", on=("cpu",), dtype=torch.bfloat16)
    rounding.round_stochastically(seed=1)
    for other in (stacked, rounding):
        other.compile_steps(on=("cpu",))
    stacked.step()
    train(rounding, range(1, 2))
    assert len(asked) == 1


def test_without_triton_a_gpu_steps_eagerly(monkeypatch):
    monkeypatch.setattr(compiled_step.importlib.util, "find_spec", lambda name: None)
    assert compiled_step.missing_on_gpu(torch.device("cuda"), torch.float32) == "triton"


@pytest.mark.parametrize(
    ("capability", "dtype", "least"),
    [
        ((7, 5), torch.bfloat16, "8.0 for bfloat16"),
        ((6, 1), torch.float32, "7.0 for float32"),
        ((7, 5), torch.float32, None),
        ((8, 0), torch.bfloat16, None),
    ],
)
def test_an_old_gpu_steps_eagerly(monkeypatch, capability, dtype, least):
    """Of emulated bfloat16 torch says so only after it has made the step."""
    monkeypatch.setattr(compiled_step.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    missing = compiled_step.missing_on_gpu(torch.device("cuda"), dtype)
    assert missing == (least and f"a GPU of compute capability {least}")


@pytest.mark.slow
def test_every_form_of_a_stack_has_a_graph(traced):
    """More forms than torch keeps graphs for one code. On one thread, as on CUDA: others would trace at once."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        trained(built("lion", on=("cpu",), shapes=[(rows, 24) for rows in range(4, 14)]), steps=3)
    finally:
        torch.set_num_threads(threads)
    assert counters["stats"]["unique_graphs"] == 10
