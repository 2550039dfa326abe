"""Findings written as Markdown, as a part of the report."""

from collections.abc import Collection

from markdown_it import MarkdownIt


def rendered(markdown: str, tables: Collection[str]) -> str:
    """A Markdown text as HTML, its headings one level lower.

    tables: those of the page, as SCALE/NAME. A link to the file of one of them leads to its place on the page.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(markdown)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{int(token.tag[1:]) + 1}"
        for inner in token.children or ():
            if inner.type == "link_open":
                inner.attrSet("href", _on_page(str(inner.attrGet("href")), tables))
    text: str = parser.renderer.render(tokens, parser.options, {})
    # A table in a region of its own, which scrolls sideways where the page is narrow.
    text = text.replace("<table>", '<div class="wide" role="region" aria-label="Numbers" tabindex="0"><table>')
    return text.replace("</table>", "</table></div>")


def _on_page(target: str, tables: Collection[str]) -> str:
    """The place on the page of a table's file; any other target as it is."""
    table = target.removesuffix(".md")
    return f"#{table.replace('/', '-', 1)}" if table in tables and table != target else target
