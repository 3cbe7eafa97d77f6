"""Train every combination of some settings, each at several seeds, and compare.

    python -m clead_jax.sweep --config=FILE --sweep.FIELD=A,B,... [--seeds=0,1,2] [--workdir=DIR] [--config.FIELD=VALUE]

--sweep.FIELD may be given several times: all combinations are run. FIELD is a config field ("pretrain.temperature"),
or its last part where only one field ends so ("margin"), or "config" for whole config files
(--sweep.config=configs/resnet18.py,configs/resnet50.py, instead of --config). Values that hold commas themselves are
parted by semicolons: --sweep.views="clean,pgd;clean,pgd,cw".

Every run has a folder in DIR that is named by its values, and is the command that is printed, in a process of its own.
The same command goes on after a kill and leaves finished runs alone; a run that fails does not stop the others.
--dry_run prints the commands and ends.
"""

import contextlib
import fcntl
import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from absl import flags

from clead_jax import compare, config
from clead_jax.config import cli
from clead_jax.core import spec
from clead_jax.reporting import compare_page as comparison_page

MEASUREMENT = (
    "data.name",
    "data.test_size",
    *(f"evaluation.{field}" for field in ("split", "num_examples", "norm", "eps")),
)
FINISHED = "sweep.json"  # in the folder of a finished run: the config that it ended with


class Run(NamedTuple):
    """One combination."""

    name: str
    workdir: Path
    argv: list[str]  # of clead_jax.main
    fields: dict[str, Any]  # the config, flat, without where data lie on this machine

    @property
    def command(self) -> str:
        """What a user would type."""
        return shlex.join(["python", "-m", "clead_jax.main", *self.argv])

    @property
    def finished(self) -> bool:
        """Whether the command came to its end with this config, and no budget ended its AutoAttack."""
        marker, results = self.workdir / FINISHED, self.workdir / "evaluation" / "results.json"
        if not (marker.exists() and results.exists()):
            return False
        with contextlib.suppress(ValueError):  # a torn file vouches for nothing
            cascades = json.loads(results.read_text()).get("protocols", {}).get("autoattack", {}).values()
            return json.loads(marker.read_text()) == self.fields and all(found["complete"] for found in cascades)
        return False


def plan(argv: Sequence[str]) -> tuple[list[Run], Path, bool]:
    """A command line -> the runs, the directory they share, and whether it is a dry run.

    Raises ValueError (one line) for unknown or ambiguous fields, values the config refuses, and nothing to sweep.
    """
    words = _joined(argv[1:])
    for_main = [word for word in words if re.match(r"--(config|config\..*|noconfig\..*)(=|$)", word)]
    swept = _swept(words)
    options = cli.parse(["sweep", *(w for w in words if w not in for_main)], partial(_define, swept), __doc__)
    axes = {name: _values(name, str(options[f"sweep.{name}"].value)) for name in swept}
    overrides = [word for word in for_main if not word.startswith("--config=")]
    if "config" in axes and overrides != for_main:
        raise ValueError("--config and --sweep.config both name config files; give one of them")
    files = axes.pop("config", None) or [cli.config_path(["sweep", *for_main])]
    cfg = _parsed(files[0], overrides)
    axes = {_field(name, cfg): found for name, found in axes.items()}
    if options.seeds and "seed" in axes:
        raise ValueError("--seeds and --sweep.seed both name seeds; give one of them")
    if options.seeds:
        axes["seed"] = [str(spec.whole(seed, "seeds")) for seed in _values("seed", options.seeds)]
    for field in axes:
        if any(word.startswith(f"--config.{field}=") for word in overrides):
            raise ValueError(f"{field} is swept and set by --config.{field} too; give one of them")
    if len(files) < 2 and not axes:
        raise ValueError("nothing to sweep; write for example --sweep.margin=0.2,0.5,1.0 or --seeds=0,1,2")
    axes.setdefault("seed", [str(cfg.seed)])
    workdir = Path(options.workdir or os.path.join("runs", ("sweep-" + "-".join(map(_stem, files)))[:100]))
    return _product(workdir, files, axes, overrides), workdir, options.dry_run


