"""Write the report of a run again, from what its work directory holds.

    python -m clead_jax.report --workdir=DIR

Writes DIR/report/: report.md, index.html, and the pictures beside them. Imports no jax: any machine will do.
"""

from pathlib import Path

from absl import flags

from clead_jax.config import cli
from clead_jax.reporting import render, tables
from clead_jax.reporting import sections as content
from clead_jax.results import read as inputs


def build(workdir: str | Path) -> Path:
    """Writes `workdir`/report/ and returns the path of its index.html.

    Raises ValueError, in one line, for missing results or an unreadable file; OSError if it cannot write.
    """
    found = inputs.read(workdir)
    title, blocks = content.title(found.results), content.compose(found)
    folder = Path(workdir) / "report"
    folder.mkdir(exist_ok=True)
    for outdated in folder.glob("*.png"):
        outdated.unlink()
    for block in blocks:
        if isinstance(block, render.Picture):
            block.figure.savefig(folder / f"{block.name}.png")
    (folder / "report.md").write_text(render.markdown(title, blocks))
    (folder / "index.html").write_text(render.page(title, blocks))
    return folder / "index.html"


def table(directory: str | Path) -> str:
    """The before/after table of an evaluation directory, for the terminal. Raises ValueError as `build` does."""
    return tables.table_text(inputs.results(Path(directory)))


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "work directory of a run", flag_values=values)


def main(argv: list[str]) -> None:
    """Parses the command line, writes the report, prints where it is."""
    values = cli.parse(argv, _define, __doc__)
    if not values.workdir:
        raise ValueError("which run? write --workdir=DIR")
    print(build(values.workdir))


if __name__ == "__main__":
    cli.run(main)
