"""C++ beside this file, compiled by the machine's own compiler at its first use, which takes seconds.

Only for what torch cannot express in as few passes over memory, only on a CPU, and never a need: without a compiler
`function` gives None, with one that fails it warns too, and the caller has the same in torch.

A function of such a file takes pointers, longs and doubles, and is there for float and double as `name_float` and
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

import torch
from torch import Tensor

# Of what -ffast-math allows, what sums need to be vectorised; not that nothing is infinite or NaN: those must reach
# whoever looks for them.
FLAGS = ("-std=c++17", "-O3", "-march=native", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math",
         "-fno-signed-zeros", "-fassociative-math")  # fmt: skip

PLAIN = (Tensor, torch.nn.Parameter)  # exactly these: a subclass may hold its elements elsewhere
C_TYPES = {torch.float32: "float", torch.float64: "double"}
KINDS = {"p": ctypes.c_void_p, "l": ctypes.c_long, "d": ctypes.c_double}


def function(source: str, name: str, signature: str, *tensors: Tensor) -> Callable[..., None] | None:
    """`name` of the C++ file `source` for the common dtype of `tensors`, if they are plain, dense, by rows and in the
    memory of a CPU, and there is a compiler; else None. `signature` has a letter of KINDS for each argument; a pointer
    is given as a tensor or None."""
    dtype = tensors[0].dtype
    for tensor in tensors:
        if not (type(tensor) in PLAIN and tensor.dtype == dtype and tensor.is_cpu and tensor.is_contiguous()):
            return None
    if dtype not in C_TYPES or (loaded := library(source)) is None:
        return None
    compiled = _declared(loaded, f"{name}_{C_TYPES[dtype]}", signature)

    def call(*arguments: Tensor | float | None) -> None:
        kinds = zip(signature, arguments, strict=True)
        compiled(*[value.data_ptr() if kind == "p" and value is not None else value for kind, value in kinds])

    return call


@functools.cache
def _declared(loaded: ctypes.CDLL, symbol: str, signature: str) -> Callable[..., None]:
    """The function of a library, which from now on converts its arguments as `signature` says."""
    compiled = getattr(loaded, symbol)
    compiled.argtypes, compiled.restype = [KINDS[letter] for letter in signature], None
    return compiled


def library(source: str) -> ctypes.CDLL | None:
    """The compiled file `source`, compiled once however many threads ask for it; None if it cannot be."""
    with _compiling:
        return _kept(source)


def compile_or_warn(source: str) -> ctypes.CDLL | None:
    """The compiled file `source` of this folder, from the cache (XDG_CACHE_HOME, ~/.cache) if it is there; None
    without a compiler ($CXX, c++, g++ or clang++)."""
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
    """Of all that the machine code depends on; the cache may lie where machines of several kinds see it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        processor = platform.processor()
    headers = [header.read_text() for header in sorted(source.parent.glob("*.h"))]
    parts = (source.read_text(), *headers, compiler, *FLAGS, platform.machine(), processor)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
