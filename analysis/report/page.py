"""results/report.html: tables and curves on one page that needs no network and no other file."""

import base64
import html
import json
import re
from collections.abc import Mapping, Sequence
from itertools import compress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from analysis import curves
from analysis.curves import Curve
from analysis.panels import FIGURE_1, FIGURE_2, FIGURE_5, Panel
from analysis.records import Record
from analysis.report.prose import rendered
from analysis.rows import EIGHT_BITS, METHODS, by_row, style
from analysis.tables.table import Table

PARTS = Path(__file__).resolve().parent
UPLOT = PARTS / "uplot"
SCALES = {
    "arena": "The arena: tuned methods",
    "full": "Tables at the paper's sizes",
    "nano": "Tables at nano size, 2,048 positions a step",
}
CONTENTS = {
    "findings": "Findings",
    "curves": "Curves",
    "arena": "The arena",
    "full": "Tables at the paper's sizes",
    "nano": "Tables of the nano study",
}
EMPTY: Mapping[str, Any] = MappingProxyType({})
NUMBER = re.compile(r"(\**[<>]? ?[-−+]?\d.*)?")  # a cell that is set flush right
CODE, CODE_ELEMENT = re.compile(r"`([^`]+)`"), r"<code>\1</code>"
BOLD, BOLD_ELEMENT = re.compile(r"\*\*(.+?)\*\*"), r"<strong>\1</strong>"
LONG = 40  # characters of a cell that may break into lines
COLOURS = {look.label: look.colour for look in (METHODS | EIGHT_BITS).values()}
PAPER = (
    "Read off the paper's figures. Tokens are positions, 131,072 a step; seconds follow from the throughput of its "
    "Table 2 where that has the method."
)
OURS = "Mean over the seeds; the band goes from the lowest to the highest."
BOTH = f"Ours strong. {OURS} The paper's thin and broken: its tokens are positions, its seconds those of Table 2."


def page(
    full: list[Record],
    nano: list[Record],
    tables: list[Table],
    arena: Mapping[str, list[Curve]] = EMPTY,
    pictures: Mapping[str, str] = EMPTY,
    findings: str = "",
) -> str:
    """The page. Equal arguments, equal text.

    full, nano: the records of our runs at the paper's sizes and at nano size; arena: curves of each arena, by title;
    pictures: of the arenas, as SVG, by name: each above the first table that names it; findings: Markdown, whose links
    start from results/.
    """
    by_scale = {scale: [table for table in tables if table.scale == scale] for scale in SCALES}
    seen = [scale for scale, found in by_scale.items() if found]
    drawn = {"arena": pictures}
    compared = sum(curve.seeds for found in arena.values() for curve in found)
    parts = {
        "runs": f"{compared or 'no'} compared runs in the arena, {_runs(len(full))} at the paper's sizes, "
        f"{_runs(len(nano))} at nano size",
        "findings": _findings(findings, tables),
        "contents": _contents(findings, seen),
        "data": _json(data_sets(full, nano, arena)),
        "tables": "\n".join(_section(scale, by_scale[scale], drawn.get(scale, EMPTY)) for scale in seen),
        "charts.js": (PARTS / "charts.js").read_text(),
        "uplot.css": (UPLOT / "uPlot.min.css").read_text(),
        "uplot.js": f"/*\n{(UPLOT / 'LICENSE').read_text()}*/\n{(UPLOT / 'uPlot.iife.min.js').read_text()}",
    }
    template = (PARTS / "template.html").read_text()
    return re.sub(r"\{\{([a-z.]+)\}\}", lambda slot: parts[slot[1]], template)


def data_sets(full: list[Record], nano: list[Record], arena: Mapping[str, list[Curve]]) -> list[dict[str, Any]]:
    """The sets of curves that the page can show: the `group`, `title`, `note` and `curves` of each."""
    panels = {f"Fig. {_number(panel)}": panel for panel in (*FIGURE_1, *FIGURE_2, *FIGURE_5)}
    papers = {title: curves.paper_curves(panel) for title, panel in panels.items()}
    ours = {title: curves.our_curves(by_row(panel.runs(full)), panel) for title, panel in panels.items()}
    rows = by_row(nano)
    small = {"every method": curves.our_curves(rows, FIGURE_2[0])}
    small |= {f"as Fig. {_number(panel)}": curves.our_curves(rows, panel) for panel in FIGURE_5}
    groups = {
        "The arena": (OURS, arena),
        "Ours, nano study": (OURS, small),
        "Ours, the paper's sizes": (BOTH, {title: drawn + papers[title] for title, drawn in ours.items() if drawn}),
        "The paper": (PAPER, papers),
    }
    return [
        {"group": group, "title": title, "note": note, "curves": [_curve(curve) for curve in drawn]}
        for group, (note, sets) in groups.items()
        for title, drawn in sets.items()
        if drawn
    ]


def _number(panel: Panel) -> str:
    """2a: 60M."""
    return f"{panel.name.removeprefix('figure')}: {panel.title}"


