"""The runs of a sweep: all combinations of some settings. The seed changes last: a stopped sweep has seen each once."""

import itertools
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from clead_jax import config
from clead_jax.config import cli
from clead_jax.core import spec


class Run(NamedTuple):
    """One combination."""

    name: str
    workdir: Path
    argv: list[str]  # of clead_jax.main
    cfg: Any
    fields: dict[str, Any]  # the config, flat, without where data lie on this machine


class Plan(NamedTuple):
    """What a command line means."""

    runs: list[Run]
    workdir: Path  # which they share
    dry_run: bool
    jobs: int  # runs at a time


def plan(argv: Sequence[str], usage: str = "") -> Plan:
    """The runs of a command line. `--help` prints `usage`.

    Raises ValueError (one line) for unknown or ambiguous fields, values the config refuses, and nothing to sweep.
    """
    words = [re.sub("^--seeds=", "--sweep.seed=", word) for word in cli.joined(argv[1:])]
    axes_of = [word for word in words if word.startswith(("--sweep.", "--config="))]
    overrides = [word for word in words if word.startswith(("--config.", "--noconfig."))]
    options = cli.parse(["sweep", *(word for word in words if word not in axes_of + overrides)], _define, usage)
    given = [_axis(re.sub("^--(sweep.)?", "", word)) for word in axes_of]
    files = dict(given).get("config") or [cli.config_path([])]
    cfg, axes = _parsed(files[0], overrides), dict[str, list[str]]()
    for name, values in given:
        field = name if name == "config" else _field(name, cfg)
        if field in axes or any(word.startswith(f"--config.{field}=") for word in overrides):
            raise ValueError(f"{field} is given twice; write all its values in one place")
        axes[field] = values
    if len(axes.pop("config")) < 2 and not axes:
        raise ValueError("nothing to sweep; write for example --sweep.margin=0.2,0.5,1.0 or --seeds=0,1,2")
    seeds = axes.pop("seed", [str(cfg.seed)])
    workdir = Path(options.workdir or Path("runs", ("sweep-" + "-".join(map(cli.config_name, files)))[:100]))
    runs = [
        _run(workdir, file, len(files) > 1, dict(zip([*axes, "seed"], [*values, seed], strict=True)), overrides)
        for seed, *values, file in itertools.product(seeds, *axes.values(), files)
    ]
    folders = [run.name for run in runs]
    if doubled := [name for name in folders if folders.count(name) > 1]:
        raise ValueError(f"two runs would share the folder {doubled[0]!r}; their values must differ in more than signs")
    measured = ("data.name", "data.test_size", *(f"evaluation.{f}" for f in ("split", "num_examples", "norm", "eps")))
    for field in measured:
        if len(found := {str(config.flatten(run.cfg)[field]) for run in runs}) > 1:
            what = f"{field} is {' here and '.join(sorted(found))} there: such runs would share no table"
            raise ValueError(f"{what}; train once, then python -m clead_jax.evaluate")
    return Plan(runs, workdir, options.dry_run, options.jobs)


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("seeds", "", "seeds of every combination, e.g. 0,1,2; empty: the config's", flag_values=values)
    flags.DEFINE_string("workdir", "", "where the runs lie (default: runs/sweep-<config name>)", flag_values=values)
    flags.DEFINE_integer("jobs", 1, "runs at a time, each on its share of the cores", 1, flag_values=values)
    flags.DEFINE_bool("dry_run", False, "check all runs, print their commands and end", flag_values=values)


def _axis(word: str) -> tuple[str, list[str]]:
    """'name=a,b' or 'name=a,b;c' -> the name and its values. Raises ValueError for none."""
    name, _, text = word.partition("=")
    found = [part.strip() for part in text.removesuffix(";").split(";")] if ";" in text else spec.items(text)
    if not found:
        raise ValueError(f"--sweep.{name} has no values; write for example --sweep.{name}=A,B")
    return name, list(dict.fromkeys(found))


def _field(name: str, cfg: Any) -> str:
    """The one config field that is `name` or ends so. Raises ValueError for none or several."""
    found = [field for field in config.flatten(cfg) if f".{field}".endswith(f".{name}")]
    if len(found) > 1 and name not in found:
        raise ValueError(f"--sweep.{name} could be {', '.join(found)}; write one of them in full")
    if not found:
        raise ValueError(f"--sweep.{name}: {config.nearest(name, cfg)}")
    return name if name in found else found[0]


def _run(workdir: Path, file: str, named: bool, setting: dict[str, str], overrides: list[str]) -> Run:
    """One combination. Its folder's name is one on every system, and free of the commas that separate --workdirs."""
    words = [*overrides, *(f"--config.{field}={value}" for field, value in setting.items())]
    cfg = _parsed(file, words)
    last = {field: field.split(".")[-1] for field in config.flatten(cfg)}
    short = {field: last[field] if [*last.values()].count(last[field]) == 1 else field for field in setting}
    parts = [f"config={cli.config_name(file)}"] * named + [f"{short[field]}={setting[field]}" for field in setting]
    name = "_".join(re.sub(r"[^\w.=+-]+", "-", part).strip("-") for part in parts)
    fields = config.portable(config.flatten(cfg)) | {"data.data_dir": ""}
    return Run(name, workdir / name, [f"--config={file}", f"--workdir={workdir / name}", *words], cfg, fields)


def _parsed(file: str, words: list[str]) -> Any:
    """The config behind a file and --config.FIELDs, checked as `main` would. Raises ValueError."""
    argv = ["main", f"--config={file}", *words]
    cfg = cli.parse(cli.with_checked_config(argv), partial(cli.define_config, argv=argv), "").config
    config.validate(cfg)
    if "evaluate" not in spec.items(cfg.stages):
        raise ValueError(f"stages is {cfg.stages!r}; a sweep ends with a comparison, which needs the stage evaluate")
    return cfg
