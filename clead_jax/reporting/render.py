"""Blocks, and the three ways to write them: Markdown, HTML, plain text. Their content is the same in all three.

Every string in a block is plain text: each writer escapes what its own format would read as markup.
"""

import html
from pathlib import Path
from typing import NamedTuple, TypeAlias

from matplotlib.figure import Figure

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
    """Writes a page in both formats, and its pictures beside it, into a directory that is made if it is absent.

    Raises OSError if it cannot write.
    """
    markdown_file.parent.mkdir(parents=True, exist_ok=True)
    for block in blocks:
        if isinstance(block, Picture):
            block.figure.savefig(markdown_file.with_name(f"{block.name}.png"))
    markdown_file.write_text(markdown(title, blocks))
    html_file.write_text(page(title, blocks))


def markdown(title: str, blocks: list[Block]) -> str:
    """The page as GitHub-flavoured Markdown."""
    return "\n\n".join([f"# {_md(title)}", *map(_markdown_block, blocks)]) + "\n"


def _markdown_block(block: Block) -> str:
    match block:
        case Heading(text):
            return f"## {_md(text)}"
        case Text(text):
            return _md(text)
        case Bullets(items):
            return "\n".join(f"* {_md(item)}" for item in items)
        case Table(header, rows, numeric, _, summary):
            rule = [":--"] + ["--:" if numeric else ":--"] * (len(header) - 1)
            lines = [header, rule, *([_join(cell) for cell in row] for row in rows)]
            return _md_folded("\n".join("| " + " | ".join(map(_md, line)) + " |" for line in lines), summary)
        case Picture(name, _, alt, caption):
            return f"![{_md(alt)}]({name}.png)\n\n*{_md(caption)}*"
        case Code(text, summary):
            return _md_folded(f"```\n{text}\n```", summary)


def _md_folded(block: str, summary: str) -> str:
    return f"<details><summary>{_md(summary)}</summary>\n\n{block}\n\n</details>" if summary else block


def _md(text: str) -> str:
    for mark in ("\\", "`", "*", "|", "<", "](", "_"):
        text = text.replace(mark, "\\" + mark)
    return text


def page(title: str, blocks: list[Block]) -> str:
    """The page as HTML: one file that needs nothing but the pictures beside it."""
    body = "\n".join([f"<h1>{html.escape(title)}</h1>", *map(_html_block, blocks)])
    head = f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{html.escape(title)}</title>'
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{head}\n<style>{_STYLE}</style>\n'
        f"</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _html_block(block: Block) -> str:
    match block:
        case Heading(text):
            return f"<h2>{html.escape(text)}</h2>"
        case Text(text):
            return f"<p>{html.escape(text)}</p>"
        case Bullets(items):
            return "<ul>" + "".join(f"<li>{html.escape(item)}</li>" for item in items) + "</ul>"
        case Table(header, rows, numeric, alarm, summary):
            kind = ' class="numeric"' if numeric else ""
            head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in header)
            lines = "\n".join(f"<tr>{_html_row(row)}</tr>" for row in rows)
            frame = "scroll alarm" if alarm else "scroll"
            return _html_folded(
                f'<div class="{frame}"><table{kind}>\n<tr>{head}</tr>\n{lines}\n</table></div>', summary
            )
        case Picture(name, _, alt, caption):
            image = f'<a href="{name}.png"><img src="{name}.png" alt="{html.escape(alt)}"></a>'
            return f"<figure>{image}<figcaption>{html.escape(caption)}</figcaption></figure>"
        case Code(text, summary):
            return _html_folded(f"<pre>{html.escape(text)}</pre>", summary)


def _html_folded(block: str, summary: str) -> str:
    return f"<details><summary>{html.escape(summary)}</summary>{block}</details>" if summary else block


def _html_row(row: list[Cell]) -> str:
    name, *fields = map(_html_cell, row)
    return f'<th scope="row">{name}</th>' + "".join(f"<td>{field}</td>" for field in fields)


def _html_cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return html.escape(cell)
    return f"{html.escape(cell[0])}<small>{html.escape(cell[1])}</small>"


def text(table: Table) -> str:
    """A table for the terminal: columns aligned by spaces, numbers to the right."""
    lines = [table.header, *([_join(cell) for cell in row] for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in lines
    )


def _join(cell: Cell) -> str:
    return cell if isinstance(cell, str) else " ".join(filter(None, cell))


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
  small { font-size: .68rem; }
}
figure { margin: 1rem 0; }
img { width: 100%; height: auto; }
figcaption { color: #4a525c; font-size: .9rem; }
pre { overflow-x: auto; padding: .8rem 1rem; background: #f4f5f7; font-size: .85rem; line-height: 1.45; }
summary { cursor: pointer; }
"""
