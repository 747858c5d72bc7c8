"""Reading pages back: what tags, attributes and texts a reader's browser would see."""

from __future__ import annotations

from html.parser import HTMLParser

from markdown_it import MarkdownIt

from quantspectrum.report.tables import Table

__all__ = ["HOSTILE", "Page", "column", "markdown_page", "parse"]

HOSTILE = (
    "<script>document.title='PWNED'</script></script><script>alert(1)</script>"
    "<img src=x onerror=alert(1)> <!-- --> | `code` \\| **b** [x](javascript:alert(1)) "
    "![y](http://evil.example/y.png) {{ 7*7 }} {% raw %} %{x} &lt;b&gt; \u2028\u2029\n# heading\n"
    "\"'></td></style><style>*{display:none}</style>"
)


class Page(HTMLParser):
    """Tags with their attributes, the scripts' texts, and all other text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._raw = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._raw = tag if tag in ("script", "style") else ""
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002
        self._raw = ""

    def handle_data(self, data: str) -> None:
        if self._raw == "script":
            self.scripts[-1] += data
        elif not self._raw:
            # Pages bind the per cent sign to its number; to a reader it is the same text.
            self.text += data.replace("\u00a0%", " %")

    def attributes(self, name: str) -> list[str]:
        """Every value of an attribute."""
        return [attrs[name] or "" for _, attrs in self.tags if name in attrs]

    def names(self) -> set[str]:
        """Every tag's name."""
        return {tag for tag, _ in self.tags}


def parse(html: str) -> Page:
    page = Page()
    page.feed(html)
    page.close()
    return page


def markdown_page(text: str) -> Page:
    """Markdown with tables and HTML let through, as a repository shows it."""
    return parse(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))


def column(table: Table | None, title: str) -> list[str]:
    """Cells under a heading, which must be there."""
    assert table is not None
    at = [column.title for column in table.columns].index(title)
    return [row[at] for row in table.rows]
