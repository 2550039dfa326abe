"""Steps dealt to two replicas (gloo), against steps that each of them makes."""

from types import SimpleNamespace

import pytest
import torch

from optimizers import Muon, registry
from optimizers.parallel.dealt_steps import deal
from tests.distributed.test_parallel import AMPLIFY

WORKER = "dealt_worker.py"
NAMES = [name for name in registry.names() if registry.get(name)[0].traits.sharding == "owner"]
NO_STATE = {"sinkgd", "swan"}


@pytest.mark.parametrize("name", NAMES)
def test_a_matrix_is_stepped_by_one_process_and_equal_on_all(found, name):
    row = found["methods"][name]
    assert row["equal"]
    assert row["counted"] == row["whole"]
    assert sum(row["held"]) == 2 * row["whole"] - sum(row["dealt"])  # what Adam steps is held by both
    if name not in NO_STATE:
        assert min(row["dealt"]) > 0.45 * max(row["dealt"])


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_is_that_of_one_process_and_goes_on_either_way(found, name):
    """Stacks of another number of matrices round differently, so numbers agree to rounding."""
    row = found["methods"][name]
    assert row["form"]
    (reference, *others) = row["later"].values()
    for losses in (*others, row["alone"]):
        assert losses == pytest.approx(reference, abs=AMPLIFY.get(name, 1e-5))


def test_some_methods_agree_to_the_bit(found):
    """Where no product depends on the number of matrices in a stack, nothing may differ."""
    assert all(found["methods"][name]["same"] for name in ("adafactor", "adam_mini"))


def test_stochastic_rounding_counts_the_writes_of_other_processes(found):
    assert found["rounded"] == {name: {"same": True, "equal": True} for name in ("racs", "galore")}


@pytest.mark.parametrize("kind", ["dealt", "sharded"])
def test_every_process_refuses_a_step_whose_bases_cannot_be_had(found, kind):
    """Not the owner alone: the others would wait for it, or take its next message for this one."""
    assert found["refused"][kind] == {"stepped and right": [[5, True], [5, True]]}


def test_messages_carry_tensors_of_any_size_dtype_and_order(found):
    assert found["messages"] == [[1], [1]]


@pytest.mark.parametrize(("case", "shared"), [("one host", True), ("too little", False), ("another host", False)])
def test_large_weights_are_read_in_shared_memory_or_sent(found, case, shared):
    """Also after the memory of a weight was replaced. No file stays behind."""
    assert found["large"][case] == {"right": [True, True], "shared": shared, "left behind": 0}


def test_matrices_are_dealt_evenly_and_by_shape_alone():
    shapes = [(8, 8)] * 8 + [(320, 8)] + [(22, 8)] * 6
    parameters = [torch.empty(shape, device="meta") for shape in shapes]
    again = [torch.empty(shape, device="meta") for shape in shapes]
    for count in (2, 3):
        owners = deal(parameters, {}, count)
        assert set(owners) == set(parameters)
        elements = [sum(p.numel() for p, owner in owners.items() if owner == process) for process in range(count)]
        assert max(elements) == 320 * 8 and sum(elements) == sum(p.numel() for p in parameters)
        assert list(deal(again, {}, count).values()) == list(owners.values())
    # A second group goes on where the first one ended.
    first = deal(parameters[8:9], {}, 2)
    assert set(deal(parameters[:8], first, 2).values()) == {1}
    # Without so large a matrix, shares differ by one of the smallest at most.
    owners = deal(parameters[:8] + parameters[9:], {}, 3)
    elements = [sum(p.numel() for p, owner in owners.items() if owner == process) for process in range(3)]
    assert max(elements) - min(elements) <= 8 * 8


def test_a_single_parameter_cannot_be_stepped_of_dealt_ones():
    weight = torch.nn.Parameter(torch.zeros(4, 4))
    optimizer = Muon([weight], lr=0.1)
    optimizer.deal_steps(SimpleNamespace(size=lambda: 2, rank=lambda: 0))
    weight.grad = torch.ones_like(weight)
    with pytest.raises(ValueError, match="step_parameter steps every parameter on this process"):
        optimizer.step_parameter(weight)


def test_state_of_other_processes_matrices_is_given_up():
    """Dealt after some steps: each process keeps the state of its own matrices, and the step count of all."""
    weights = [torch.nn.Parameter(torch.zeros(4, 4)) for _ in range(2)]
    optimizer = registry.get("galore")[0](weights, lr=0.1, rank=2)
    for weight in weights:
        weight.grad = torch.randn(4, 4)
    optimizer.step()
    optimizer.deal_steps(SimpleNamespace(size=lambda: 2, rank=lambda: 1))
    assert optimizer.state[weights[0]] == {"step": 1}
    assert optimizer.state[weights[1]]["basis"].shape == (4, 2)
