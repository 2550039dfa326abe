"""Every command, snippet and link of README.md, CONTRIBUTING.md and docs/ does what it says."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
import yaml

from configs import method_files
from configs.schema import load
from optimizers import registry
from scripts import document_options
from tests.optimizers.test_partition import llama

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
RESULTS = [ROOT / "results" / name for name in ("README.md", "findings.md", "beyond/README.md", "fim_error/README.md")]
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)

# Names that are not of this repository: of a run, of the reader, or of the example in docs/adding-an-optimizer.md.
ELSEWHERE = re.compile(r"^(runs|checkpoints|my|stores|model|STORE)/|signum")


def blocks(page: Path, kind: str) -> list[str]:
    """The fenced blocks of one kind, without their fences."""
    return re.findall(rf"```{kind}\n(.*?)```", page.read_text(), flags=re.S)


def commands(program: str) -> list[list[str]]:
    """The words of every command of all pages that runs `program`, each once."""
    texts = [block.replace("\\\n", " ") for page in PAGES for block in blocks(page, "bash")]
    lines = [line.split(" #")[0].strip() for text in texts for line in text.split("\n")]
    lines += [cell for page in PAGES for cell in re.findall(r"\| `(.*?)`", page.read_text()) if program in cell]
    return [words for words in map(shlex.split, dict.fromkeys(lines)) if program in words]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes from the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.S), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, *RESULTS], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_files_and_headings_it_links_to_exist(page):
    missing = []
    for link in re.findall(r"\]\((?!http)(.*?)\)", page.read_text()):
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            missing.append(link)
    assert missing == []


@every_page
def test_the_files_it_names_exist(page):
    """Every name in backticks with a slash and a source file's suffix; `*` and <name> match anything."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    named = re.findall(r"`([\w./*<>-]+/[\w.*<>-]+\.(?:py|sh|sbatch|yaml|yml|md|cpp|toml|csv|svg|png|html))`", text)
    patterns = {name: re.sub(r"<\w+>", "*", name) for name in named if not ELSEWHERE.search(name)}
    assert [name for name, pattern in patterns.items() if not any(ROOT.glob(pattern))] == []


@every_page
def test_scripts_it_names_can_be_run(page):
    names = set(re.findall(r"(?<![\w/])scripts/[\w/]+\.(?:sh|py|sbatch)", page.read_text()))
    for name in names - {"scripts/environment.sh"}:
        assert (ROOT / name).is_file(), name
        assert not name.endswith(".sh") or (ROOT / name).stat().st_mode & 0o100, name


def test_readme_names_the_two_commands():
    assert {"scripts/quickstart.sh", "scripts/test.sh"} <= {
        word for block in blocks(README, "bash") for word in block.split()
    }


def test_table_of_optimizers_has_a_row_for_every_name():
    (table,) = document_options.TABLE.findall(README.read_text())
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    assert sorted(name for cells in rows for name in re.findall(r"`(\w+)`", cells[0])) == registry.names()


def test_options_are_written_as_the_constructors_declare_them():
    assert document_options.readme(README.read_text()) == README.read_text()
    assert document_options.page() == document_options.PAGE.read_text()
    assert document_options.settings() == document_options.SETTINGS.read_text()


def test_every_page_of_docs_is_linked_from_the_readme():
    text = README.read_text()
    assert [page.name for page in PAGES[1:] if f"({page.relative_to(ROOT)})" not in text] == []


@pytest.fixture
def my_signum(tmp_path, monkeypatch):
    """The method of docs/adding-an-optimizer.md is in my/signum.py."""
    (_, content), *_ = files_of_the_walk()
    (tmp_path / "my").mkdir()
    (tmp_path / "my" / "signum.py").write_text(content)
    monkeypatch.setattr(method_files, "FOLDER", tmp_path / "configs")


