"""Write the report of a run again, from what its work directory holds.

    python -m clead_jax.report --workdir=DIR

Writes DIR/report/: report.md, index.html, and the pictures beside them. Imports no jax: any machine will do.
"""

from absl import flags

from clead_jax.config import cli
from clead_jax.reporting import page


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "work directory of a run", flag_values=values)


def main(argv: list[str]) -> None:
    """Parses the command line, writes the report, prints where it is."""
    values = cli.parse(argv, _define, __doc__)
    if not values.workdir:
        raise ValueError("which run? write --workdir=DIR")
    print(page.build(values.workdir))


if __name__ == "__main__":
    cli.run(main)
