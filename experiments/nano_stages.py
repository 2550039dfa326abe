"""The stages of the nano study: which runs each needs, given the records of the stages before."""

import sys
from collections.abc import Callable
from pathlib import Path

from analysis import records
from analysis.paths import ROOT
from configs.reading import argument
from configs.schema import load
from experiments.jobs import Job, run_all, training
from experiments.nano_files import ablation_files, file_of, shortened, study_settings

RUNS, RESULTS = Path("runs/nano"), Path("results/nano")
FACTORS = (0.125, 0.25, 0.5, 1.0, 2.0)  # of the learning rate in a method's file
ADAM_LRS = (0.003, 0.01, 0.03, 0.1)  # the first is the one that `lr` is tuned with
TUNING_STEPS = 250
SEEDS = (0, 1, 2)
HELD_OUT_TOKENS = 100_000

Tried = dict[str, records.Record]  # by name
Rates = tuple[float, float]  # (lr, adam_lr)


def tuning_name(method: str, lr: float, adam_lr: float) -> str:
    """The name of a run's record."""
    return f"{method}_lr={lr:g}_adam_lr={adam_lr:g}"


def lr_jobs(methods: list[str]) -> list[Job]:
    """Every method at its file's rate times FACTORS."""
    return [_tuning_job(method, factor * _file_lr(method), ADAM_LRS[0]) for method in methods for factor in FACTORS]


def adam_lr_jobs(methods: list[str]) -> list[Job]:
    """Every method at the best rate of `lr_jobs`, with the other ADAM_LRS for the parameters that Adam steps."""
    tried = records.read(RESULTS / "tuning")
    best = ((method, _best(tried, method, _first_rates(method))) for method in methods)
    return [_tuning_job(method, lr, adam_lr) for method, (lr, _) in best for adam_lr in ADAM_LRS[1:]]


def lr_again_jobs(methods: list[str]) -> list[Job]:
    """Every method at half and at twice its best rate, with the best of `adam_lr_jobs`."""
    tried, jobs = records.read(RESULTS / "tuning"), []
    for method in methods:
        lr, _ = _best(tried, method, _first_rates(method))
        _, adam_lr = _best(tried, method, [(lr, adam_lr) for adam_lr in ADAM_LRS])
        jobs += [_tuning_job(method, factor * lr, adam_lr) for factor in (0.5, 2.0)]
    return jobs


def _first_rates(method: str) -> list[Rates]:
    return [(factor * _file_lr(method), ADAM_LRS[0]) for factor in FACTORS]


def _best(tried: Tried, method: str, rates: list[Rates]) -> Rates:
    """The best of `rates`, by the final losses of a method's tuning runs."""
    return min(rates, key=lambda pair: _loss(tried[tuning_name(method, *pair)]))


def doubled_jobs(methods: list[str]) -> list[Job]:
    """The long runs of the first seed that are known to be needed: each one with a better loss calls for one more."""
    tried, runs = records.read(RESULTS / "tuning"), records.read(RESULTS / "runs")
    wanted = ((method, rates) for method in methods for rates in _long_rates(method, tried, runs))
    return [_final_job(method, file_of(method), rates, SEEDS[0]) for method, rates in wanted]


def _long_rates(method: str, tried: Tried, runs: Tried) -> list[Rates]:
    """(lr, adam_lr) of a method's long runs on the first seed.

    The first is the best of the tuning runs; lr is doubled as long as that was better than all before.
    """
    best = min((kept for name, kept in tried.items() if name.startswith(f"{method}_lr=")), key=_loss)["summary"]
    lr, adam_lr = best["lr"], best["adam_lr"]
    rates, lowest = [(lr, adam_lr)], float("inf")
    while (kept := runs.get(_final_name(method, lr, adam_lr, SEEDS[0]))) and _loss(kept) < lowest:
        lowest = _loss(kept)
        lr *= 2
        rates.append((lr, adam_lr))
    return rates


def final_jobs(methods: list[str]) -> list[Job]:
    """Every method at the best rates of its long runs, and the ablations at those of the method they change."""
    tried, runs = records.read(RESULTS / "tuning"), records.read(RESULTS / "runs")
    best = {method: _best_long(method, tried, runs) for method in methods}
    files = [(file_of(method), method, method) for method in methods]
    for file in ablation_files():
        method = load([str(ROOT / file)]).config.optimizer.name
        if method in methods:
            files.append((file, method, f"ablation_{file.stem}"))
    return [_final_job(name, file, best[method], seed) for seed in SEEDS for file, method, name in files]