def _product(workdir: Path, files: list[str], axes: dict[str, list[str]], overrides: list[str]) -> list[Run]:
    """All combinations. The seed changes last, so that a sweep that is stopped has seen every setting once."""
    outer = sorted(axes, key=lambda field: field != "seed")
    runs = []
    for *chosen, file in itertools.product(*(axes[field] for field in outer), files):
        setting = dict(zip(outer, chosen, strict=True))
        words = [*overrides, *(f"--config.{field}={setting[field]}" for field in axes)]
        cfg = _parsed(file, words)
        parts = [f"config={_stem(file)}"] * (len(files) > 1)
        name = "_".join(map(_safe, parts + [f"{_short(field, cfg)}={setting[field]}" for field in axes]))
        fields = config.portable(config.flatten(cfg), str(workdir / name)) | {"data.data_dir": ""}
        runs.append(Run(name, workdir / name, [f"--config={file}", f"--workdir={workdir / name}", *words], fields))
    for field in MEASUREMENT:
        if len(found := {str(run.fields[field]) for run in runs}) > 1:
            raise ValueError(f"{field} is {' here and '.join(sorted(found))} there: such runs would share no table")
    names = [run.name for run in runs]
    if doubled := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two runs would share the folder {doubled[0]!r}; their values must differ in more than signs")
    return runs


def _parsed(file: str, words: list[str]) -> Any:
    """The config behind a file and --config.FIELDs, checked as `main` would. Raises ValueError."""
    argv = ["main", f"--config={file}", *words]
    cfg = cli.parse(cli.with_checked_config(argv), partial(cli.define_config, argv=argv), "").config
    config.validate(cfg)
    if "evaluate" not in spec.items(cfg.stages):
        raise ValueError(f"stages is {cfg.stages!r}; a sweep ends with a comparison, which needs the stage evaluate")
    return cfg


def _stem(file: str) -> str:
    path, _, argument = file.partition(":")
    return "-".join(filter(None, (Path(path).stem, argument)))


def _safe(text: str) -> str:
    """A folder name on every system, and free of the commas that separate --workdirs."""
    return re.sub(r"[^\w.=+-]+", "-", text).strip("-")


# --- words of the command line ----------------------------------------------------------------------------------------


def _joined(words: Sequence[str]) -> list[str]:
    """One word per flag, with two dashes: ['-seeds', '0,1'] -> ['--seeds=0,1']."""
    joined: list[str] = []
    for word in words:
        if not word.startswith("-") and joined and "=" not in joined[-1]:
            joined[-1] += f"={word}"
        else:
            joined.append(re.sub("^--?(?=[a-z])", "--", word))
    return joined


def _swept(words: Sequence[str]) -> list[str]:
    """The FIELDs of --sweep.FIELD. Raises ValueError for one that is given twice."""
    found = [word.removeprefix("--sweep.").partition("=")[0] for word in words if word.startswith("--sweep.")]
    for name in found:
        if found.count(name) > 1:
            raise ValueError(f"--sweep.{name} is given twice; write all its values behind one")
    return found


def _define(swept: list[str], values: flags.FlagValues) -> None:
    for name in swept:
        flags.DEFINE_string(f"sweep.{name}", "", "values of this field", flag_values=values)
    flags.DEFINE_string("seeds", "", "seeds of every combination, e.g. 0,1,2; empty: the config's", flag_values=values)
    flags.DEFINE_string("workdir", "", "where the runs lie (default: runs/sweep-<config name>)", flag_values=values)
    flags.DEFINE_bool("dry_run", False, "print the commands and end", flag_values=values)


