"""Train every combination of some settings, each at several seeds, and compare.

    python -m clead_jax.sweep --config=FILE --sweep.FIELD=A,B,... [--seeds=0,1,2] [--workdir=DIR] [--config.FIELD=VALUE]

--sweep.FIELD may be given several times: all combinations are run. FIELD is a config field ("pretrain.temperature"),
or its last part where only one field ends so ("margin"), or "config" for whole config files. Values that hold commas
themselves are parted by semicolons: --sweep.views="clean,pgd;clean,pgd,cw".

Every run has a folder in DIR that is named by its values, and is the command that is printed, in a process of its own.
The same command goes on after a kill and leaves finished runs alone; a run that fails does not stop the others.
--dry_run checks all runs, prints the commands and ends.
"""

import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from clead_jax import config
from clead_jax.config import cli, grid
from clead_jax.core import progress, stopping
from clead_jax.reporting import compare_page, compare_runs
from clead_jax.results import files, forms, lock, read

FINISHED = "sweep.json"  # in the folder of a finished run: the config that it ended with


def settings(run: grid.Run) -> dict[str, Any]:
    """The config of a run, and which files are behind a user's own data."""
    from clead_jax.data import stamp  # brings jax

    kind, _, path = run.cfg.data.name.partition(":")
    own = kind in config.io.FILE_SOURCES and Path(path).expanduser()
    return run.fields | ({"data.stamp": stamp(own.resolve())} if own and own.exists() else {})


def finished(run: grid.Run) -> bool:
    """Whether the command came to its end with this config and data, and no budget stopped an attack."""
    try:
        fields = files.load_json(run.workdir / FINISHED)
        results = files.load_json(run.workdir / "evaluation/results.json", forms.RESULTS)
    except ValueError:  # a file that was not written whole proves nothing
        return False
    return fields == settings(run) and bool(results) and not read.stopped(results)


def train(run: grid.Run) -> bool:
    """Runs the command. Whether it came to its end; a signal ends both, the run first."""
    used = settings(run)
    with lock.held(run.workdir, wait=True), stopping.deferred():
        if finished(run):  # by another sweep, while this one waited
            return True
        status = _status([sys.executable, "-m", "clead_jax.main", *run.argv])
        if status == 0:
            files.save_json(run.workdir / FINISHED, used)
        elif status > 128:
            signal.raise_signal(status - 128)  # the run was told to stop, and the sweep with it
        return status == 0


def _status(words: list[str]) -> int:
    """The exit status of a process of its own, which is told to stop when this one is."""
    process = subprocess.Popen(words)
    while process.poll() is None:
        if stopping.name():
            process.terminate()
            return process.wait()
        time.sleep(0.1)
    return process.returncode


def main(argv: list[str]) -> None:
    """Parses the command line, runs what is not finished, compares. Raises ValueError naming the runs that failed."""
    runs, workdir, dry_run = grid.plan(argv, __doc__)
    progress.show(0)
    import jax  # after the flags: a typo should not wait for jax

    from clead_jax.experiment import stages

    jax.config.update("jax_platforms", "cpu")  # accelerators belong to the runs
    for run in runs:
        try:
            stages.check(run.cfg)
        except ValueError as error:
            raise ValueError(f"{run.name}: {error}") from None
    done = [run for run in runs if finished(run)]
    print(f"sweep: {len(runs)} runs in {workdir}, {len(done)} finished already")
    print(*(f"sweep: {run.name} is finished\n" for run in done), sep="", end="", flush=True)
    failed: list[str] = []
    with cli.writing_in(str(workdir)):
        for number, run in enumerate((run for run in runs if run not in done), start=len(done) + 1):
            command = shlex.join(["python", "-m", "clead_jax.main", *run.argv])
            print(f"\nsweep: run {number} of {len(runs)}\n{command}", flush=True)
            if not dry_run and not train(run):
                failed.append(run.name)
                print(f"sweep: {run.name} failed", flush=True)
        if not dry_run and len(failed) < len(runs):
            found = compare_runs.read([run.workdir for run in runs if run.name not in failed])
            print(f"\n{compare_page.text(found)}\n\ncomparison: {compare_page.write(found, workdir)}")
    if failed:
        raise ValueError(f"{len(failed)} of {len(runs)} runs failed: {', '.join(failed)}; the same command tries again")


if __name__ == "__main__":
    cli.run(main)
