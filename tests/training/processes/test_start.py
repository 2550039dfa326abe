"""The start of a process."""

import signal
import socket

import pytest
from accelerate.state import AcceleratorState

from configs.schema import SettingsError
from training.processes.start import start_world
from training.run_errors import MachineError


@pytest.fixture
def fresh_accelerate():
    """accelerate keeps its state for the life of a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize(
    ("precision", "dtype", "refusal"),
    [("bf16", "bfloat16", "mixed_precision=bf16"), ("fp16", "float32", "mixed_precision is fp16")],
)
def test_precisions_that_do_not_go_together(monkeypatch, fresh_accelerate, precision, dtype, refusal):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", precision)
    try:
        with pytest.raises(SettingsError, match=refusal):
            start_world(seed=0, threads=None, deterministic=False, dtype=dtype)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"RANK": "x"}, "RANK is 'x', not a number"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE is '-2', not a number"),
        ({"RANK": "3"}, "RANK=3 of WORLD_SIZE=1"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "WORLD_SIZE=2, but LOCAL_RANK is not set"),
        ({"MASTER_PORT": "port"}, "MASTER_PORT is 'port', not a number"),
        ({"ACCELERATE_DYNAMO_BACKEND": "fast"}, "accelerate cannot start from this environment"),
        ({"ACCELERATE_DYNAMO_BACKEND": "eager"}, "dynamo_backend is eager: train.compile compiles the layers"),
        ({"ACCELERATE_MIXED_PRECISION": "fp7"}, "mixed_precision is fp7"),
    ],
)
def test_variables_left_over_in_the_environment(monkeypatch, fresh_accelerate, variables, words):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=words):
        start_world(seed=0, threads=None, deterministic=False, dtype="float32")


TWO_MACHINES = {"RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "node1", "MASTER_PORT": "1"}


def named(address: str | None):
    """A resolver that knows `address` for every name, or none."""

    def resolve(host, port, **_):
        if address is None:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0))]

    return resolve


@pytest.mark.parametrize(("address", "said"), [("127.0.1.1", "127.0.1.1"), ("::1", "::1"), (None, "no address")])
def test_a_machine_that_others_cannot_reach_is_refused_at_once(monkeypatch, address, said):
    for name, value in {**TWO_MACHINES, "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(socket, "getaddrinfo", named(address))
    with pytest.raises(MachineError, match=f"stands for {said}, .* set GLOO_SOCKET_IFNAME"):
        start_world(seed=0, threads=None, deterministic=False, dtype="float32")


@pytest.mark.parametrize(
    ("address", "variables"),
    [
        ("10.0.0.1", {}),
        ("127.0.1.1", {"GLOO_SOCKET_IFNAME": "eth0"}),
        ("127.0.1.1", {"WORLD_SIZE": "2"}),  # one machine
        ("127.0.1.1", {"MASTER_ADDR": "127.0.0.1"}),
    ],
)
def test_a_machine_that_others_can_reach_goes_on(monkeypatch, address, variables):
    for name, value in {**TWO_MACHINES, "WORLD_SIZE": "4", "ACCELERATE_USE_FSDP": "true", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(socket, "getaddrinfo", named(address))
    with pytest.raises(SettingsError, match="configured for FSDP"):  # the next check
        start_world(seed=0, threads=None, deterministic=False, dtype="float32")
