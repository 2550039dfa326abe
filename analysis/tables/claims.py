"""Claims of the paper, and whether our studies agree: one column for each study."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from analysis import comparison
from analysis.comparison import Run, crossed
from analysis.paper import paper_table
from analysis.rows import published_row, style
from analysis.tables.table import Table
from analysis.tables.table_5 import ABLATION_ROWS

Runs = Mapping[str, Sequence[Run]]  # the finished runs of each row, by seed

# (better, worse, the place in the paper that says so)
CLAIMS = (
    ("racs", "adam", "Table 2"),
    ("alice", "adam", "Table 2"),
    ("alice", "racs", "Table 2, 60M to 130M"),
    ("alice", "alice_0", "Table 2"),
    ("alice", "fira", "Table 2"),
    ("alice", "galore", "Table 2"),
    ("racs", "apollo_svd", "Table 2"),
    ("fira", "galore", "Table 2"),
    ("galore_last_layer_adam", "galore", "Fig. 5d"),
    ("alice", "alice_last_layer_adam", "Table 2, 60M"),
    ("switching", "none", "Table 5"),
    ("none", "tracking", "Table 5: tracking alone does harm"),
    ("tracking_switching", "switching", "Table 5"),
    ("alice", "tracking_switching", "Table 5: compensation"),
    ("tracking_switching", "full_basis", "Fig. 5b"),
    ("tracking_switching", "gaussian", "Fig. 5b"),
    ("alice", "compensation_fira", "Fig. 5c"),
    ("alice", "compensation_fira_plus", "Fig. 5c"),
    ("racs", "racs_no_ema", "Fig. 5e"),
    ("alice_two_sided", "alice", "not in the paper: ours"),
)
SPEED_UPS = (("alice", "2.22x in steps at 60M"), ("racs", "ahead of Adam"))


@dataclass(frozen=True)
class Study:
    """Runs that the claims are held against. title: of its column; pace: seconds of a training step by row, where they
    were measured."""

    title: str
    runs: Runs
    pace: Mapping[str, float] = field(default_factory=dict)


Answers = Iterator[tuple[str, str, str]]  # (the claim, its place in the paper, a study's answer: empty without one)


def claims(studies: Sequence[Study]) -> Table:
    """The claims that a study has an answer to, and the studies that have one."""
    told = {study.title: [*_orders(study.runs), *_better(study.runs), *_sooner(study)] for study in studies}
    columns = {title: answers for title, answers in told.items() if any(answer for *_, answer in answers)}
    rows = [[*answers[0][:2], *(answer for *_, answer in answers)] for answers in zip(*columns.values(), strict=True)]
    return Table(
        "claims",
        "The paper's claims, study by study",
        "Mean ± standard deviation of perplexities over the seeds that the compared rows share. A difference within "
        "twice the spread of both, or of single seeds, is not clear. A row one of whose seeds diverged has no answer. "
        "An order holds if its rank correlation is above .7. Arenas that tune at another length than they compare are "
        "left out. The nano study is tuned in another way: `results/nano/table2.md`.",
        ["claim", "paper", *columns],
        [row for row in rows if any(row[2:])],
        "arena",
    )


def paper_60m() -> dict[str, float]:
    """Table 2's perplexities at 60M, by row."""
    rows = (row for row in paper_table("table2_perplexity.csv") if row["method"] != "adam_cited")
    return {published_row(row["method"], row["last_layer"]): float(row["60m"]) for row in rows}


def means(runs: Runs) -> dict[str, float]:
    """Mean final perplexity of each row."""
    return {row: statistics.fmean(comparison.perplexities(seeds)) for row, seeds in runs.items()}


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's rank correlation; the values of each must differ from each other."""
    return statistics.correlation(*([sorted(values).index(value) for value in values] for values in (x, y)))


def of_shared_seeds(rows: Sequence[Sequence[Run]]) -> list[Sequence[Run]]:
    """Of each row the runs of the seeds that all rows have; all runs where they share none."""
    shared = set.intersection(*({run["summary"]["seed"] for run in runs} for runs in rows))
    return [[run for run in runs if run["summary"]["seed"] in shared] or runs for runs in rows]


def _orders(runs: Runs) -> Answers:
    """Rank correlations of mean perplexities with the paper's; fewer than three rows have no order."""
    for claim, where, theirs in (
        ("order of the methods", "Table 2, 60M", paper_60m()),
        ("order of Table 5's rows", "Table 5, 130M", _paper_130m("table 5")),
        ("order of the parts of Alice", "Table 5, Figs. 5b and 5c, 130M", _paper_130m("table 5", "5b", "5c")),
    ):
        common = [row for row in runs if row in theirs]
        answer = ""
        if len(common) > 2:
            shared = dict(zip(common, of_shared_seeds([runs[row] for row in common]), strict=True))
            rho = rank_correlation(list(means(shared).values()), [theirs[row] for row in common])
            answer = f"{_yes_or_no(rho > 0.7)}: Spearman's rank correlation {rho:.2f} over {len(common)} rows"
        yield claim, where, answer


def _better(runs: Runs) -> Answers:
    for better, worse, where in CLAIMS:
        answer = ""
        if better in runs and worse in runs:
            a, b = map(comparison.perplexities, of_shared_seeds([runs[better], runs[worse]]))
            holds = _yes_or_no(statistics.fmean(a) < statistics.fmean(b))
            doubt = "" if _differ_clearly(a, b) else ", but not clearly"
            answer = f"{holds}{doubt}: {_mean_and_deviation(a)} against {_mean_and_deviation(b)}"
        yield f"{style(better).label} before {style(worse).label}", where, answer


def _sooner(study: Study) -> Answers:
    """Speed-ups over the Adam of the same seed."""
    adam, pace = study.runs.get("adam", []), study.pace
    for row, printed in SPEED_UPS:
        steps = comparison.speed_ups(study.runs.get(row, []), adam, crossed)
        answer = ""
        if steps:
            shown = "never there"
            if reached := [ratio for ratio in steps if ratio]:
                part = "" if reached == steps else f"on {len(reached)} of {len(steps)} seeds "
                shown = f"{part}{_mean_and_deviation(reached)}x in steps"
                if row in pace and "adam" in pace:
                    seconds = [ratio * pace["adam"] / pace[row] for ratio in reached]
                    shown += f", {_mean_and_deviation(seconds)}x in seconds"
            answer = f"{_yes_or_no(statistics.fmean(steps) > 1)}: {shown}"
        yield f"{style(row).label} is sooner at tuned Adam's final loss", printed, answer


def _paper_130m(*figures: str) -> dict[str, float]:
    """The paper's perplexities of our rows in these of its figures."""
    published_rows = (row for row in paper_table("table5_ablations.csv") if row["figure"] in figures)
    return {ABLATION_ROWS[row["figure"], row["setting"]]: float(row["perplexity"]) for row in published_rows}


def _differ_clearly(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether two samples differ by more than twice their spread."""
    if len(a) < 2 or len(b) < 2:
        return False
    return abs(statistics.fmean(a) - statistics.fmean(b)) > 2 * (statistics.variance(a) + statistics.variance(b)) ** 0.5


def _mean_and_deviation(values: Sequence[float]) -> str:
    deviation = comparison.deviation(values)
    return f"{statistics.fmean(values):.2f}" + (f" ± {deviation:.2f}" if deviation is not None else "")


def _yes_or_no(holds: bool) -> str:
    return "yes" if holds else "no"
