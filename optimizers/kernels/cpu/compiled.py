"""The C++ files of this folder, each compiled by the machine's own compiler at its first use, which takes seconds.

Each makes one pass over memory where torch would make several. Nothing needs them: without a compiler `function`
returns None, with a compiler that fails it also warns, and torch computes the same.

A function of such a file takes pointers, longs and doubles. It exists for float and for double, as `name_float` and
`name_double`.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# The part of -ffast-math that lets sums be vectorised. Infinity and NaN keep their meaning, because a run must see
# them.
FLAGS = ("-std=c++17", "-O3", "-march=native", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math",
         "-fno-signed-zeros", "-fassociative-math")  # fmt: skip

PLAIN = (Tensor, torch.nn.Parameter)  # exactly these: a subclass may hold its elements elsewhere
C_TYPES = {torch.float32: "float", torch.float64: "double"}
KINDS = {"p": ctypes.c_void_p, "l": ctypes.c_long, "d": ctypes.c_double}
# A number may be a tensor of one element, as a learning rate is where torch's schedules keep it as one.
GIVEN: dict[str, Callable[[Any], Any]] = {"p": lambda tensor: None if tensor is None else tensor.data_ptr(),
                                          "l": int, "d": float}  # fmt: skip


def function(source: str, name: str, signature: str, *tensors: Tensor) -> Callable[..., None] | None:
    """The function `name` of the C++ file `source` for the common dtype of `tensors`.

    None unless all of them are plain tensors, dense, by rows and in a CPU's memory, and there is a compiler.
    `signature` has a letter of KINDS for each argument; a pointer is given as a tensor or None.
    """
    dtype = tensors[0].dtype
    for tensor in tensors:
        if not (type(tensor) in PLAIN and tensor.dtype == dtype and tensor.is_cpu and tensor.is_contiguous()):
            return None
    if dtype not in C_TYPES or (loaded := library(source)) is None:
        return None
    compiled = _declared(loaded, f"{name}_{C_TYPES[dtype]}", signature)

    def call(*arguments: Tensor | float | None) -> None:
        compiled(*[GIVEN[letter](value) for letter, value in zip(signature, arguments, strict=True)])

    return call


@functools.cache
def _declared(loaded: ctypes.CDLL, symbol: str, signature: str) -> Callable[..., None]:
    """The function `symbol` of a library. It converts its arguments as `signature` says."""
    compiled = getattr(loaded, symbol)
    compiled.argtypes, compiled.restype = [KINDS[letter] for letter in signature], None
    return compiled


def library(source: str) -> ctypes.CDLL | None:
    """The compiled file `source`, or None if it cannot be compiled. Threads that ask at once compile it once."""
    with _compiling:
        return _kept(source)


def compile_or_warn(source: str) -> ctypes.CDLL | None:
    """The compiled file `source`, taken from the cache (XDG_CACHE_HOME, ~/.cache) or put there; None without a compiler
    ($CXX, c++, g++ or clang++)."""
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))), None)
    if compiler is None:
        return None
    path = Path(__file__).parent / source
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llama-optimizers"
        built = cache / f"{path.stem}-{_fingerprint(path, compiler)}.so"
        if not built.is_file():
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as folder:  # several processes may be here at once
                made = Path(folder) / built.name
                subprocess.run(
                    [compiler, *FLAGS, str(path), "-o", str(made)], check=True, capture_output=True, text=True
                )
                made.replace(built)
        return ctypes.CDLL(str(built))
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:  # RuntimeError: no home folder
        reason = ((getattr(error, "stderr", None) or "").strip() or str(error)).splitlines()[0]
        warnings.warn(f"{source} was not compiled, torch does the same more slowly: {reason}", stacklevel=2)
        return None


_compiling, _kept = threading.Lock(), functools.cache(compile_or_warn)


def _fingerprint(source: Path, compiler: str) -> str:
    """A name for all that the machine code depends on: machines of several kinds may share the cache."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        processor = platform.processor()
    headers = [header.read_text() for header in sorted(source.parent.glob("*.h"))]
    parts = (source.read_text(), *headers, compiler, *FLAGS, platform.machine(), processor)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
