"""The report of a run as a page and as a table for the terminal, from the files in its work directory."""

from pathlib import Path

from clead_jax.reporting import render, sections, tables
from clead_jax.results import files, read


def build(workdir: str | Path) -> Path:
    """Writes `workdir`/report/ and returns the path of its index.html.

    A page that is there stays until the new one is whole. Raises ValueError, in one line,
    for missing results or an unreadable file; OSError if it cannot write.
    """
    found, folder = read.read(workdir), Path(workdir).expanduser() / "report"
    blocks = sections.compose(found)
    with files.replaced_together(folder) as part:
        render.write(sections.title(found.results), blocks, part / "report.md", part / "index.html")
        shown = {picture.name for picture in part.glob("*.png")}
    for outdated in folder.glob("*.png"):
        if outdated.name not in shown:
            outdated.unlink(missing_ok=True)
    return folder / "index.html"


def table(directory: str | Path) -> str:
    """The before/after table of an evaluation directory, for the terminal. Raises ValueError as `build` does."""
    return tables.table_text(read.evaluation(Path(directory)).results)


def union_table(workdir: str | Path) -> str:
    """The table of the union of threat models, for the terminal. Raises ValueError as `build` does, or without one."""
    found = read.read(workdir)
    if found.union is None:
        raise ValueError(f"{workdir} holds no union of threat models")
    return render.text(tables.union(found.union, found.results))
