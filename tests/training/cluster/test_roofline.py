"""Bounds of a step's time, against numbers computed by hand."""

import pytest

from configs.schema import load
from optimizers import registry
from tests import tiny
from training.cluster import cluster_plan
from training.cluster.bounds import BOUNDS
from training.cluster.cards import CARDS, chosen
from training.cluster.cluster_table import UNCOUNTED, cluster_lines
from training.cluster.text_rate import filled, targets_per_row
from training.plan import plan_run

H100 = CARDS["H100"]
PACKED = ("data=builtin", "data.packing=true", "data.sequence_length=256", "train.dtype=bfloat16", "train.steps=10")


def cluster(*argv, processes=1):
    return plan_run(load(list(argv)).config, processes=processes)["cluster"]


def test_products_of_a_billion_parameters_by_hand():
    """llama_1_3b, 32 rows of 256: 6 FLOPs an element of a layer's matrices and position, at 989 TFLOP/s."""
    found = cluster("model=llama_1_3b", "optimizer=adam", *PACKED, "train.batch_size=32", "train.compile=false")
    seconds = found["cards"]["H100"]
    elements = 24 * (4 * 2048**2 + 3 * 2048 * 5461)
    assert seconds["products_seconds"] == pytest.approx(6 * elements * 8192 / 989e12)
    # 274 bytes and 65 numbers for the width, 28 numbers for the MLP's, of two bytes.
    assert seconds["elementwise_seconds"] == pytest.approx(24 * 8192 * (2048 * (274 + 130) + 5461 * 56) / 3.35e12)
    # Three products of the loss; the first is written in float32: 1 GB, less than its FLOPs take. Then passes over the
    # logits, 14 bytes each, and one chunk's gradient of the weight.
    loss = 6 * 2048 * 32000 * 8192 / 989e12 + (14 * 8192 * 32000 + 12 * 2048 * 32000) / 3.35e12
    assert seconds["loss_seconds"] == pytest.approx(loss)
    assert seconds["optimizer_seconds"] == pytest.approx(14 * 1_339_082_752 / 3.35e12)


def test_narrow_products_and_attention_wait_for_memory():
    """llama_60m: a product of [65,536 x 512] with [512 x 512] has 254 FLOPs a byte; an H100 needs 295."""
    found = cluster("model=llama_60m", "optimizer=adam", *PACKED, "train.batch_size=256", "train.compile=false")
    seconds, positions = found["cards"]["H100"], 65_536
    squares = 8 * 3 * 4 * 2 * (positions * 1024 + 512**2) / 3.35e12
    others = 8 * 3 * 3 * 2 * positions * 512 * 1376 / 989e12
    assert seconds["products_seconds"] == pytest.approx(squares + others)
    assert seconds["attention_seconds"] == pytest.approx(8 * 12 * 2 * 512 * positions / 3.35e12)
    assert seconds["optimizer_seconds"] == pytest.approx(14 * 58_073_600 / 3.35e12)


@pytest.mark.parametrize("processes", [1, 8])
def test_a_step_is_its_parts_and_its_speed_follows(processes):
    argv = ("configs/experiment/table2/60m/alice.yaml",)
    counted = plan_run(load(list(argv)).config, processes=processes)
    for name, card in counted["cluster"]["cards"].items():
        passes = sum(card[f"{part}_seconds"] for part in ("products", "elementwise", "attention", "loss"))
        for link in card["links"].values():
            longer = max(passes, link["communication_seconds"])
            assert link["step_seconds"] == pytest.approx(longer + card["optimizer_seconds"] + link["dealing_seconds"])
            targets = 512 * 256 * counted["cluster"]["filled"]
            assert link["targets_per_second"] == pytest.approx(targets / link["step_seconds"])
            flops = counted["flops_per_position"] * targets / processes
            assert link["mfu"] == pytest.approx(flops / link["step_seconds"] / CARDS[name].bfloat16)


def test_messages_by_hand():
    """DDP averages float32 gradients; FSDP2 gathers layers twice for each micro-batch, the rest once."""
    argv = ("model=llama_1_3b", "optimizer=adam", *PACKED, "train.batch_size=64", "train.micro_batch_size=4")
    parameters, outside = 1_339_082_752, 2 * 32000 * 2048 + 2048
    ddp = cluster(*argv, processes=8)["cards"]["H100"]["links"]
    assert ddp["nvlink"]["communication_seconds"] == pytest.approx(7 / 8 * 2 * 4 * parameters / 450e9)
    assert ddp["pcie"]["communication_seconds"] == pytest.approx(7 / 8 * 2 * 4 * parameters / 64e9)
    found = cluster(*argv, "train.parallel=fsdp2", processes=8)
    gathered = 2 * 2 * (2 * parameters - outside)  # bytes of two micro-batches of two
    assert found["micro_batches"] == 2
    messages = found["cards"]["H100"]["links"]["nvlink"]["communication_seconds"]
    assert messages == pytest.approx(7 / 8 * (gathered + 4 * parameters) / 450e9)


