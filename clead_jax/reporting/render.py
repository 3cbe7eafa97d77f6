"""Blocks, and the three ways to write them: Markdown, HTML, plain text. Their content is the same in all three.

Every string in a block is plain text on one line (but for `Code`): each writer escapes what its own format would read
as markup, and all what would not stay on its line.
"""

import html
import re
from pathlib import Path
from typing import NamedTuple, TypeAlias

from matplotlib.figure import Figure

from clead_jax.core.spec import visible
from clead_jax.reporting import style

Cell: TypeAlias = str | tuple[str, str]
"""What stands in a table's field; in a pair the second part is fine print, such as an interval."""


class Heading(NamedTuple):
    """Opens a section."""

    text: str


class Text(NamedTuple):
    """A paragraph."""

    text: str


class Bullets(NamedTuple):
    """A list."""

    items: list[str]


class Table(NamedTuple):
    """A table; all columns but the first hold numbers and are set to the right if `numeric`.

    With `alarm` it is set off from the page: what a reader must know before reading any number. Where it has a
    `summary` it is behind a click.
    """

    header: list[str]
    rows: list[list[Cell]]
    numeric: bool = True
    alarm: bool = False
    summary: str = ""


class Picture(NamedTuple):
    """A figure, stored beside the page as `name`.png. `alt` says what it shows to those who cannot see it."""

    name: str
    figure: Figure
    alt: str
    caption: str


class Code(NamedTuple):
    """Verbatim text; behind a click where it has a `summary`."""

    text: str
    summary: str = ""


Block: TypeAlias = Heading | Text | Bullets | Table | Picture | Code


def write(title: str, blocks: list[Block], markdown_file: Path, html_file: Path) -> None:
    """Writes a page in both formats, and its pictures beside it, into a directory that is there.

    The Markdown is GitHub's; the HTML needs nothing but the pictures. Raises OSError if it cannot write.
    """
    for block in blocks:
        if isinstance(block, Picture):
            style.save(block.figure, markdown_file.with_name(f"{block.name}.png"))
    markdown, page = zip((f"# {_md(title)}", f"<h1>{escape(title)}</h1>"), *map(_written, blocks), strict=True)
    markdown_file.write_text("\n\n".join(markdown) + "\n", encoding="utf-8")
    content = _PAGE.format(title=escape(title), style=_STYLE, body="\n".join(page))
    html_file.write_text(content, encoding="utf-8")


def _written(block: Block) -> tuple[str, str]:
    """A block as Markdown and as HTML."""
    match block:
        case Heading(text):
            return f"## {_md(text)}", f"<h2>{escape(text)}</h2>"
        case Text(text):
            return _opening(text), f"<p>{escape(text)}</p>"
        case Bullets(items):
            listed = "".join(f"<li>{escape(item)}</li>" for item in items)
            return "\n".join(f"* {_opening(item)}" for item in items), f"<ul>{listed}</ul>"
        case Table(summary=summary):
            return _folded(_md_table(block), _html_table(block), summary)
        case Picture(name, _, alt, caption):
            image = f'<a href="{name}.png"><img src="{name}.png" alt="{escape(alt)}"></a>'
            page = f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"
            return f"![{_md(alt)}]({name}.png)\n\n*{_md(caption)}*", page
        case Code(text, summary):
            text = "\n".join(map(visible, text.split("\n")))
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
            return _folded(f"{fence}\n{text}\n{fence}", f"<pre>{html.escape(text)}</pre>", summary)


def _folded(markdown: str, page: str, summary: str) -> tuple[str, str]:
    if not summary:
        return markdown, page
    opening = "<details><summary>{}</summary>".format
    return f"{opening(escape(summary))}\n\n{markdown}\n\n</details>", f"{opening(escape(summary))}{page}</details>"


def escape(text: str) -> str:
    """For HTML."""
    return html.escape(visible(text))


def _md(text: str) -> str:
    return re.sub(r"[\\`*|<_$~&]|\](?=[(\[:])", r"\\\g<0>", visible(text))


def _opening(text: str) -> str:
    """Of a paragraph or an item, which a sign may make a heading, a list or a quotation."""
    return re.sub(r"^(\s*\d*)([#>+=.)-])", r"\1\\\2", _md(text))


def _md_table(table: Table) -> str:
    rule = [":--"] + ["--:" if table.numeric else ":--"] * (len(table.header) - 1)
    lines = [table.header, rule, *(map(_join, row) for row in table.rows)]
    return "\n".join("| " + " | ".join(map(_md, line)) + " |" for line in lines)


def _html_table(table: Table) -> str:
    frame, kind = "scroll alarm" if table.alarm else "scroll", ' class="numeric"' if table.numeric else ""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.header)
    lines = []
    for name, *fields in (map(_html_cell, row) for row in table.rows):
        lines.append(f'<tr><th scope="row">{name}</th>' + "".join(f"<td>{field}</td>" for field in fields) + "</tr>")
    return f'<div class="{frame}"><table{kind}>\n<tr>{head}</tr>\n' + "\n".join(lines) + "\n</table></div>"


def _html_cell(cell: Cell) -> str:
    return escape(cell) if isinstance(cell, str) else f"{escape(cell[0])}<small>{escape(cell[1])}</small>"


def text(table: Table) -> str:
    """A table for the terminal: columns aligned by spaces, numbers to the right."""
    rows: list[list[Cell]] = [[*table.header], *table.rows]
    lines = [[visible(_join(cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in lines
    )


def _join(cell: Cell) -> str:
    return cell if isinstance(cell, str) else " ".join(filter(None, cell))


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""
_STYLE = """
body { max-width: 46rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; background: #fff; color: #1d2126;
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .5rem 0 1rem; }
h2 { font-size: 1.2rem; margin: 2.8rem 0 .6rem; padding-top: .8rem; border-top: 1px solid #d9dde2; }
.alarm { padding: .2rem .5rem; margin: .8rem 0; border-left: .4rem solid #d55e00; background: #fdf3ec; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .7rem; text-align: left; vertical-align: top; border-bottom: 1px solid #e4e7eb; }
th { font-weight: 600; white-space: nowrap; }
th[scope=col] { vertical-align: bottom; border-bottom: 2px solid #1d2126; font-size: .9rem; }
th[scope=col]:last-child { white-space: normal; }
.numeric td, .numeric th + th { text-align: right; }
.numeric td { white-space: nowrap; }
small { display: block; color: #5b6470; font-size: .8rem; font-weight: 400; }
@media (max-width: 32rem) {
  .alarm { padding: .2rem 0; }
  table { font-size: .85rem; }
  th, td { padding: .4rem .35rem; }
  th[scope=col] { white-space: normal; }
  table:not(.numeric) th[scope=row] { white-space: normal; overflow-wrap: anywhere; min-width: 6rem; }
  small { font-size: .68rem; }
}
figure { margin: 1rem 0; }
img { width: 100%; height: auto; }
figcaption { color: #4a525c; font-size: .9rem; }
pre { overflow-x: auto; padding: .8rem 1rem; background: #f4f5f7; font-size: .85rem; line-height: 1.45; }
summary { cursor: pointer; }
"""
