"""The report of a run as a page and as a table for the terminal, from the files in its work directory."""

from pathlib import Path

from clead_jax.reporting import render, sections, tables
from clead_jax.results import read


def build(workdir: str | Path) -> Path:
    """Writes `workdir`/report/ and returns the path of its index.html.

    Raises ValueError, in one line, for missing results or an unreadable file; OSError if it cannot write.
    """
    found, folder = read.read(workdir), Path(workdir).expanduser() / "report"
    blocks = sections.compose(found)
    for outdated in folder.glob("*.png"):
        outdated.unlink()
    render.write(sections.title(found.results), blocks, folder / "report.md", folder / "index.html")
    return folder / "index.html"


def table(directory: str | Path) -> str:
    """The before/after table of an evaluation directory, for the terminal. Raises ValueError as `build` does."""
    return tables.table_text(read.evaluation(Path(directory)).results)
