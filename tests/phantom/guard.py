"""guard.cpp, compiled and loaded by the import of this module, which must come before that of torch."""

import ctypes
import hashlib
import importlib.util
import subprocess
import tempfile
from pathlib import Path

from tests.phantom.compiler import compiler

SOURCE = Path(__file__).with_name("guard.cpp")
CACHE = SOURCE.parent / "__pycache__"  # of this checkout, like its compiled Python


def load_guard() -> None:
    """Compile guard.cpp for the installed torch, some seconds the first time, and load it."""
    torch_folder = Path(importlib.util.find_spec("torch").origin).parent
    version = (torch_folder / "version.py").read_bytes()
    # The library names torch's folder, where the loader finds libc10.so.
    key = hashlib.sha256(str(torch_folder).encode() + version + SOURCE.read_bytes()).hexdigest()[:16]
    built = CACHE / f"guard-{key}.so"
    if not built.is_file():
        CACHE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:  # several processes may be here at once
            made = Path(folder) / built.name
            libraries = torch_folder / "lib"
            program = compiler()
            assert program is not None, "guard.cpp needs a C++ compiler"
            command = [program, "-std=c++20", "-shared", "-fPIC", "-O0", f"-I{torch_folder / 'include'}", str(SOURCE)]
            linked = ["-o", str(made), f"-L{libraries}", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{libraries}"]
            subprocess.run(command + linked, check=True)
            made.replace(built)
    ctypes.CDLL(str(built))


load_guard()
