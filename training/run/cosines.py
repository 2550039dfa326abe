"""How far bases turn when they are refreshed: the record behind Fig. 6 of arXiv 2502.07752.

`run.record_basis_cosines=true` writes it to basis_cosines.jsonl of the run folder, a row for each parameter and refresh
but the first: {"kind": "basis", "step", "parameter", "cosines"}. cosines[i] is |cosine| of the angle between column i
before and after the refresh. The comparison copies every basis and waits for the device at every step.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from optimizers import BaseOptimizer
from training.run.metrics import MetricsLog


class BasisCosines:
    """Compares the bases of `optimizer` before and after each step.

    Raises ValueError naming the setting when the optimizer keeps no basis.
    """

    _log: MetricsLog

    def __init__(self, optimizer: BaseOptimizer):
        self._optimizer = optimizer
        self._parameters = {
            name: parameter
            for group in optimizer.param_groups
            if group["algorithm"] != "adam"
            for name, parameter in zip(group["param_names"], group["params"], strict=True)
            if "basis" in optimizer.template(parameter, group)
        }
        if not self._parameters:
            raise ValueError("run.record_basis_cosines: this optimizer keeps no basis (state 'basis') to record")

    def open(self, path: Path, resumed_step: int | None) -> None:
        """Write to `path` from now on. Rows after `resumed_step` are dropped. Raises RunFolderError."""
        self._log = MetricsLog(path, resumed_step)

    @contextlib.contextmanager
    def recording(self, step: int) -> Iterator[None]:
        """Around one step of the optimizer: writes a row for each basis that it refreshed."""
        state = self._optimizer.state
        before = {name: state[p]["basis"].clone() for name, p in self._parameters.items() if state.get(p)}
        yield
        for name, old in before.items():
            new = state[self._parameters[name]]["basis"]
            if not torch.equal(old, new):
                row = {"kind": "basis", "step": step, "parameter": name, "cosines": column_cosines(old, new).tolist()}
                self._log.write(row)

    def sync(self) -> None:
        """Return when every row is on the disk. Raises SaveError."""
        self._log.sync()


def column_cosines(old: Tensor, new: Tensor) -> Tensor:
    """|cosine| between the same columns of two bases [m, r] -> float32 or float64 [r]."""
    wide = torch.promote_types(old.dtype, torch.float32)
    return torch.nn.functional.cosine_similarity(old.to(wide), new.to(wide), dim=0).abs()
