"""The memory of one of N processes, against formulas written out here."""

import pytest

from configs.schema import load
from training.plan import plan_run

ACCUMULATING = ("train.parallel=fsdp2", "train.dtype=bfloat16", "train.batch_size=512", "train.steps=10")


def plan(*argv, processes=1):
    return plan_run(load(list(argv)).config, processes=processes)


def memory(*argv, processes=1):
    return plan(*argv, processes=processes)["cluster"]["memory"]


@pytest.mark.parametrize("optimizer", ["adam", "alice", "racs"])
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_one_process_holds_what_the_plan_says(optimizer, parallel):
    counted = plan("model=llama_60m", f"optimizer={optimizer}", f"train.parallel={parallel}")
    cluster = counted["cluster"]["memory"]
    for key in ("weight_bytes", "gradient_bytes", "optimizer_state_bytes", "activation_bytes"):
        assert cluster[key] == counted[key]
    assert cluster["accumulated_gradient_bytes"] == cluster["gathered_bytes"] == cluster["reduction_bytes"] == 0


def test_parts_add_up():
    found = memory("model=llama_1_3b", "optimizer=alice", *ACCUMULATING, "train.micro_batch_size=16", processes=8)
    held = ("weight_bytes", "gradient_bytes", "accumulated_gradient_bytes", "optimizer_state_bytes")
    passing = ("activation_bytes", "loss_bytes", "gathered_bytes", "reduction_bytes")
    assert {*held, *passing, "averaged_bytes", "transient_bytes", "peak_bytes"} == found.keys()
    assert found.pop("averaged_bytes") == 0 < min(found.values())
    larger = max(sum(found[key] for key in passing), found["transient_bytes"])
    assert found["peak_bytes"] == sum(found[key] for key in held) + larger


def test_replicas_hold_the_whole_model_and_smaller_batches():
    """llama_60m in bfloat16: 58,073,600 parameters; an eighth of 512 rows is less than a micro-batch of 256."""
    file = "configs/experiment/table2/60m/adam.yaml"
    alone, of_eight = memory(file), memory(file, processes=8)
    assert of_eight["weight_bytes"] == of_eight["gradient_bytes"] == 2 * 58_073_600
    assert of_eight["optimizer_state_bytes"] == alone["optimizer_state_bytes"]
    assert of_eight["activation_bytes"] == alone["activation_bytes"] / 4
    assert of_eight["loss_bytes"] == 8192 * 32000 * 8 + 4 * 32000 * 512
    assert of_eight["reduction_bytes"] == 2 * 2 * (25 << 20)  # two buckets, in float32


def test_float32_averages_of_replicas_may_be_held_into_the_step():
    """Small micro-batches: the averages are more than what backward holds."""
    found = memory("model=llama_1_3b", "optimizer=adam", "train.dtype=bfloat16",
                   "train.steps=10", "train.batch_size=64", "train.micro_batch_size=1",
                   "train.activation_checkpointing=true", processes=8)  # fmt: skip
    held = found["weight_bytes"] + found["gradient_bytes"] + found["optimizer_state_bytes"]
    assert found["averaged_bytes"] == 4 * 1_339_082_752 > found["activation_bytes"] + found["loss_bytes"]
    assert found["peak_bytes"] == held + found["averaged_bytes"] + found["transient_bytes"]


@pytest.mark.parametrize(("processes", "widest"), [(8, 683), (2, 2731)], ids=["8", "2"])
def test_shards_of_a_billion_parameters(processes, widest):
    """llama_1_3b, whose MLP of 5,461 rows no number of processes divides: all shards are padded to the first's."""
    h, f, layers, vocabulary = 2048, 5461, 24, 32000
    rows = h // processes
    layer = 4 * rows * h + 2 * widest * h + rows * f + 2 * rows
    local = layers * layer + 2 * vocabulary // processes * h + rows
    found = memory("model=llama_1_3b", "optimizer=adam", *ACCUMULATING, processes=processes)
    assert found["weight_bytes"] == found["gradient_bytes"] == 2 * local
    assert found["accumulated_gradient_bytes"] == 0  # the whole share is one micro-batch
    # The first process's rows, and Adam's count of steps in float32 for each of 219 parameters.
    assert found["optimizer_state_bytes"] == 2 * 2 * local + 4 * (layers * 9 + 3)
    whole_layer, outside = 4 * h * h + 3 * h * f + 2 * h, 2 * vocabulary * h + h
    assert found["gathered_bytes"] == 2 * (outside + 3 * whole_layer)
    assert found["reduction_bytes"] == 6 * max(outside, whole_layer)


def test_micro_batches_of_shards_add_up_whole_gradients_in_float32():
    found = memory("model=llama_1_3b", "optimizer=adam", *ACCUMULATING, "train.micro_batch_size=16", processes=8)
    assert found["accumulated_gradient_bytes"] == 4 * 1_339_082_752


def test_owners_share_the_state_of_whole_matrices():
    """RACS holds m + n + 1 numbers for each of llama_nano's matrices, in the layout of one of two owners or both."""
    argv = ("model=llama_nano", "optimizer=racs", "train.parallel=fsdp2")
    alone, of_two = memory(*argv), memory(*argv, processes=2)
    assert alone["optimizer_state_bytes"] / 2 <= of_two["optimizer_state_bytes"] < 0.51 * alone["optimizer_state_bytes"]


def test_replicas_share_the_state_of_matrices():
    """Muon holds m n float32 numbers for each of llama_60m's matrices; each of two processes steps half of them."""
    argv = ("model=llama_60m", "optimizer=muon")
    alone, of_two = memory(*argv), memory(*argv, processes=2)
    matrices = 8 * (4 * 512**2 + 3 * 512 * 1376)
    assert alone["optimizer_state_bytes"] - of_two["optimizer_state_bytes"] == pytest.approx(4 * matrices / 2, rel=0.02)
    whole = memory(*argv, "train.deal_steps=false", processes=2)
    assert whole["optimizer_state_bytes"] == alone["optimizer_state_bytes"]


def test_layers_that_are_recomputed_keep_their_inputs_alone():
    argv = ("model=llama_7b", "optimizer=adam", *ACCUMULATING, "train.micro_batch_size=16")
    plain = memory(*argv, processes=8)
    again = memory(*argv, "train.activation_checkpointing=true", processes=8)
    assert again["activation_bytes"] < 0.1 * plain["activation_bytes"]
    assert again["gathered_bytes"] == plain["gathered_bytes"]
