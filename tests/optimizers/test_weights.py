"""Weights are written in one place."""

import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from optimizers import kernels, registry
from optimizers.engine.direction import Direction
from optimizers.engine.refusals import can_round
from optimizers.engine.weights import subtract_changes, subtract_direction

from .harness import gradient, options_of, parameters, train

# Two kernels of libraries compute and write in one call.
WRITERS = {"weights.py", "adamw.py", "adamw_8bit.py"}


class Writes(TorchDispatchMode):
    """Names of the innermost files of optimizers/ from which an operator changes one of `weights`."""

    def __init__(self, weights):
        super().__init__()
        self.storages = {weight.untyped_storage().data_ptr() for weight in weights}
        self.files = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        for argument, value in zip(function._schema.arguments, args, strict=False):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            tensors = value if isinstance(value, (list, tuple)) else [value]
            if any(tensor is not None and tensor.untyped_storage().data_ptr() in self.storages for tensor in tensors):
                self.files.add(self._caller())
        return function(*args, **(kwargs or {}))

    @staticmethod
    def _caller():
        frame = sys._getframe()
        while "/optimizers/" not in frame.f_code.co_filename or "/tests/" in frame.f_code.co_filename:
            frame = frame.f_back
        return Path(frame.f_code.co_filename).name


@pytest.mark.parametrize(
    ("name", "rounded"),
    [(name, False) for name in registry.names()]
    + [(name, True) for name in registry.names() if can_round(registry.get(name)[0])],
)
def test_only_one_module_writes_weights(name, rounded, set_threads):
    """In the plain form, which torch sees; RACS's last pass in C++ is called from the same line."""
    set_threads(1)  # a thread of a pool would step out of the mode's sight
    cls = registry.get(name)[0]
    weights = parameters(dtype=torch.bfloat16 if rounded else torch.float32)
    optimizer = cls(weights, lr=0.01, **options_of(name, weight_decay=0.1))
    if rounded:
        optimizer.round_stochastically(0)
    with kernels.disabled(), Writes(weights) as writes:
        train(optimizer, range(1, 4))
    # Rounding and the scaled subtraction are functions that weights.py calls.
    assert writes.files and writes.files <= WRITERS | {"scaling.py", "rounding.py"}


@pytest.mark.parametrize(("decay", "decays_first"), [(0.0, True), (0.003, True), (0.003, False)])
@pytest.mark.parametrize("count", [1, 3], ids=["alone", "stacked"])
@pytest.mark.parametrize("parts", [("rows", "columns"), ("left", "right"), ("dense",), Direction._fields[:-1]])
def test_a_bfloat16_weight_is_the_float32_result_rounded_once(count, parts, decay, decays_first):
    """A change that is rounded before it is subtracted would end at a neighbour here and there, and a decay that is
    rounded by itself would be nothing: 0.3 % of a weight is less than half a step."""
    gradients = torch.stack([gradient((16, 24), 1, index).float() for index in range(count)])
    shapes = {"rows": (16, 1), "columns": (1, 24), "left": (16, 4), "right": (4, 24), "dense": (16, 24)}
    source = torch.Generator().manual_seed(3)
    direction = Direction(**{part: torch.randn(count, *shapes[part], generator=source) for part in parts})
    weights = [weight.detach() for weight in parameters([(16, 24)] * count, torch.bfloat16)]
    before, after = (1 - decay, 1.0) if decays_first else (1.0, 1 - decay)
    changes = direction.formed(gradients)
    exact = [w.float().mul(before).sub(d, alpha=0.01).mul(after) for w, d in zip(weights, changes, strict=True)]
    others = [weight.clone() for weight in weights]
    subtract_direction(weights, direction, gradients, step=0.01, decay=decay, decays_first=decays_first)
    subtract_changes(others, list(changes), step=0.01, decay=decay, decays_first=decays_first)
    assert all(map(torch.equal, weights, others))
    assert all(torch.equal(weight, each.bfloat16()) for weight, each in zip(weights, exact, strict=True))
