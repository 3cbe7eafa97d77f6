"""Train and evaluate: the whole experiment of a config.

    python -m clead_jax.main --config=configs/quickstart.py [--workdir=DIR] [--config.pretrain.epochs=1 ...]

Runs the stages of `config.stages`: those that train in the order given, then evaluation and report. The same command
goes on where a killed run was; finished stages are not run again.
"""

import os
import re
import shlex
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags

from clead_jax import config
from clead_jax.config import cli
from clead_jax.core import progress


def _define(argv: list[str], values: flags.FlagValues) -> None:
    cli.define_config(values, argv)
    flags.DEFINE_string("workdir", "", "where everything is written (default: runs/<config name>)", flag_values=values)
    cli.define_distributed(values)


def main(argv: list[str]) -> None:
    """Parses the command line and runs the stages."""
    values = cli.parse(cli.with_checked_config(argv), partial(_define, argv), __doc__)
    name = cli.config_name(cli.config_path(argv))
    from clead_jax.core import sharding  # after the flags: a typo should not wait for jax
    from clead_jax.experiment import pipeline

    sharding.initialize(values.distributed)
    progress.show(values.verbosity, sharding.is_main)
    workdir = values.workdir or os.path.join("runs", name)
    with cli.writing_in(workdir):
        pipeline.run(values.config, workdir, name, _command(cli.config_path(argv), cli.preset(argv), values.config))


def _command(file: str, preset: Any, chosen: Any) -> str:
    """The command that gives `chosen`, as the report shows it: without the places where this machine keeps things."""
    before = config.flatten(preset)
    changed = {k: v for k, v in config.flatten(chosen).items() if v != before[k] and k != "data.data_dir"}
    for field in changed.keys() & {"data.name", "data.extra"}:
        changed[field] = re.sub(r"^(npz|folder):.*/(?=.)", r"\1:", changed[field])
    if (source := "evaluation.transfer.source") in changed:
        changed[source] = re.sub(r"(^|(?<=[(+]))/[^:+]*/(?=.)", "", changed[source])
    words = (f"--config.{field}={value}" for field, value in changed.items())
    return shlex.join(["python", "-m", "clead_jax.main", f"--config=configs/{Path(file).name}", *words])


if __name__ == "__main__":
    cli.run(main)
