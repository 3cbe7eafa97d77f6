"""Put runs into one table and one picture.

    python -m clead_jax.compare --workdirs=A,B,... [--output=DIR]

A * in --workdirs stands for any work directories ("runs/margin/*"). Runs that differ in the seed alone become one row,
mean and spread. Writes DIR/compare.md, compare.html, compare.png and compare.json. Imports no jax.
"""

import glob
import os

from absl import flags

from clead_jax.config import cli
from clead_jax.reporting import compare_page, compare_runs


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
    found = compare_runs.read(_workdirs(options.workdirs))
    print(compare_page.text(found))
    with cli.writing_in(options.output):
        print(f"\ncomparison: {compare_page.write(found, options.output)}")


if __name__ == "__main__":
    cli.run(main)
