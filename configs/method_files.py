"""Methods of a user's own Python file: `optimizer=FILE.py`."""

import hashlib
import importlib.util
import re
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

from configs.messages import one_line
from configs.reading import FOLDER, SettingsError
from configs.user_paths import expanded, is_file
from optimizers import registry


class MethodFile(NamedTuple):
    """A file that was run in this process: the methods that it registered, and 12 hexadecimal digits of the SHA-256 of
    its bytes."""

    names: tuple[str, ...]
    digest: str


_registered: dict[Path, MethodFile] = {}


def register_file(name: str) -> MethodFile:
    """Run a Python file, relative to the current directory or else to the folder that holds configs/. A file is run
    once in a process.

    Raises:
        SettingsError: there is no such file, it fails, or it registers nothing; one sentence.
    """
    path = expanded(name)
    if not is_file(path):
        path = FOLDER.parent / path
    if not is_file(path):
        raise SettingsError(f"optimizer file {name} does not exist")
    if path.suffix != ".py":
        raise SettingsError(f"optimizer file {name} is no Python file: its name must end in .py")
    path = path.resolve()
    if path not in _registered:
        _registered[path] = _run(path, name)
    return _registered[path]


def _run(path: Path, shown: str) -> MethodFile:
    known = set(registry.names())
    # As a module of `optimizers` it may import as the methods there do. Two files may have one stem.
    stem = re.sub(r"\W", "_", path.stem)
    module_name = f"optimizers.{stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[module_name] = importlib.util.module_from_spec(spec)
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever a user's file raises
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        place = f" (line {lines[-1]})" if lines else ""
        raise SettingsError(
            f"optimizer file {shown} cannot be run: {type(error).__name__}: {one_line(error)}{place}"
        ) from error
    names = tuple(sorted(set(registry.names()) - known))
    if not names:
        raise SettingsError(f'optimizer file {shown} registers no method; decorate its class with @register("name")')
    return MethodFile(names, digest)
