"""Bytes on CUDA, where bitsandbytes launches on the default stream. Stand-ins for streams list their waits."""

import contextlib

import pytest
import torch

from optimizers.engine import eight_bit

CUDA = torch.device("cuda")


class Streams:
    """Of a machine whose current stream is "side". `said`: what happened, in order."""

    class Stream:
        def __init__(self, name, said):
            self.name, self.said = name, said

        def wait_stream(self, other):
            self.said.append(f"{self.name} waits for {other.name}")

    def __init__(self):
        self.said = []
        self.default, self.current = (self.Stream(name, self.said) for name in ("default", "side"))

    @contextlib.contextmanager
    def enter(self, stream):
        before, self.current = self.current, stream
        yield
        self.current = before

    def step(self):
        self.said.append(f"step on {self.current.name}")


@pytest.fixture
def streams(monkeypatch):
    streams = Streams()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: streams.current)
    monkeypatch.setattr(torch.cuda, "default_stream", lambda _: streams.default)
    monkeypatch.setattr(torch.cuda, "stream", streams.enter)
    return streams


def test_a_step_with_bytes_on_another_stream_is_in_order_with_it(streams):
    with eight_bit.in_order(CUDA, {"state_bits": 8}):
        streams.step()
    assert streams.said == ["default waits for side", "step on default", "side waits for default"]


def test_steps_without_bytes_or_on_the_default_stream_stay_where_they_are(streams):
    with eight_bit.in_order(CUDA, {"state_bits": 32}):
        streams.step()
    with streams.enter(streams.default), eight_bit.in_order(CUDA, {"state_bits": 8}):
        streams.step()
    assert streams.said == ["step on side", "step on default"]