def test_replicas_share_the_steps_of_matrices_and_send_their_weights():
    """Eight squares of Muon's on two processes: a half each, and the bytes of all that the other stepped."""
    argv = ("model=llama_60m", "optimizer=muon", *PACKED, "train.batch_size=64")
    alone, dealt = cluster(*argv)["cards"]["H100"], cluster(*argv, processes=2)["cards"]["H100"]
    whole = cluster(*argv, "train.deal_steps=false", processes=2)["cards"]["H100"]
    assert whole["optimizer_seconds"] == alone["optimizer_seconds"]
    assert 0.5 < dealt["optimizer_seconds"] / alone["optimizer_seconds"] < 0.7  # Adam steps the vocabulary on both
    matrices = 8 * (4 * 512**2 + 3 * 512 * 1376)
    assert dealt["links"]["nvlink"]["dealing_seconds"] == pytest.approx(2 * matrices / 2 / 450e9)
    assert whole["links"]["nvlink"]["dealing_seconds"] == alone["links"]["alone"]["dealing_seconds"] == 0


def test_beyond_a_machine_the_network_carries_the_messages():
    assert cluster_plan._links(H100, 8) == {"nvlink": 450e9, "pcie": 64e9}
    assert cluster_plan._links(H100, 16) == {"nvlink": 50e9, "pcie": 50e9}


@pytest.mark.slow
def test_owners_step_faster_than_replicas():
    """Alice on 8 processes: a replica that is dealt nothing steps all matrices, an owner an eighth of them."""
    argv = ("configs/experiment/table2/1_3b/alice.yaml", "train.deal_steps=false")
    replica = cluster(*argv, processes=8)["cards"]["H100"]["optimizer_seconds"]
    owner = cluster(*argv, "train.parallel=fsdp2", processes=8)["cards"]["H100"]["optimizer_seconds"]
    # lm_head is one process's alone.
    assert replica / 8 < owner < replica / 5


def test_bfloat16_iterations_run_at_their_rate():
    """Muon's products are in bfloat16 on a GPU: at the float32 rate its bound would be above what a GPU needs."""
    argv = ("model=llama_1_3b", *PACKED, "train.batch_size=32")
    low = cluster(*argv, "optimizer=muon")["cards"]["H100"]["optimizer_seconds"]
    exact = cluster(*argv, "optimizer=muon", "optimizer.ns_dtype=float32")["cards"]["H100"]["optimizer_seconds"]
    assert exact == pytest.approx(low * 989 / 67, rel=0.2)


def test_compiled_layers_make_fewer_passes():
    argv = ("model=llama_60m", "optimizer=adam", *PACKED, "train.batch_size=256")
    eager = cluster(*argv, "train.compile=false")["cards"]["H100"]
    compiled = cluster(*argv, "train.compile=true")["cards"]["H100"]
    assert compiled["elementwise_seconds"] < 0.3 * eager["elementwise_seconds"]
    assert compiled["products_seconds"] == eager["products_seconds"]


@pytest.mark.slow
def test_every_optimizer_has_a_plan_with_a_bound_or_without(monkeypatch):
    for name in registry.names():
        for processes in (1, 2):
            found = cluster("model=llama_nano", f"optimizer={name}", "train.parallel=fsdp2", processes=processes)
            assert found["cards"]["H100"]["optimizer_seconds"] > 0, name
    monkeypatch.delitem(BOUNDS, "racs")
    argv = ("model=llama_nano", "optimizer=racs", "train.dtype=bfloat16")
    assert cluster(*argv)["cards"]["H100"]["optimizer_seconds"] > 0


def test_c4_fills_three_quarters_of_a_row():
    """256 rows of C4's lengths were counted: 49,630 of 65,536 positions are needed (docs/gpu.md)."""
    c4 = load(["data=c4", "optimizer=adam"]).config.data
    assert filled(c4) == pytest.approx(49_630 / 65_536, abs=0.01)
    assert targets_per_row(c4) == 256 * filled(c4)
    packed = load(list(PACKED)).config.data
    assert filled(packed) == 1 and targets_per_row(packed) == 255


def test_a_small_model_eats_more_text_than_a_core_tokenises():
    card = cluster("configs/experiment/table2/60m/adam.yaml")["cards"]["H100"]
    assert card["data_cores"] == pytest.approx(card["links"]["alone"]["targets_per_second"] / 300_000)
    assert card["prepared_data_cores"] < 1 < card["data_cores"]


def test_an_unknown_card_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="--card must be one of A100-40, A100-80, H100, got 'H10'; did you mean H100"):
        chosen("H10")


def test_a_method_whose_work_is_unknown_is_said(tmp_path):
    """Its step reads gradients and writes weights: 6 bytes an element of the layers' matrices in bfloat16."""
    file = tiny.method_file(tmp_path, "unknown_work")
    own = cluster(f"optimizer={file}", "optimizer.lr=0.01", "model=llama_60m", "train.dtype=bfloat16")
    known = cluster("optimizer=racs", "model=llama_60m", "train.dtype=bfloat16", "optimizer.last_layer=adam")
    (unknown,) = set(cluster_lines(own)) & {UNCOUNTED}
    assert "not counted" in unknown and UNCOUNTED not in cluster_lines(known)
    elements = 8 * (4 * 512**2 + 3 * 512 * 1376)
    saved = known["cards"]["H100"]["optimizer_seconds"] - own["cards"]["H100"]["optimizer_seconds"]
    assert saved == pytest.approx(2 * elements / 3.35e12)  # RACS reads the gradient twice