def files_of_the_walk() -> list[tuple[str, str]]:
    """Names and contents of the files in docs/adding-an-optimizer.md."""
    page = (ROOT / "docs" / "adding-an-optimizer.md").read_text()
    return re.findall(r"`([\w/]+\.(?:py|yaml))`:\n\n```\w+\n(.*?)```", page, flags=re.S)


@pytest.mark.parametrize("words", [w for w in commands("train.py") if "optimizer=signum" not in w], ids=" ".join)
def test_commands_of_train_are_valid(words, my_signum, monkeypatch):
    monkeypatch.chdir(ROOT)
    arguments = words[words.index("train.py") + 1 :]
    load(["configs/experiment/table2/60m/racs.yaml" if word == "FILE.yaml" else word for word in arguments])
    if "--config_file" in words:
        launch = yaml.safe_load((ROOT / words[words.index("--config_file") + 1]).read_text())
        assert launch["num_processes"] >= 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [w for w in commands("scripts/sweep.sh") if "optimizer=signum" not in w], ids=" ".join
)
def test_sweep_plans_a_run_for_each_value(words):
    shown = subprocess.run(
        ["scripts/sweep.sh", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert len(shown) == len(words[-1].split(","))
    for line in shown:
        arguments = line.split("train.py ")[1].split()
        assert load([str(ROOT / arguments[0]), *arguments[1:]]).config.run.dir.startswith(f"{words[3]}/")


def test_snippets_of_the_readme_run(tmp_path):
    snippets = blocks(README, "python")
    assert len(snippets) == 2
    model = llama()
    args = transformers.TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    for snippet in snippets:
        names = {"model": model, "args": args, "dataset": [], "transformers": transformers}
        exec(snippet, names)
        model(input_ids=torch.zeros(1, 4, dtype=torch.long), labels=torch.zeros(1, 4, dtype=torch.long)).loss.backward()
        before = [p.detach().clone() for p in model.parameters()]
        names["optimizer"].step()
        assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.slow
def test_the_walk_of_adding_an_optimizer_works(tmp_path):
    """The files of docs/adding-an-optimizer.md, in a copy of the project, pass the contract and train."""
    page = (ROOT / "docs" / "adding-an-optimizer.md").read_text()
    assert "```python\nfrom .signum import Signum\n```" in page
    files = files_of_the_walk()
    *files, (other, any_shape) = files
    assert [file for file, _ in files] == ["optimizers/signum.py", "configs/optimizer/signum.yaml"]
    ignored = shutil.ignore_patterns(".*", "__pycache__", "results", "runs", "wandb")
    copy = shutil.copytree(ROOT, tmp_path / "project", ignore=ignored)
    tiny = ("train.steps=2", "data.eval_tokens=2000")

    def run(*words: str) -> str:
        done = subprocess.run([sys.executable, *words], cwd=copy, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def check_contract(*flags: str, name: str = "signum") -> None:
        contract = ("tests/optimizers/test_contract.py", "-k", name, "-p", "no:cacheprovider")
        assert int(re.findall(r"(\d+) passed", run("-m", "pytest", *contract, *flags, "-v") + "0 passed")[0]) >= 19

    (copy / "my").mkdir()
    for name, content in (("signum", files[0][1]), (Path(other).stem, any_shape)):
        (copy / "my" / f"{name}.py").write_text(content)
        check_contract(f"--optimizer-file=my/{name}.py", name=name)
        run("train.py", f"optimizer=my/{name}.py", "optimizer.lr=0.0001", *tiny, f"run.dir={tmp_path / name}")

    for file, content in files:
        assert not (copy / file).exists()
        (copy / file).write_text(content)
    with (copy / "optimizers" / "__init__.py").open("a") as exports:
        exports.write("from .signum import Signum\n")

    check_contract()
    assert "signum" in run("train.py", "--plan", "optimizer=signum")
    run("train.py", "optimizer=signum", *tiny, f"run.dir={tmp_path / 'run'}")
    assert (tmp_path / "run" / "summary.json").exists()