def _field(name: str, cfg: Any) -> str:
    """The one config field that is `name` or ends so. Raises ValueError for none, several, or one of MEASUREMENT."""
    known = config.flatten(cfg)
    matching = [name] if name in known else _ending(name, cfg)
    if not matching:
        raise ValueError(f"--sweep.{name}: {config.nearest(name, cfg)}")
    if len(matching) > 1:
        raise ValueError(f"--sweep.{name} could be {', '.join(matching)}; write one of them in full")
    if matching[0] in MEASUREMENT:
        raise ValueError(
            f"{matching[0]} says how runs are measured, so that they would share no table; "
            "train once, then python -m clead_jax.evaluate"
        )
    return matching[0]


def _ending(name: str, cfg: Any) -> list[str]:
    return [field for field in config.flatten(cfg) if f".{field}".endswith(f".{name}")]


def _short(field: str, cfg: Any) -> str:
    """The last part of a field's name where that is enough to tell it from all others."""
    last = field.split(".")[-1]
    return last if _ending(last, cfg) == [field] else field


def _values(name: str, text: str) -> list[str]:
    """'a,b' or 'a,b;c' -> the values. Raises ValueError for none."""
    found = [part.strip() for part in text.removesuffix(";").split(";")] if ";" in text else list(spec.items(text))
    if not found:
        raise ValueError(f"--sweep.{name} has no values; write for example --sweep.{name}=A,B")
    return list(dict.fromkeys(found))


# --- running ----------------------------------------------------------------------------------------------------------


def train(run: Run) -> bool:
    """Runs the command in a process of its own. Whether it came to its end; raises KeyboardInterrupt for Ctrl-C."""
    with _alone_in(run.workdir) as lock:
        if run.finished:  # by the one we waited for
            return True
        status = subprocess.run([sys.executable, "-m", "clead_jax.main", *run.argv], pass_fds=[lock]).returncode
        if status == 130:
            raise KeyboardInterrupt
        if status == 0:
            part = run.workdir / (FINISHED + ".part")
            part.write_text(json.dumps(run.fields, indent=1))
            part.replace(run.workdir / FINISHED)
        return status == 0


@contextlib.contextmanager
def _alone_in(workdir: Path) -> Iterator[int]:
    """Waits until no other sweep trains in `workdir`. Its process inherits the lock, and holds it if we are killed."""
    workdir.mkdir(parents=True, exist_ok=True)
    lock = os.open(workdir, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"sweep: another process is at work in {workdir}; waiting for it", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


@contextlib.contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the run at work together with the sweep, as Ctrl-C does."""

    def stop(signum: int, frame: FrameType | None) -> None:
        sys.exit(128 + signum)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(argv: list[str]) -> None:
    """Parses the command line, runs what is not finished, compares. Raises ValueError naming the runs that failed."""
    runs, workdir, dry = plan(argv)
    done = [run for run in runs if run.finished]
    print(f"sweep: {len(runs)} runs in {workdir}, {len(done)} finished already", flush=True)
    for run in done:
        print(f"sweep: {run.name} is finished", flush=True)
    failed = []
    with _stopped_by_sigterm(), cli.writing_in(str(workdir)):
        for number, run in enumerate((run for run in runs if run not in done), start=len(done) + 1):
            print(f"\nsweep: run {number} of {len(runs)}\n{run.command}", flush=True)
            if not dry and not train(run):
                failed.append(run)
                print(f"sweep: {run.name} failed", flush=True)
        if dry:
            return
        if finished := [run.workdir for run in runs if run not in failed]:
            found = compare.read(finished)
            print(f"\n{comparison_page.text(found)}\n\ncomparison: {compare.write(found, workdir)}")
    if failed:
        names = ", ".join(run.name for run in failed)
        raise ValueError(f"{len(failed)} of {len(runs)} runs failed: {names}; the same command tries them again")


if __name__ == "__main__":
    cli.run(main)
