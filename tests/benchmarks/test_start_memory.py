"""What `scripts/measure_start.py` prints; its measurements are not tested."""

from types import SimpleNamespace

import pytest
import torch

from benchmarks import start_memory
from optimizers import Adam

STATUS = "Name:\tpython\nVmPeak:\t  900 kB\nVmHWM:\t  %d kB\nVmRSS:\t  70 kB\n"


def test_peaks_of_all_processes_before_and_after_the_state(monkeypatch, capsys):
    optimizer = Adam([torch.nn.Parameter(torch.zeros(3, 2))], lr=0.1)
    monkeypatch.setattr(start_memory, "status", lambda: STATUS % (2048 * (1 + len(optimizer.state))))
    closed = []
    world = SimpleNamespace(all_gather=lambda peak: [[peak], [2**30]], is_main=True, close=lambda: closed.append(True))
    with pytest.raises(SystemExit) as ended:
        start_memory.report(SimpleNamespace(world=world, optimizer=optimizer), None, None)
    said = "when training begins: 2, 1,024 MiB\nwith the optimizer's state: 4, 1,024 MiB\n"
    assert capsys.readouterr().out == said and closed and not ended.value.code
