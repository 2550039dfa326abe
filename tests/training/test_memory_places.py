"""A run's numbers do not depend on where its memory lies: a resumed process has other addresses than the first."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from configs.schema import load
from models.llama import build_model
from optimizers import build

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def moved(tensor: torch.Tensor, offset: int) -> torch.Tensor:
    """A copy of `tensor`, `offset` elements behind the start of its memory."""
    memory = torch.empty(offset + tensor.numel(), dtype=tensor.dtype)
    return memory[offset:].view(tensor.shape).copy_(tensor)


def trained(name: str, offset: int) -> list[torch.Tensor]:
    """The weights after three steps whose weights and states are moved by `offset` elements before each."""
    sizes = ("hidden_size=96", "intermediate_size=200", "num_hidden_layers=1", "vocab_size=512")
    section = load([f"model.{size}" for size in sizes]).config.model
    model = build_model(section, dtype=torch.float32, seed=0)
    options = {"alice": {"rank": 8, "leading": 3, "update_interval": 2}, "soap": {"update_interval": 2}}.get(name, {})
    optimizer = build(model, name, lr=0.01, adam_lr=0.001, **options)
    ids = torch.arange(4 * 64).view(4, 64) * 37 % section.vocab_size
    kept = []  # blocks of odd sizes between the others change what comes after them
    for step in range(3):
        for number, parameter in enumerate(model.parameters()):
            parameter.data = moved(parameter.data, offset)
            state = optimizer.state[parameter]
            for key, value in state.items():
                if isinstance(value, torch.Tensor):
                    state[key] = moved(value, offset)
            if offset:
                kept.append(torch.empty(offset * (number + step) + 1))
        (model(input_ids=ids, labels=ids).loss_sum / ids.numel()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize("name", ["adam", "racs", "alice", "muon", "soap"])
def test_steps_are_the_same_wherever_memory_lies(name, threads):
    straight = trained(name, 0)
    for offset in (1, 16, 1003):
        assert all(map(torch.equal, trained(name, offset), straight)), offset


@pytest.mark.parametrize("users", [None, "COMPATIBLE"])
def test_the_setting_comes_before_torch_and_gives_way_to_the_users(users):
    environment = {key: value for key, value in os.environ.items() if key != "MKL_CBWR"}
    environment |= {} if users is None else {"MKL_CBWR": users}
    code = (
        "import sys, training.processes.repeatable_sums as sums; assert 'torch' not in sys.modules\n"
        "import os; print(os.environ.get('MKL_CBWR'), sums.on_intel())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    value, intel = done.stdout.split()
    assert value == (users or ("AUTO,STRICT" if intel == "True" else "None"))


@pytest.mark.parametrize("file", ["train.py", "scripts/evaluate.py", "scripts/fim_error.py"])
def test_programs_import_it_before_all_that_may_load_torch(file):
    lines = [line for line in (ROOT / file).read_text().splitlines() if line.startswith(("import ", "from "))]
    ours = next(number for number, line in enumerate(lines) if "repeatable_sums" in line)
    foreign = [line for line in lines[:ours] if line.split()[1].partition(".")[0] not in sys.stdlib_module_names]
    assert not foreign
