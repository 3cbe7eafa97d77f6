"""Train every combination of some settings, each at several seeds, and compare.

    python -m clead_jax.sweep --config=FILE --sweep.FIELD=A,B,... [--seeds=0,1,2] [--workdir=DIR] [--config.FIELD=VALUE]
                              [--jobs=N]

--sweep.FIELD may be given several times: all combinations are run. FIELD is a config field ("pretrain.temperature"),
or its last part where only one field ends so ("margin"), or "config" for whole config files. Values that hold commas
themselves are parted by semicolons: --sweep.views="clean,pgd;clean,pgd,cw".

Every run has a folder in DIR that is named by its values, and is the command that is printed, in a process of its own.
The same command goes on after a kill and leaves finished runs alone; a run that fails does not stop the others.
--dry_run checks all runs, prints the commands and ends.

--jobs=2 has two runs at work at a time, each on its share of the processor's cores, its output in a file of its folder:
faster where a network is too small to keep all cores busy. Accelerators are not shared out.
"""

import contextlib
import itertools
import os
import queue
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from clead_jax import config
from clead_jax.config import cli, grid
from clead_jax.core import progress, stopping
from clead_jax.reporting import compare_page, compare_runs
from clead_jax.results import files, forms, lock, read

FINISHED = "sweep.json"  # in the folder of a finished run: the config that it ended with
OUTPUT = "sweep.log"  # what a run has printed, where several run at a time


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


def train(run: grid.Run, cores: Collection[int] = ()) -> bool:
    """Runs the command, on these cores alone where any are named. Whether it came to its end; a signal ends both, the
    run first.
    """
    used = settings(run)
    with lock.held(run.workdir, wait=True), stopping.deferred():
        if finished(run):  # by another sweep, while this one waited
            return True
        status = _status([sys.executable, "-m", "clead_jax.main", *run.argv], cores, run.workdir / OUTPUT)
        if status == 0:
            files.save_json(run.workdir / FINISHED, used)
        elif status > 128:
            signal.raise_signal(status - 128)  # the run was told to stop, and the sweep with it
        return status == 0


def _status(words: list[str], cores: Collection[int], output: Path) -> int:
    """The exit status of a process of its own, which is told to stop when this one is.

    With `cores` it runs on these alone, and prints into the file `output`.
    """
    with open(output, "a", encoding="utf-8") if cores else contextlib.nullcontext() as file:
        process = subprocess.Popen(words, stdout=file, stderr=file)
        if cores:
            os.sched_setaffinity(process.pid, cores)
        while process.poll() is None:
            if stopping.name():
                process.terminate()
                return process.wait()
            time.sleep(0.1)
        return process.returncode


def shares(jobs: int) -> list[Collection[int]]:
    """The cores of each of so many jobs; one job has no share, but all. Raises ValueError where there are too few."""
    if jobs == 1:
        return [()]
    if not hasattr(os, "sched_setaffinity"):
        raise ValueError(
            f"--jobs={jobs}: this system cannot give each run cores of its own; start several sweeps by hand"
        )
    cores = sorted(os.sched_getaffinity(0))
    if jobs > len(cores):
        raise ValueError(f"--jobs={jobs}, but there are {len(cores)} cores")
    return [cores[first::jobs] for first in range(jobs)]


def main(argv: list[str]) -> None:
    """Parses the command line, runs what is not finished, compares. Raises ValueError naming the runs that failed."""
    runs, workdir, dry_run, jobs = grid.plan(argv, __doc__)
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
    left, free = [run for run in runs if run not in done], queue.SimpleQueue[Collection[int]]()
    for share in shares(1 if dry_run else jobs):
        free.put(share)

    def attempt(number: int, run: grid.Run) -> bool:
        if stopping.name():
            return False
        command = shlex.join(["python", "-m", "clead_jax.main", *run.argv])
        print(f"\nsweep: run {number} of {len(runs)}\n{command}\n", end="", flush=True)
        cores = free.get()
        try:
            ended = dry_run or train(run, cores)
        except BaseException:  # as a full disk
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        free.put(cores)
        if not ended:
            print(f"sweep: {run.name} failed{f', see {run.workdir / OUTPUT}' if cores else ''}\n", end="", flush=True)
        return ended

    with cli.writing_in(str(workdir)):
        with stopping.deferred(), ThreadPoolExecutor(free.qsize()) as pool:
            ended = list(pool.map(attempt, itertools.count(len(done) + 1), left))
        failed = [run.name for run, well in zip(left, ended, strict=True) if not well]
        if not dry_run and len(failed) < len(runs):
            found = compare_runs.read([run.workdir for run in runs if run.name not in failed])
            print(f"\n{compare_page.text(found)}\n\ncomparison: {compare_page.write(found, workdir)}")
    if failed:
        raise ValueError(f"{len(failed)} of {len(runs)} runs failed: {', '.join(failed)}; the same command tries again")


if __name__ == "__main__":
    cli.run(main)
