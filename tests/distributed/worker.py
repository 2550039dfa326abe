"""The measurements of two processes, in one start: accelerate launch ... tests/distributed/worker.py OUT.json"""

import training.processes.repeatable_sums  # noqa: F401 - before torch

# isort: split
import copy
import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor.debug import CommDebugMode

import optimizers
from benchmarks import parallel as check
from configs.schema import load
from models.llama import build_model
from optimizers import registry
from optimizers.parallel import shards
from training.optimizer import build_optimizer
from training.plan import plan_run
from training.processes.layout import Replicas, Shards
from training.processes.model_weights import load_weights, set_initial_weights, whole_weights
from training.processes.start import start_world

LIKE_ROWS, LIKE_MATRICES = "lamb", "alice"


def resumed(name: str, world) -> dict[str, list[float]]:
    """Losses of steps 4 to 6 in shards, uninterrupted and after a full state dict went to each layout."""
    layout, optimizer = check.lay_out(name, Shards, world, torch.float32)
    check.train(layout.model, optimizer, range(4), **check.share(world))
    saved = copy.deepcopy(whole_state(layout, optimizer, world))  # it holds live tensors
    losses = {"on": check.train(layout.model, optimizer, range(4, 7), **check.share(world))}
    for kind in (Shards, Replicas):
        layout, optimizer = check.lay_out(name, kind, world, torch.float32)
        load_weights(layout.unwrapped, saved[0])
        optimizer.load_full_state_dict(saved[1])
        losses[f"{kind.__name__} kept it"] = same(whole_state(layout, optimizer, world), saved)
        losses[kind.__name__] = check.train(layout.model, optimizer, range(4, 7), **check.share(world))
    model = build_model(check.MODEL, dtype=torch.float32, seed=1)
    optimizer = check.build(name, model)
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    losses["alone"] = check.train(model, optimizer, range(4, 7), **check.ALONE)
    return losses


def whole_state(layout, optimizer, world) -> tuple[dict, dict]:
    """The weights and the optimizer's state of all processes together, on each of them."""
    state = whole_weights(layout.unwrapped, world), optimizer.full_state_dict()
    return world.from_main(lambda: state)


