"""Put runs into one table and one picture.

    python -m clead_jax.compare --workdirs=A,B,... [--output=DIR]

A * in --workdirs stands for any work directories ("runs/margin/*"). Runs that differ in the seed alone become one row,
mean and spread. Writes DIR/compare.md, compare.html, compare.png and compare.json. Imports no jax.
"""

import glob
import hashlib
import json
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from clead_jax import config
from clead_jax.config import cli
from clead_jax.reporting import compare_page as comparison_page
from clead_jax.reporting import compare_runs as comparison
from clead_jax.reporting import render
from clead_jax.results import read as inputs


def read(workdirs: Sequence[str | Path]) -> list[comparison.Comparison]:
    """What the runs in `workdirs` have in common, ready for a table: one comparison per shared measurement.

    Raises ValueError (one line) for a directory without finished results, and for runs that cannot stand in one table.
    """
    distinct = list(dict.fromkeys(os.path.abspath(workdir) for workdir in workdirs))
    if not distinct:
        raise ValueError("which runs? write --workdirs=A,B,...")
    parent = os.path.commonpath([os.path.dirname(workdir) for workdir in distinct])
    return comparison.compare([_entries(Path(workdir), os.path.relpath(workdir, parent)) for workdir in distinct])


def write(found: list[comparison.Comparison], output: str | Path) -> Path:
    """Writes `output`/compare.* and returns the path of the HTML page. Raises OSError if it cannot write."""
    output, title, blocks = Path(output), comparison_page.title(found), comparison_page.compose(found)
    output.mkdir(parents=True, exist_ok=True)
    for block in blocks:
        if isinstance(block, render.Picture):
            block.figure.savefig(output / f"{block.name}.png")
    (output / "compare.md").write_text(render.markdown(title, blocks))
    (output / "compare.html").write_text(render.page(title, blocks))
    (output / "compare.json").write_text(json.dumps(comparison_page.plain(found), indent=1))
    return output / "compare.html"


def _entries(workdir: Path, run: str) -> list[comparison.Entry]:
    """The models of a run, in its evaluation and in those of other threat models, splits or subsets beside it."""
    cfg, name = config.restore(str(workdir))
    evaluation = workdir / "evaluation"
    found = [(evaluation, inputs.results(evaluation))]
    for path in sorted(evaluation.glob("*/results.json")):
        if "checks" in json.loads(path.read_text()):  # else it was stopped, which is no reason to show nothing
            found.append((path.parent, inputs.results(path.parent)))
    return [
        comparison.Entry(run, name, label, saved["stage"], cfg.seed, _fields(cfg, saved), _images(directory), results)
        for directory, results in found
        for label, model in results["models"].items()
        for saved in [model["checkpoint"]]
    ]


def _fields(cfg: Any, saved: dict[str, Any]) -> dict[str, Any]:
    decisive = config.stage_fields(cfg, saved["stage"]) | {"evaluation.which": saved["which"]}
    return {key: value for key, value in decisive.items() if key != "seed"}


def _images(directory: Path) -> str:
    """Digest of which images were attacked; empty where that is not recorded."""
    path = directory / "per_example.npz"
    if not path.exists():
        return ""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return hashlib.sha256(archive["index"].astype(np.int64).tobytes()).hexdigest() if "index" in archive else ""
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a readable npz file: {error}") from error


def _workdirs(text: str) -> list[str]:
    """'A,B*' -> the paths it stands for. Raises ValueError for a pattern without a match."""
    found: list[str] = []
    for word in filter(None, map(str.strip, text.split(","))):
        matches = sorted(path for path in glob.glob(word) if os.path.exists(os.path.join(path, "config.json")))
        if "*" in word and not matches:
            raise ValueError(f"--workdirs: no work directory matches {word!r}")
        found += matches if "*" in word else [word]
    return found


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdirs", "", "work directories of runs, e.g. runs/a,runs/b or runs/*", flag_values=values)
    flags.DEFINE_string("output", "runs/compare", "where the page goes", flag_values=values)


def main(argv: list[str]) -> None:
    """Parses the command line, prints the table, writes the page."""
    options = cli.parse(argv, _define, __doc__)
    found = read(_workdirs(options.workdirs))
    print(comparison_page.text(found))
    with cli.writing_in(options.output):
        print(f"\ncomparison: {write(found, options.output)}")


if __name__ == "__main__":
    cli.run(main)
