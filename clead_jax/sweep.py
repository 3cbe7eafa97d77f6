"""Train every combination of some settings, each at several seeds, and compare.

    python -m clead_jax.sweep --config=FILE --sweep.FIELD=A,B,... [--seeds=0,1,2] [--workdir=DIR] [--config.FIELD=VALUE]

--sweep.FIELD may be given several times: all combinations are run. FIELD is a config field ("pretrain.temperature"),
or its last part where only one field ends so ("margin"), or "config" for whole config files
(--sweep.config=configs/resnet18.py,configs/resnet50.py, instead of --config). Values that hold commas themselves are
parted by semicolons: --sweep.views="clean,pgd;clean,pgd,cw".

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
from clead_jax.results import files, lock

FINISHED = "sweep.json"  # in the folder of a finished run: the config that it ended with


def check(runs: list[grid.Run]) -> None:
    """Raises ValueError, naming the run, for a config that `main` would refuse before it reads data."""
    from clead_jax.experiment import builders  # after the flags: a typo should not wait for jax

    for run in runs:
        try:
            builders.check(run.cfg)
        except ValueError as error:
            raise ValueError(f"{run.name}: {error}") from None


def finished(run: grid.Run) -> bool:
    """Whether the command came to its end with this config, and no budget stopped an attack."""
    try:
        config, results = (files.load_json(run.workdir / name) for name in (FINISHED, "evaluation/results.json"))
    except ValueError:  # a file that was not written whole proves nothing
        return False
    stopped = [model for model in results.get("models", {}).values() if model.get("incomplete")]
    stopped += [found for found in results.get("protocols", {}).get("autoattack", {}).values() if not found["complete"]]
    return bool(results) and config == run.fields and not stopped


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
    check(runs)
    done = [run for run in runs if finished(run)]
    print(f"sweep: {len(runs)} runs in {workdir}, {len(done)} finished already", flush=True)
    for run in done:
        print(f"sweep: {run.name} is finished", flush=True)
    failed = []
    with cli.writing_in(str(workdir)):
        for number, run in enumerate((run for run in runs if run not in done), start=len(done) + 1):
            command = shlex.join(["python", "-m", "clead_jax.main", *run.argv])
            print(f"\nsweep: run {number} of {len(runs)}\n{command}", flush=True)
            if not dry_run and not train(run):
                failed.append(run.name)
                print(f"sweep: {run.name} failed", flush=True)
        if dry_run:
            return
        if compared := [run.workdir for run in runs if run.name not in failed]:
            found = compare_runs.read(compared)
            print(f"\n{compare_page.text(found)}\n\ncomparison: {compare_page.write(found, workdir)}")
    if failed:
        why = f"{len(failed)} of {len(runs)} runs failed: {', '.join(failed)}"
        raise ValueError(f"{why}; the same command tries them again")


if __name__ == "__main__":
    cli.run(main)
