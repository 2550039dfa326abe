"""Findings written as Markdown, as a part of the report."""

import itertools
import re
from collections.abc import Collection

from markdown_it import MarkdownIt

TABLE = re.compile("<table>")
# A region of its own scrolls sideways where the page is narrow.
REGION = '<div class="wide" role="region" aria-label="Table {} of the findings" tabindex="0">'


def rendered(markdown: str, tables: Collection[str]) -> str:
    """A Markdown text as HTML, its headings one level lower.

    tables: those of the page, as SCALE/NAME. A link to the file of one of them leads to its place on the page.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    tokens = parser.parse(markdown)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1:]) + 1, 6)}"
        for inner in token.children or ():
            if inner.type == "link_open":
                inner.attrSet("href", _on_page(str(inner.attrGet("href")), tables))
    text: str = parser.renderer.render(tokens, parser.options, {})
    numbers = itertools.count(1)
    text = TABLE.sub(lambda found: REGION.format(next(numbers)) + found[0], text)
    return text.replace("</table>", "</table></div>")


def _on_page(target: str, tables: Collection[str]) -> str:
    """The place on the page of a table's file; any other target as it is."""
    table = target.removesuffix(".md")
    return f"#{table.replace('/', '-', 1)}" if table in tables and table != target else target
