"""A self-contained HTML page: pictures and styles inside, no script, nothing fetched.

The page works on a phone and on a desktop, in light and dark mode, and with a screen reader. Wide
tables and pictures scroll inside their own box, and the page never scrolls sideways. All text is
escaped here.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from string import Template

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """A figure of a section.

    Args:
        figure: the figure, drawn at its own resolution.
        alt: a description for those who do not see it.
        caption: the text below it.
        wide: whether the picture scrolls in a box of its own if the screen is too narrow for its
            letters; other pictures shrink to the screen.
    """

    figure: Figure
    alt: str
    caption: str = ""
    wide: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of a section; the first column names the row, the first row the columns.

    Args:
        rows: rows of equally many cells.
        caption: the text above it.
        numbers: whether the cells are aligned on the right.
    """

    rows: Sequence[Sequence[str]]
    caption: str = ""
    numbers: bool = False


@dataclass(frozen=True)
class Section:
    """A heading, paragraphs, and the pictures and tables below them."""

    title: str
    text: Sequence[str] = ()
    parts: Sequence[Picture | Table] = ()


def html_page(title: str, sections: Sequence[Section], *, lead: str = "") -> str:
    """Return the page as one HTML document.

    Args:
        title: the title of the page.
        sections: the sections in order; links to them stand at the top.
        lead: a line below the title.
    """
    links = "".join(
        f'<li><a href="#s{number}">{escape(section.title)}</a></li>'
        for number, section in enumerate(sections)
    )
    return _PAGE.substitute(
        title=escape(title),
        style=_STYLE,
        lead=f'<p class="lead">{escape(lead)}</p>' if lead else "",
        links=links,
        sections="\n".join(_section(f"s{n}", section) for n, section in enumerate(sections)),
    )


def _section(anchor: str, section: Section) -> str:
    text = "".join(f"<p>{escape(paragraph)}</p>\n" for paragraph in section.text)
    parts = "\n".join(
        _picture(part) if isinstance(part, Picture) else _table(part) for part in section.parts
    )
    return (
        f'<section aria-labelledby="{anchor}">\n<h2 id="{anchor}">{escape(section.title)}</h2>\n'
        f"{text}{parts}\n</section>"
    )


def _picture(picture: Picture) -> str:
    file = io.BytesIO()
    picture.figure.savefig(file, format="png")
    width, height = (round(side) for side in picture.figure.bbox.size)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    image = (
        f'<img src="data:image/png;base64,{data}" alt="{escape(picture.alt)}" '
        f'width="{width}" height="{height}">'
    )
    caption = f"<figcaption>{escape(picture.caption)}</figcaption>" if picture.caption else ""
    if picture.wide:
        image = _box("wide", picture.alt, image)
    return f"<figure>{image}{caption}</figure>"


def _table(table: Table) -> str:
    head, *body = table.rows
    columns = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    rows = "\n".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for first, *cells in body
    )
    caption = f"<caption>{escape(table.caption)}</caption>" if table.caption else ""
    kind = ' class="numbers"' if table.numbers else ""
    head = f"<thead><tr>{columns}</tr></thead>"
    content = f"<table{kind}>{caption}\n{head}\n<tbody>\n{rows}\n</tbody></table>"
    return _box("table", table.caption or "table", content)


def _box(kind: str, label: str, content: str) -> str:
    """Return a box that scrolls sideways on its own and that the keyboard can reach."""
    attributes = f'class="{kind}" role="region" aria-label="{escape(label)}" tabindex="0"'
    return f"<div {attributes}>{content}</div>"


_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<link rel="icon" href="data:,">
<style>$style</style>
</head>
<body>
<header>
<h1>$title</h1>
$lead
<nav aria-label="Sections"><ul>$links</ul></nav>
</header>
<main>
$sections
</main>
</body>
</html>
""")

_STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fbfaf8; --card: #ffffff; --ink: #1f2328; --soft: #5a626c; --line: #dedbd5;
  --accent: #0a5f9e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15181c; --card: #1d2126; --ink: #e6e4df; --soft: #a0a7b0; --line: #343a42;
    --accent: #79b8f0;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-padding-top: 1rem; }
body {
  margin: 0 auto; max-width: 62rem; padding: clamp(1.25rem, 5vw, 3.5rem) clamp(1rem, 5vw, 3rem);
  background: var(--paper); color: var(--ink); overflow-wrap: anywhere;
  font: 1rem/1.6 ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans",
    "Helvetica Neue", Arial, sans-serif;
}
h1 {
  margin: 0; font-size: clamp(1.6rem, 1.2rem + 2vw, 2.4rem); line-height: 1.15;
  letter-spacing: -0.02em; text-wrap: balance;
}
h2 { margin: 0 0 0.5rem; font-size: 1.3rem; line-height: 1.25; letter-spacing: -0.01em; }
p { margin: 0 0 0.75rem; max-width: 42rem; }
.lead { margin-top: 0.6rem; color: var(--soft); }
a { color: var(--accent); text-underline-offset: 0.2em; }
nav ul { display: flex; flex-wrap: wrap; gap: 0.25rem 1.25rem; margin: 1rem 0 0; padding: 0; }
nav li { list-style: none; }
nav a { display: inline-block; padding: 0.3rem 0; }
section { margin-top: 2.25rem; padding-top: 1.5rem; border-top: 1px solid var(--line); }
figure { margin: 1.25rem 0 0; }
/* Figures are drawn on white, which they keep in the dark. */
img {
  display: block; max-width: 100%; height: auto; background: #ffffff; border-radius: 8px;
  border: 1px solid var(--line);
}
figure > img { width: min(100%, 44rem); }
figcaption { margin-top: 0.5rem; max-width: 42rem; color: var(--soft); font-size: 0.875rem; }
.wide, .table { max-width: 100%; overflow-x: auto; }
.wide > img { width: 100%; min-width: 44rem; max-width: none; }
.wide:focus-visible, .table:focus-visible, a:focus-visible {
  outline: 2px solid var(--accent); outline-offset: 2px;
}
.table {
  margin-top: 1rem; background: var(--card); border: 1px solid var(--line); border-radius: 8px;
}
table { width: 100%; border-spacing: 0; font-size: 0.9rem; line-height: 1.4; }
caption { padding: 0.75rem 0.9rem 0.25rem; color: var(--soft); text-align: left; }
th, td {
  padding: 0.5rem 0.9rem; text-align: left; vertical-align: top; min-width: 5rem;
}
tbody th, tbody td { border-top: 1px solid var(--line); }
thead th { color: var(--soft); font-weight: 500; vertical-align: bottom; }
/* Names stay in view while the rest scrolls below them. */
th:first-child { position: sticky; left: 0; background: var(--card); }
tbody th { font-weight: 600; min-width: min(22rem, 40vw); }
tbody td { min-width: 9rem; }
.numbers { min-width: 42rem; }
.numbers tbody th, .numbers tbody td { min-width: 0; }
.numbers tbody th { min-width: 8.5rem; }
.numbers td, .numbers thead th:not(:first-child) {
  text-align: right; font-variant-numeric: tabular-nums;
}
.numbers td { white-space: nowrap; }
@media print { nav { display: none; } .wide > img { min-width: 0; } }
"""
