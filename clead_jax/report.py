"""python -m clead_jax.report --workdir=DIR: writes DIR/report/ again from what DIR holds. Imports no jax."""

import sys
from pathlib import Path

from absl import app, flags

from clead_jax.reporting import content, inputs, render


def build(workdir: str | Path) -> Path:
    """Writes report.md, index.html and their pictures to `workdir`/report. Returns the path of index.html.

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


def main() -> None:
    """Entry point: prints where the report is; an error is one line and exit status 1."""
    flags.DEFINE_string("workdir", None, "the work directory of a run")
    app.run(_run)


def _run(argv: list[str]) -> None:
    if len(argv) > 1 or not flags.FLAGS.workdir:
        sys.exit("error: usage: python -m clead_jax.report --workdir=DIR")
    try:
        print(build(flags.FLAGS.workdir))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
