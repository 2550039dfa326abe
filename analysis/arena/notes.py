"""The note below a table of standings."""

from collections.abc import Mapping

from analysis.arena.ledger import Line
from analysis.arena.same_settings import changed
from analysis.arena.significance import Pooled, Verdict
from analysis.arena.spec import Spec


def note(spec: Spec, within: Pooled | None, tests: list[Verdict], found: Mapping[str, list[Line]]) -> str:
    """What the columns mean, and what of the rows' runs must be known. within: the pooled deviation; found: the runs of
    each row."""
    reference = spec.label(spec.against[0])
    sentences = [
        f"Perplexity on the validation text after {spec.tokens:,} positions, at the end of the schedule, mean over the "
        "n seeds that got there.",
        "Of a held-out text with fewer seeds their number follows." if spec.held_out else "",
        _of_p(spec, within, tests),
        _tuned_on(spec),
        f"Speed-up in tokens: those that tuned {reference} needs for the same loss, on its fitted curve, over the "
        f"row's. >: the loss is lower than the longest run of {reference} ended at; none where the curve would be "
        f"extrapolated, or does not fit. Runs of all lengths have the values tuned {where_tuned(spec)}.",
        f"In steps and seconds: where {reference}'s final loss of the same seed is first met; 0: never; where some "
        "seeds never meet it, or have no such run to meet, the mean is over the others, whose number follows. Seconds "
        "are by the runs' own clocks, of runs on one kind of processor: they mean nothing where the machine did other "
        "work.",
        "Tuning runs: all that are recorded. Not bracketed: a neighbour of the tuned value was not tried, is better, "
        "or there is none.",
        "As published: perplexity of the row's file as it stands, one seed." if spec.published else "",
        _made_otherwise(spec, found),
    ]
    return " ".join(filter(None, sentences))


def _of_p(spec: Spec, within: Pooled | None, tests: list[Verdict]) -> str:
    welch = sorted(test.freedom for test in tests if test.welch)
    freedom = " to ".join(dict.fromkeys(f"{each:.1f}" for each in (*welch[:1], *welch[-1:])))
    by_welch = f" ({freedom} degrees of freedom)" if welch else ""
    by_pool = f"{within.deviation:.4f} nats, {within.freedom} degrees of freedom" if within else "none yet"
    return (
        "p: one-sided t-test that a row's mean loss is no lower; Welch's where both rows have two seeds or "
        f"more{by_welch}, otherwise Student's with the deviation pooled over all rows ({by_pool}); none for a row one "
        f"of whose seeds diverged. Bold: significant at {spec.significance:g} by Welch's test, all seeds of both rows "
        "made, after Holm's correction over all rows of the arena, those to come too, in one column."
    )


def where_tuned(spec: Spec) -> str:
    """At which length the rows were tuned, or in which arena."""
    if spec.tuned_in is not None:
        return f"in the arena {spec.tuned_in}"
    return f"at {spec.tuning.tokens:,} positions"


def _made_otherwise(spec: Spec, found: Mapping[str, list[Line]]) -> str:
    """Whose runs are not those that the files of a commit would make."""
    other = [spec.label(row) for row, lines in found.items() if changed(spec, lines)]
    counts = {row: sum(map(_is_dirty, lines)) for row, lines in found.items()}
    dirty = [f"{spec.label(row)} ({count})" for row, count in counts.items() if count]
    sentences = [f"Made with other settings than the spec has now: {', '.join(other)}."] if other else []
    sentences += [f"Runs of a tree with changes that were not committed: {', '.join(dirty)}."] if dirty else []
    return " ".join(sentences)


def _is_dirty(line: Line) -> bool:
    return str(line["summary"].get("git_commit", "")).endswith("-dirty")


def _tuned_on(spec: Spec) -> str:
    if spec.tuned_in is not None or spec.tuning.tokens != spec.tokens or spec.first_seed > 0:
        return ""
    return "The run of seed 0 is the best of the tuning runs, so a mean is biased towards a low loss."