def _curve(curve: Curve) -> dict[str, Any]:
    look = style(curve.row)
    drawn: dict[str, Any] = {"label": curve.label, "row": curve.row, "ours": curve.ours}
    drawn |= {"colour": look.colour, "dash": look.dash}
    band: dict[str, Any] = {"low": curve.low, "high": curve.high, "seeds": curve.seeds} if curve.seeds > 1 else {}
    points = {key: getattr(curve, key) for key in ("step", "tokens", "seconds", "perplexity")}
    return drawn | points | band


def _json(value: Any) -> str:
    """Compact JSON, its numbers to 5 significant digits, safe inside a script element."""

    def short(value: Any) -> Any:
        if isinstance(value, float):
            number = float(f"{value:.5g}")
            return int(number) if number.is_integer() else number
        if isinstance(value, dict):
            return {key: short(item) for key, item in value.items()}
        return [short(item) for item in value] if isinstance(value, (list, tuple)) else value

    text = json.dumps(short(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.replace("</", "<\\/")


def _runs(count: int) -> str:
    return f"{count or 'no'} run{'' if count == 1 else 's'}"


def _contents(findings: str, scales: Sequence[str]) -> str:
    """A link to each section of the page."""
    sections = [*(["findings"] if findings else []), "curves", *scales]
    return "\n".join(f'<li><a href="#{section}">{CONTENTS[section]}</a></li>' for section in sections)


def _findings(markdown: str, tables: Sequence[Table]) -> str:
    """The section of what the runs say, under its own first heading; nothing without."""
    if not markdown:
        return ""
    text = rendered(markdown, {f"{table.scale}/{table.name}" for table in tables})
    text = text.replace("<h2>", '<h2 id="findings-heading">', 1)
    return f'<section id="findings" aria-labelledby="findings-heading">\n{text}</section>'


def _section(scale: str, tables: Sequence[Table], pictures: Mapping[str, str]) -> str:
    """A section with the tables of one scale, each picture above the first table that names it, others at the end."""
    body, left = [], dict(pictures)
    for table in tables:
        if table.picture in left:
            body.append(_picture(table.picture, left.pop(table.picture)))
        body.append(_table(table))
    body += map(_picture, left, left.values())
    heading = f'<h2 id="{scale}-heading">{SCALES[scale]}</h2>'
    return "\n".join([f'<section id="{scale}" aria-labelledby="{scale}-heading">', heading, *body, "</section>"])


def _picture(name: str, svg: str) -> str:
    """A picture in a region of its own: where the page is narrow it scrolls, so that its words stay readable."""
    data, alt = base64.b64encode(svg.encode()).decode(), f"{name}: perplexity against optimizer state"
    image = f'<img class="picture" alt="{alt}" src="data:image/svg+xml;base64,{data}">'
    return f'<div class="wide" role="region" aria-label="{alt}" tabindex="0">{image}</div>'


def _table(table: Table) -> str:
    """A table under its title and over its note, in a region of its own that scrolls sideways."""
    name = f"{table.scale}-{table.name}"
    title, note = (html.escape(text) for text in (table.title, table.note))
    if not table.rows:
        return f'<h3 id="{name}">{title}</h3>\n<p class="note">Nothing yet.</p>'
    filled = [any(cells) for cells in zip(*table.rows, strict=True)]
    head, *body = (list(compress(cells, filled)) for cells in (table.columns, *table.rows))
    classes = [_class(k, cells) for k, cells in enumerate(zip(*body, strict=True))]
    heads = "".join(f'<th scope="col"{kind}>{html.escape(cell)}</th>' for cell, kind in zip(head, classes, strict=True))
    rows = "\n".join(f"<tr>{_cells(cells, classes)}</tr>" for cells in body)
    return (
        f'<h3 id="{name}">{title}</h3>\n<div class="wide" role="region" aria-labelledby="{name}" tabindex="0">'
        f"<table><thead><tr>{heads}</tr></thead>\n<tbody>{rows}</tbody></table></div>\n"
        f'<p class="note">{CODE.sub(CODE_ELEMENT, note)}</p>'
    )


def _class(k: int, cells: Sequence[str]) -> str:
    """The class attribute of column k: numbers are set flush right, long texts may break into lines."""
    if max(map(len, cells)) > LONG:
        return ' class="long"'
    return ' class="number"' if k > 0 and all(map(NUMBER.fullmatch, cells)) else ""


def _cells(cells: Sequence[str], classes: Sequence[str]) -> str:
    """The cells of a row; a method's name gets a dot of its colour."""
    parts = []
    for k, (cell, kind) in enumerate(zip(cells, classes, strict=True)):
        tag, scope = ("td", "") if k else ("th", ' scope="row"')
        dot = f'<i style="background:{COLOURS[cell]}"></i>' if cell in COLOURS else ""
        parts.append(f"<{tag}{scope}{kind}>{dot}{BOLD.sub(BOLD_ELEMENT, html.escape(cell))}</{tag}>")
    return "".join(parts)
