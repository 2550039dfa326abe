"""train.py with a fault in it.

    python tests/faults/faulty.py FAULT:FUNCTION:CALL[:PROCESS] ARGUMENTS...

FAULT happens at the CALL-th call of FUNCTION (dotted, from its module), only in PROCESS if that is given: `kill` the
process (SIGKILL) before the call, send it SIGTERM (`term`) or SIGINT (`int`), make the disk `full` for the call, or
make the loss that it returns `nan`.
"""

import errno
import importlib
import os
import signal
import sys

SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT}


def install(fault: str) -> None:
    """Patch the function that `fault` names."""
    kind, function, call, *process = fault.split(":")
    if process and process[0] != os.environ.get("RANK", "0"):
        return
    owner, name = _owner(function)
    original, calls = getattr(owner, name), 0

    def faulty(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == int(call):
            if kind in SIGNALS:
                os.kill(os.getpid(), SIGNALS[kind])
            if kind == "full":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if kind == "nan":
                result = original(*args, **kwargs)
                return type(result)(*(value * float("nan") for value in result))
        return original(*args, **kwargs)

    setattr(owner, name, faulty)


def _owner(function: str):
    """The module or class that holds the last part of `function`, and that part."""
    *parts, name = function.split(".")
    for length in range(len(parts), 0, -1):
        try:
            owner = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            owner = getattr(owner, part)
        return owner, name
    raise ValueError(f"no module in {function}")


def main(faults: list[str], argv: list[str]) -> int:
    """train.main(argv) with all `faults`."""
    import train

    for fault in faults:
        install(fault)
    return train.main(argv)


if __name__ == "__main__":
    sys.exit(main([sys.argv[1]], sys.argv[2:]))
