"""The project as a package: contents and requirements of the wheel, and lists of requirements that agree."""

import importlib.metadata
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# What a user does who has installed the wheel and nothing else: every optimizer steps a matrix.
USE = """
import importlib.util
import torch
import optimizers

assert optimizers.__file__.startswith(FOLDER), optimizers.__file__
for absent in ("transformers", "accelerate", "omegaconf", "bitsandbytes", "numpy", "training", "configs", "models"):
    assert importlib.util.find_spec(absent) is None, absent
for name in optimizers.registry.names():
    cls, presets = optimizers.registry.get(name)
    if presets.get("state_bits", cls.traits.state_bits) != 8:  # those need bitsandbytes as well
        weight = torch.nn.Parameter(torch.eye(8, 12))
        optimizer = cls([weight], lr=0.01, **presets)
        for _ in range(2):
            weight.square().sum().backward()
            optimizer.step()
        assert weight.isfinite().all() and not torch.equal(weight, torch.eye(8, 12)), name
        print(name)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel that `pip wheel .` makes, built with the hatchling that is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check", "--wheel-dir", folder]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, ROOT], check=True)
    (made,) = folder.glob("*.whl")
    return made


@pytest.mark.slow
def test_wheel_holds_optimizers_alone(wheel):
    tracked = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "optimizers"]
    source = subprocess.run(tracked, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    names = zipfile.ZipFile(wheel).namelist()
    metadata = f"llama_optimizers-{PROJECT['version']}.dist-info"
    assert {name.partition("/")[0] for name in names} == {"optimizers", metadata}
    assert {name for name in names if name.startswith("optimizers/")} == {
        name for name in source if (ROOT / name).exists()
    }
    assert "optimizers/py.typed" in names
    assert f"{metadata}/licenses/LICENSE" in names


@pytest.mark.slow
def test_wheel_works_with_torch_alone(wheel, tmp_path):
    """In a Python that sees the standard library, the unpacked wheel, and torch with what torch itself requires."""
    installed, torch_alone = tmp_path / "installed", tmp_path / "torch_alone"
    zipfile.ZipFile(wheel).extractall(installed)
    torch_alone.mkdir()
    for name in required("torch"):
        for entry in top_level(name):
            if not (torch_alone / entry.name).exists():
                (torch_alone / entry.name).symlink_to(entry)
    paths = f"import sys; sys.path += {[str(installed), str(torch_alone)]}; FOLDER = {str(installed)!r}\n"
    # -S: no site-packages; -I: no PYTHONPATH and no current folder.
    done = subprocess.run([sys.executable, "-I", "-S", "-c", paths + USE], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {"adam", "racs", "alice", "galore", "muon", "soap"} <= set(done.stdout.split())


def required(name: str) -> set[str]:
    """The distribution `name` and all that it requires here, extras left out."""
    found: set[str] = set()
    wanted = [name]
    while wanted:
        name = canonicalize_name(wanted.pop())
        if name not in found:
            found.add(name)
            requirements = map(Requirement, importlib.metadata.requires(name) or [])
            wanted += [r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


def top_level(name: str) -> set[Path]:
    """The files and folders of site-packages that the distribution `name` has put there."""
    distribution = importlib.metadata.distribution(name)
    first = {file.parts[0] for file in distribution.files or [] if file.parts[0] != ".."}
    return {Path(str(distribution.locate_file(part))) for part in first}


# ---- the lists of requirements


def pinned(file: str) -> dict[str, str]:
    """Package -> version of a requirements file, the files it includes left out."""
    lines = [line.partition(" #")[0].strip() for line in (ROOT / file).read_text().splitlines()]
    pairs = [line.split("==") for line in lines if line and line[0] not in "-#"]
    return {canonicalize_name(name): version for name, version in pairs}


def extra(name: str) -> list[Requirement]:
    """The requirements of an extra, the project's own extras replaced by what they hold."""
    found = []
    for requirement in map(Requirement, PROJECT["optional-dependencies"][name]):
        own = requirement.name == PROJECT["name"]
        found += [r for inner in requirement.extras for r in extra(inner)] if own else [requirement]
    return found


@pytest.mark.parametrize(
    ("extras", "files"),
    [
        (["train"], ["requirements.txt"]),
        (["test"], ["requirements.txt", "requirements-test.txt"]),
    ],
)
def test_extras_and_pinned_requirements_agree(extras, files):
    """The same packages in both, and the pinned version is one that the extra allows."""
    versions = {package: version for file in files for package, version in pinned(file).items()}
    wanted = [*map(Requirement, PROJECT["dependencies"]), *(r for name in extras for r in extra(name))]
    assert {canonicalize_name(r.name) for r in wanted} == versions.keys()
    assert [str(r) for r in wanted if versions[canonicalize_name(r.name)] not in r.specifier] == []


def test_build_requirement_is_the_one_tests_use():
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert build == [f"hatchling=={pinned('requirements-test.txt')['hatchling']}"]


def test_changelog_knows_the_version():
    """The newest heading is "Unreleased" for a version in development, else the version itself."""
    headings = [line[3:] for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ")]
    in_development = "dev" in PROJECT["version"]
    assert headings[0].startswith("[Unreleased]" if in_development else f"[{PROJECT['version']}]")