def _best_long(method: str, tried: Tried, runs: Tried) -> Rates:
    """The rates of a method's best long run on the first seed."""
    rates = _long_rates(method, tried, runs)
    return min(rates, key=lambda pair: _loss(runs[_final_name(method, pair[0], pair[1], SEEDS[0])]))


def _loss(kept: records.Record) -> float:
    return kept["summary"]["final_loss"]


def _file_lr(method: str) -> float:
    return load([str(ROOT / file_of(method))]).config.optimizer.lr


def _tuning_job(method: str, lr: float, adam_lr: float) -> Job:
    name, file = tuning_name(method, lr, adam_lr), file_of(method)
    short = [*shortened(file, TUNING_STEPS), "train.eval_every=0"]
    arguments = [*study_settings(file), *short, f"optimizer.lr={lr:g}", f"optimizer.adam_lr={adam_lr:g}"]
    return _recorded(training(name, arguments, RUNS / "tuning"), "tuning")


def _final_job(name: str, file: Path, rates: Rates, seed: int) -> Job:
    lr, adam_lr = rates
    name = _final_name(name, lr, adam_lr, seed)
    rates_and_seed = (f"optimizer.lr={lr:g}", f"optimizer.adam_lr={adam_lr:g}", f"run.seed={seed}")
    arguments = [*study_settings(file), *rates_and_seed]
    return _recorded(training(name, arguments, RUNS / "runs"), "runs")


def _final_name(name: str, lr: float, adam_lr: float, seed: int) -> str:
    return f"{tuning_name(name, lr, adam_lr)}_s{seed}"


def _recorded(job: Job, kind: str) -> Job:
    return Job(job.name, job.command, RESULTS / kind / f"{job.name}.json", job.log)


def make_text(corpora: Path) -> int:
    """Make the mixed corpus, a link to the validation texts, and the tokenizer; returns an exit code."""
    RUNS.mkdir(parents=True, exist_ok=True)
    link = RUNS / "text"
    if link.resolve() != corpora.resolve():
        link.unlink(missing_ok=True)
        link.symlink_to(corpora.resolve())
    corpus, tokenizer = RUNS / "corpus", RUNS / "tokenizer"
    sources = [str(link / name) for name in ("books", "modern", "c4")]
    last = corpus / "en" / "c4-train.00007-of-00008.json.gz"
    options = ("--data", str(corpus), "--vocab-size", "4096", "--out", str(tokenizer))
    jobs = [
        _script("corpus", "mix_corpora.py", str(corpus), *sources, proof=last),
        _script("tokenizer", "train_tokenizer.py", *options, proof=tokenizer / "tokenizer.json"),
    ]
    return run_all(jobs)


def evaluation_jobs() -> list[Job]:
    """Evaluations on the held-out books of the runs that lack one."""
    books = (
        "data=files",
        argument("data.eval_path", str(RUNS / "text" / "books")),
        f"data.eval_tokens={HELD_OUT_TOKENS}",
    )
    finished = sorted(path.parent for path in (RUNS / "runs").glob("*/summary.json"))
    return [
        _script(f"books_{run.name}", "evaluate.py", str(run), "--save", "books", *books, proof=run / "evaluations.json")
        for run in finished
    ]


def _script(name: str, script: str, *arguments: str, proof: Path) -> Job:
    return Job(name, (sys.executable, f"scripts/{script}", *arguments), proof, RUNS / f"{name}.log")


def run_stage(jobs: Callable[[list[str]], list[Job]], methods: list[str], at_once: int) -> int:
    """Run the jobs that `jobs` returns, and call it again until it returns no new ones; returns an exit code."""
    named, before, code = jobs(methods), 0, 0
    while not code and len(named) > before:
        code = run_all(named, at_once=at_once) or run_all(evaluation_jobs(), at_once=at_once)
        keep()
        named, before = jobs(methods), len(named)
    return code


def keep() -> None:
    """Write the records of the finished runs."""
    for kind in ("tuning", "runs"):
        records.gather(RUNS / kind, RESULTS / kind, name=lambda folder, _: folder.name)


STAGES: dict[str, Callable[[list[str]], list[Job]]] = {
    "lr": lr_jobs,
    "adam_lr": adam_lr_jobs,
    "lr_again": lr_again_jobs,
    "doubled": doubled_jobs,
    "final": final_jobs,
}
