"""DDP and FSDP2 on two processes (gloo), for every optimizer."""

import pytest

from optimizers import registry
from optimizers.engine.matrix import MatrixOptimizer
from tests.optimizers.harness import options_of, parameters, train

WORKER = "worker.py"
NAMES = registry.names()
# These turn differences of rounding in the first gradients into other eigenvectors of nearly equal eigenvalues.
AMPLIFY = {"eigen_adam": 1e-2, "soap": 1e-2, "shampoo": 1e-3}


@pytest.mark.distributed
@pytest.mark.parametrize("name", NAMES)
def test_replicas_stay_equal_and_train_as_one_process_does(found, name):
    row = next(row for row in found["rows"] if row["optimizer"] == name)
    assert row["ddp_weights_equal"]
    assert row["ddp_loss_difference"] < AMPLIFY.get(name, 1e-5)


@pytest.mark.distributed
@pytest.mark.parametrize("name", NAMES)
def test_shards_train_as_replicas_do_and_share_the_state(found, name):
    row = next(row for row in found["rows"] if row["optimizer"] == name)
    done, total = row["sharded_parameters"].split("/")
    assert done == total
    assert row["fsdp2_loss_difference"] < 1e-5
    held = [int(part) for part in row["bytes_fsdp2"].split()]
    assert row["bytes_alone"] <= sum(held) < row["bytes_alone"] + 200  # both count Adam's steps
    assert max(held) < 0.6 * row["bytes_alone"]


@pytest.mark.distributed
@pytest.mark.parametrize("layout", ["Replicas", "Shards"])
def test_a_model_starts_from_the_weights_of_one_process(found, layout):
    assert found["started"][layout] == dict.fromkeys(("drawn", "tied", "bfloat16", "read"), True)


@pytest.mark.distributed
def test_full_state_fits_every_layout_exactly(found):
    for losses in found["resumed"].values():
        assert losses["Shards kept it"] and losses["Replicas kept it"]
        assert losses["Shards"] == losses["on"]
        for layout in ("Replicas", "alone"):
            assert losses[layout] == pytest.approx(losses["on"], abs=1e-5)


@pytest.mark.distributed
def test_micro_batches_are_reduced_once_and_clipped_by_the_whole_norm(found):
    replicas, shards = found["accumulated"]["Replicas"], found["accumulated"]["Shards"]
    assert shards["norm"] == pytest.approx(replicas["norm"], rel=1e-5)
    assert shards["norm"] > 1.0
    assert shards["clipped"] == pytest.approx(1.0, rel=1e-4) == replicas["clipped"]
    assert shards["waiting"] == replicas["waiting"] == 0
    assert shards["reducing"] == 3  # two layers, and the rest
    assert replicas["kept"]  # gradients are added up in DDP's buckets, not beside them


@pytest.mark.distributed
@pytest.mark.parametrize("name", ["adam", "alice", "racs", "lamb", "adam_8bit", "scale"])
def test_shards_hold_what_the_plan_says(found, name):
    """The plan's are those of the process that holds the most."""
    row = found["held"][name]
    assert [max(of_processes) for of_processes in zip(*row["held"], strict=True)] == row["planned"]
    assert min(row["planned"]) > 0


@pytest.mark.distributed
def test_bfloat16_shards_are_computed_in_bfloat16(found):
    assert found["dtypes"] == ["torch.bfloat16"]


@pytest.mark.distributed
@pytest.mark.parametrize("layout", ["Replicas", "Shards"])
def test_bfloat16_gradients_are_added_up_in_float32(found, layout):
    assert found["reduced"][layout] == {"added in": ["torch.float32"], "gradients": ["torch.bfloat16"]}


@pytest.mark.parametrize("name", [name for name in NAMES if issubclass(registry.get(name)[0], MatrixOptimizer)])
def test_a_refresh_writes_only_the_state_it_declares(name, monkeypatch):
    """Replicas exchange nothing else after a shared refresh."""
    cls = registry.get(name)[0]
    original, written = cls.refresh, set()

    def watched(self, gradient, state, group, t, sources):
        before = {key: tensor._version for key, tensor in state.items()}
        original(self, gradient, state, group, t, sources)
        written.update(key for key, tensor in state.items() if tensor._version != before[key])

    monkeypatch.setattr(cls, "refresh", watched)
    optimizer = cls(parameters(), lr=0.01, **options_of(name))
    train(optimizer, range(1, 8))
    assert written <= set(cls.traits.refreshed)