def same(a, b) -> bool:
    """Whether nested states are equal to the bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def started(kind, world, folder: Path) -> dict[str, bool]:
    """Whether weights are those of one process to the bit: drawn, tied, in bfloat16, and read from a folder."""
    tied = dataclasses.replace(check.MODEL, tie_word_embeddings=True)
    world.from_main(lambda: build_model(tied, dtype=torch.float32, seed=5).save_pretrained(folder))
    kinds = {
        "drawn": (check.MODEL, torch.float32),
        "tied": (tied, torch.float32),
        "bfloat16": (check.MODEL, torch.bfloat16),
        "read": (dataclasses.replace(tied, init_from=str(folder)), torch.float32),
    }
    found = {}
    for name, (section, dtype) in kinds.items():
        layout = kind(build_model(section, dtype=dtype, seed=1, device="meta"), world)
        set_initial_weights(layout.unwrapped, section, world, seed=1)
        whole, alone = whole_weights(layout.unwrapped, world), build_model(section, dtype=dtype, seed=1).state_dict()
        found[name] = all(same(weight, alone[name]) for name, weight in whole.items())
        assert whole.keys() == ({*alone} - {*layout.unwrapped.all_tied_weights_keys} if world.is_main else set())
        local = sum(shards.local(parameter).nbytes for parameter in layout.unwrapped.parameters())
        assert kind is Replicas or local < 0.6 * sum(weight.nbytes for weight in alone.values())
    return found


def accumulated(kind, world) -> dict:
    """Two micro-batches: the norm of the gradients, before and after clipping, and the reductions of each."""
    layout, _ = check.lay_out("adam", kind, world, torch.float32)
    rows = check.batch(0)[check.share(world)["share"]]
    first, last = rows.split(len(rows) // 2)
    parameters = list(layout.unwrapped.parameters())
    places = [layout.keeps_gradients and parameter.grad.data_ptr() for parameter in parameters]
    with CommDebugMode() as waiting, layout.no_sync():
        layout.model(first, first).loss_sum.backward()
    with CommDebugMode() as reducing:
        layout.model(last, last).loss_sum.backward()
    kept = [layout.keeps_gradients and parameter.grad.data_ptr() for parameter in parameters] == places
    norm, clipped = (layout.gradient_norm(parameters, largest).item() for largest in (1.0, None))
    counts = {"waiting": reductions(waiting), "reducing": reductions(reducing)}
    return {"norm": norm, "clipped": clipped, "kept": kept, **counts}


def reductions(mode: CommDebugMode) -> int:
    return sum(number for call, number in mode.get_comm_counts().items() if "reduce" in str(call))


def dtypes(world) -> list[str]:
    """Of the shards and the gathered weight of a bfloat16 model, its output and its gradients."""
    layout, _ = check.lay_out("adam", Shards, world, torch.bfloat16)
    seen = {parameter.dtype for parameter in layout.unwrapped.parameters()}
    gate = layout.unwrapped.model.layers[0].mlp.gate_proj
    gate.register_forward_hook(lambda module, inputs, output: seen.update((module.weight.dtype, output.dtype)))
    rows = check.batch(0)
    layout.model(rows, rows).loss_sum.backward()
    seen |= {parameter.grad.dtype for parameter in layout.unwrapped.parameters()}
    return sorted(map(str, seen))


def reduced(kind, world) -> dict[str, list[str]]:
    """The dtypes in which gradients of a bfloat16 model are added up, and those of the gradients."""
    layout, _ = check.lay_out("adam", kind, world, torch.bfloat16)
    rows, seen = check.batch(0)[check.share(world)["share"]], set()
    with pytest.MonkeyPatch.context() as patch:
        for name, place in (("all_reduce", 0), ("reduce_scatter_tensor", 1), ("reduce_scatter_single", 1)):
            call = getattr(dist, name, None)
            if call is not None:
                patch.setattr(dist, name, watched(call, place, seen))
        layout.model(rows, rows).loss_sum.backward()
    gradients = {str(parameter.grad.dtype) for parameter in layout.unwrapped.parameters()}
    return {"added in": sorted(seen), "gradients": sorted(gradients)}


def watched(call, place, seen):
    """A collective that notes the dtype of its input."""

    def note(*args, **kwargs):
        given = args[place] if len(args) > place else kwargs["input"]
        seen.add(str(given.dtype))
        return call(*args, **kwargs)

    return note


# benchmarks.parallel's model, as settings.
SETTINGS = (
    *("model=llama_nano", "data=builtin", "train.dtype=bfloat16", "train.parallel=fsdp2", "train.micro_batch_size=2"),
    *(
        f"model.{key}={getattr(check.MODEL, key)}"
        for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    ),
    *(f"train.batch_size={check.ROWS}", f"data.sequence_length={check.LENGTH}", "optimizer.last_layer=adam"),
)


def held(name: str, world) -> dict[str, list[list[int]]]:
    """Bytes of weights, gradients, whole gradients that are added up, and states, on each process; and the plan's."""
    config = load([*SETTINGS, f"optimizer={name}"]).config
    layout = Shards(build_model(config.model, dtype=torch.bfloat16, seed=0), world)
    optimizer = build_optimizer(layout.unwrapped, config.optimizer)
    optimizer.allocate_state()
    parameters, rows = list(layout.unwrapped.parameters()), check.batch(0)[check.share(world)["share"]]
    with layout.no_sync():
        layout.model(rows[:2], rows[:2]).loss_sum.backward()
    waiting = [
        group._get_fsdp_state()._fsdp_param_group for group in (*layout.unwrapped.model.layers, layout.unwrapped)
    ]
    added = sum(each.unsharded_accumulated_grad.nbytes for group in waiting for each in group.fsdp_params)
    layout.model(rows[2:], rows[2:]).loss_sum.backward()
    weights, gradients = (
        sum(tensor.to_local().nbytes for tensor in tensors)
        for tensors in (parameters, [parameter.grad for parameter in parameters])
    )
    planned = plan_run(config, processes=world.count)["cluster"]["memory"]
    keys = ("weight_bytes", "gradient_bytes", "accumulated_gradient_bytes", "optimizer_state_bytes")
    return {
        "held": world.all_gather(weights, gradients, added, optimizers.state_bytes(optimizer)),
        "planned": [planned[key] for key in keys],
    }


def main(out: Path) -> None:
    world = start_world(seed=0, threads=1, deterministic=False, dtype="float32")
    found = {
        "rows": [dataclasses.asdict(check.compare(name, world, range(7))) for name in registry.names()],
        "resumed": {name: resumed(name, world) for name in (LIKE_ROWS, LIKE_MATRICES, "soap", "adam_8bit")},
        "started": {kind.__name__: started(kind, world, out.with_name("saved")) for kind in (Replicas, Shards)},
        "accumulated": {kind.__name__: accumulated(kind, world) for kind in (Replicas, Shards)},
        "dtypes": dtypes(world),
        "held": {name: held(name, world) for name in ("adam", "alice", "racs", "lamb", "adam_8bit", "scale")},
        "reduced": {kind.__name__: reduced(kind, world) for kind in (Replicas, Shards)},
    }
    if world.is_main:
        out.write_text(json.dumps(found))
    world.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
