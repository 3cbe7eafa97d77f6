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
import subprocess
import sys

from clead_jax.config import cli, grid
from clead_jax.core import progress
from clead_jax.reporting import compare_page, compare_runs
from clead_jax.results import files, forms, lock, read

FINISHED = "sweep.json"  # in the folder of a finished run: the config that it ended with


def finished(run: grid.Run) -> bool:
    """Whether the command came to its end with this config, and no budget stopped an attack."""
    try:
        config = files.load_json(run.workdir / FINISHED)
        results = files.load_json(run.workdir / "evaluation/results.json", forms.RESULTS)
    except ValueError:  # a file that was not written whole proves nothing
        return False
    return config == run.fields and bool(results) and not read.stopped(results)


def train(run: grid.Run) -> bool:
    """Runs the command in a process of its own. Whether it came to its end; raises KeyboardInterrupt for Ctrl-C."""
    with lock.held(run.workdir, wait=True):
        status = subprocess.run([sys.executable, "-m", "clead_jax.main", *run.argv]).returncode
        if status == 130:
            raise KeyboardInterrupt
        if status == 0:
            files.save_json(run.workdir / FINISHED, run.fields)
        return status == 0


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
