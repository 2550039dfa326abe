"""Points, counts and probabilities as the tables of an arena show them."""

import statistics

from analysis.arena.ledger import Line, Point
from analysis.arena.outcomes import finished, perplexities
from analysis.arena.significance import Verdict
from analysis.comparison import deviation
from analysis.tables.cells import text

LEAST_P = 1e-15


def point(values: Point) -> str:
    """A point in words: lr=0.02 adam_lr=0.03."""
    return " ".join(f"{setting}={value(found)}" for setting, found in values.items())


def value(found: object) -> str:
    """A setting's value: 0.02, (0.9, 0.99)."""
    if isinstance(found, (list, tuple)):
        return "(" + ", ".join(map(value, found)) + ")"
    return f"{found:g}" if isinstance(found, float) else str(found)


def perplexity(lines: list[Line], wanted: int = 0) -> list[str]:
    """Mean perplexity, deviation and number of seeds: of those that reached the end, with what became of the others.
    wanted: the number of runs that there will be."""
    ended = perplexities(finished(lines))
    mean = text(statistics.fmean(ended)) if ended else "diverged"
    return [mean, text(deviation(ended)), seeds(lines, wanted)]


def seeds(lines: list[Line], wanted: int = 0) -> str:
    """3, or: 2 of 3, 1 diverged, or: 2 of 4 so far."""
    diverged, all_made = len(lines) - len(finished(lines)), len(lines) >= wanted
    number = str(len(lines) - diverged)
    if not all_made or diverged:
        number += f" of {max(len(lines), wanted)}"
    return ", ".join([number + ("" if all_made else " so far"), *([f"{diverged} diverged"] if diverged else [])])


def held_out(lines: list[Line], name: str) -> str:
    """The mean perplexity on another text; of fewer than all finished runs their number follows."""
    ended = finished(lines)
    found = [line["held_out"][name]["perplexity"] for line in ended if name in line.get("held_out", {})]
    part = "" if len(found) in (0, len(ended)) else f" ({len(found)} of {len(ended)})"
    return f"{text(statistics.fmean(found))}{part}" if found else ""


def p_value(test: Verdict, *, bold: bool) -> str:
    """0.012, 3e-09, <1e-15."""
    p = test.p
    number = f"<{LEAST_P:g}" if p < LEAST_P else f"{p:.2g}" if p >= 0.001 else f"{p:.0e}"
    return f"**{number}**" if bold else number
