"""Answers and errors that the main process shares. Two processes: tests/faults/test_many_processes.py."""

import pickle
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from configs.schema import SettingsError
from training.processes.world import World
from training.run_errors import MachineError


class Unpicklable(RuntimeError):
    def __init__(self, text: str):
        super().__init__(text)
        self.held = lambda: None


def world(index: int, count: int) -> World:
    """A world without processes behind it."""
    made = object.__new__(World)
    made.index, made.count, made.is_main = index, count, index == 0
    made._host_group, made._watchdog, made._main_error = None, None, None
    return made


@pytest.fixture
def broadcasts(monkeypatch):
    """The values that the main process sent; a process without one of its own receives the last."""
    sent = []

    def broadcast(box, group):
        if box[0] == (None, None) and sent:
            box[0] = pickle.loads(sent[-1])
        else:
            sent.append(pickle.dumps(box[0]))

    monkeypatch.setattr(dist, "broadcast_object_list", broadcast)
    return sent


def refuse():
    raise SettingsError("train.steps is wrong")


def test_a_single_process_needs_no_messages():
    assert world(0, 1).from_main(lambda: 3) == 3
    with pytest.raises(SettingsError, match=r"train\.steps"):
        world(0, 1).from_main(refuse)


def test_every_process_has_the_main_ones_answer(broadcasts):
    assert torch.equal(world(0, 2).from_main(lambda: torch.arange(3)), torch.arange(3))
    assert torch.equal(world(1, 2).from_main(pytest.fail), torch.arange(3))
    assert len(broadcasts) == 1


def test_every_process_raises_the_main_ones_error(broadcasts):
    for index in (0, 1):
        with pytest.raises(SettingsError, match=r"train\.steps is wrong"):
            world(index, 2).from_main(refuse)


def test_an_error_that_cannot_be_sent_is_sent_as_its_text(broadcasts):
    def fail():
        raise Unpicklable("the server is gone")

    with pytest.raises(Unpicklable):
        world(0, 2).from_main(fail)
    with pytest.raises(MachineError, match="Unpicklable: the server is gone"):
        world(1, 2).from_main(fail)


def test_the_signal_of_any_process_stops_all(monkeypatch):
    stopped = world(0, 2)
    stopped.signals = SimpleNamespace(requested=0)
    monkeypatch.setattr(stopped, "all_gather", lambda signum: [[signum], [15]])
    assert stopped.stop_signal() == 15
