"""The runs of a sweep: every combination of some settings, as a command line asks for them."""

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

MEASUREMENT = ("data.name", "data.test_size", *(f"evaluation.{f}" for f in ("split", "num_examples", "norm", "eps")))


class Run(NamedTuple):
    """One combination."""

    name: str
    workdir: Path
    argv: list[str]  # of clead_jax.main
    cfg: Any
    fields: dict[str, Any]  # the config, flat, without where data lie on this machine


def plan(argv: Sequence[str], usage: str = "") -> tuple[list[Run], Path, bool]:
    """A command line -> the runs, the directory they share, and whether it is a dry run. `--help` prints `usage`.

    Raises ValueError (one line) for unknown or ambiguous fields, values the config refuses, and nothing to sweep.
    """
    words = _joined(argv[1:])
    of_main = [word for word in words if re.match(r"--(config|config\..*|noconfig\..*)(=|$)", word)]
    swept = [word for word in words if word.startswith("--sweep.")]
    options = cli.parse(["sweep", *(word for word in words if word not in of_main + swept)], _define, usage)
    pairs = [word.removeprefix("--sweep.").partition("=") for word in swept]
    pairs += [("seed", "=", options.seeds)] if options.seeds else []
    values = [(name, _values(name, text)) for name, _, text in pairs]
    overrides = [word for word in of_main if not word.startswith("--config=")]
    files = next((found for name, found in values if name == "config"), None) or [cli.config_path(["", *of_main])]
    cfg, axes = _parsed(files[0], overrides), dict[str, list[str]]()
    for name, found in values:
        field = name if name == "config" else _field(name, cfg)
        flag = "--config=" if name == "config" else f"--config.{field}="
        if field in axes or any(word.startswith(flag) for word in of_main):
            raise ValueError(f"{field} is given twice; write all its values in one place")
        axes[field] = found
    if len(axes.pop("config", [])) < 2 and not axes:
        raise ValueError("nothing to sweep; write for example --sweep.margin=0.2,0.5,1.0 or --seeds=0,1,2")
    seeds = axes.pop("seed", [str(cfg.seed)])
    workdir = Path(options.workdir or Path("runs", ("sweep-" + "-".join(map(_stem, files)))[:100]))
    # The seed changes last, so that a sweep that is stopped has seen every setting once.
    combinations = [
        _run(workdir, file, len(files) > 1, dict(zip([*axes, "seed"], [*chosen, seed], strict=True)), overrides)
        for seed, *chosen, file in itertools.product(seeds, *axes.values(), files)
    ]
    for number, run in enumerate(combinations):
        if run.name in {other.name for other in combinations[:number]}:
            raise ValueError(
                f"two runs would share the folder {run.name!r}; their values must differ in more than signs"
            )
    for field in MEASUREMENT:
        if len(differing := {str(run.fields[field]) for run in combinations}) > 1:
            what = f"{field} is {' here and '.join(sorted(differing))} there"
            raise ValueError(f"{what}: such runs would share no table; train once, then python -m clead_jax.evaluate")
    return combinations, workdir, options.dry_run


def _joined(words: Sequence[str]) -> list[str]:
    """One word per flag, with two dashes: ['-seeds', '0,1'] -> ['--seeds=0,1']."""
    joined: list[str] = []
    for word in words:
        if not word.startswith("-") and joined and "=" not in joined[-1]:
            joined[-1] += f"={word}"
        else:
            joined.append(re.sub("^--?(?=[a-z])", "--", word))
    return joined


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("seeds", "", "seeds of every combination, e.g. 0,1,2; empty: the config's", flag_values=values)
    flags.DEFINE_string("workdir", "", "where the runs lie (default: runs/sweep-<config name>)", flag_values=values)
    flags.DEFINE_bool("dry_run", False, "check all runs, print their commands and end", flag_values=values)


def _values(name: str, text: str) -> list[str]:
    """'a,b' or 'a,b;c' -> the values. Raises ValueError for none."""
    found = [part.strip() for part in text.removesuffix(";").split(";")] if ";" in text else spec.items(text)
    if not found:
        raise ValueError(f"--sweep.{name} has no values; write for example --sweep.{name}=A,B")
    return list(dict.fromkeys(found))


def _field(name: str, cfg: Any) -> str:
    """The one config field that is `name` or ends so. Raises ValueError for none or several."""
    found = [name] if name in config.flatten(cfg) else _ending(name, cfg)
    if len(found) > 1:
        raise ValueError(f"--sweep.{name} could be {', '.join(found)}; write one of them in full")
    if not found:
        raise ValueError(f"--sweep.{name}: {config.nearest(name, cfg)}")
    return found[0]


def _ending(name: str, cfg: Any) -> list[str]:
    return [field for field in config.flatten(cfg) if f".{field}".endswith(f".{name}")]


def _run(workdir: Path, file: str, named: bool, setting: dict[str, str], overrides: list[str]) -> Run:
    """One combination. Its folder's name is one on every system, and free of the commas that separate --workdirs."""
    words = [*overrides, *(f"--config.{field}={value}" for field, value in setting.items())]
    cfg, parts = _parsed(file, words), [f"config={_stem(file)}"] if named else []
    for field, value in setting.items():
        last = field.split(".")[-1]
        parts.append(f"{last if _ending(last, cfg) == [field] else field}={value}")
    name = "_".join(re.sub(r"[^\w.=+-]+", "-", part).strip("-") for part in parts)
    fields = config.portable(config.flatten(cfg), str(workdir / name)) | {"data.data_dir": ""}
    return Run(name, workdir / name, [f"--config={file}", f"--workdir={workdir / name}", *words], cfg, fields)


def _stem(file: str) -> str:
    path, _, argument = file.partition(":")
    return "-".join(filter(None, (Path(path).stem, argument)))


def _parsed(file: str, words: list[str]) -> Any:
    """The config behind a file and --config.FIELDs, checked as `main` would. Raises ValueError."""
    argv = ["main", f"--config={file}", *words]
    cfg = cli.parse(cli.with_checked_config(argv), partial(cli.define_config, argv=argv), "").config
    config.validate(cfg)
    if "evaluate" not in spec.items(cfg.stages):
        raise ValueError(f"stages is {cfg.stages!r}; a sweep ends with a comparison, which needs the stage evaluate")
    return cfg
