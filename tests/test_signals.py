"""Real runs that are told to stop, or whose disk fills: they save, say so, and end with the same bits."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import chex
import numpy as np
import pytest
import speck

from clead_jax.results import files, lock
from clead_jax.training import checkpoint

ROOT = pathlib.Path(__file__).resolve().parent.parent
LONG = {"stages": "baseline", "baseline.epochs": 400, "checkpoint.every": 400, "validation.every": 400}


def launch(workdir, folder, *argv, **more):
    """A run of main, or of the door in argv, with programs compiled before."""
    env = os.environ | {
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        "XLA_FLAGS": "",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    words = argv or ("clead_jax.main", *speck.command(workdir, **more)[1:])
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-u", "-m", *map(str, words)], cwd=ROOT, env=env, **pipes)


def ended(process):
    out, error = process.communicate(timeout=200)
    return process.returncode, out, error.strip()


def weights(workdir):
    return checkpoint.restore_model(workdir / "checkpoints" / "baseline")[0]


def metrics(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("images_per_s", "seconds")} for line in lines]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """An undisturbed run, and the folder of its compiled programs."""
    folder = tmp_path_factory.mktemp("straight")
    status, out, error = ended(launch(folder / "run", folder, **LONG))
    assert (status, error) == (0, ""), out
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP], ids=["TERM", "USR1", "INT", "HUP"]
)
def test_a_signal_in_the_middle_of_an_epoch_saves_there_and_costs_no_bit(straight, tmp_path, number):
    workdir, steps = tmp_path / "run", []
    for _ in range(3):
        process = launch(workdir, straight, **LONG)
        for line in process.stdout:
            if "ETA" in line:
                break
        time.sleep(0.1)
        process.send_signal(number)
        status, out, error = ended(process)
        if status == 0:
            break  # it was faster
        assert status == 128 + number and "\n" not in error and f"stopped by {number.name}" in error
        assert f"baseline: stopped by {number.name}, saved after step" in out
        assert not (workdir / lock.NAME).exists()
        steps.append(checkpoint.steps(workdir / "checkpoints" / "baseline")[-1])
    assert steps
    status, out, error = ended(launch(workdir, straight, **LONG))
    assert (status, error) == (0, "")
    chex.assert_trees_all_equal(weights(workdir), weights(straight / "run"))
    assert metrics(workdir) == metrics(straight / "run")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_an_evaluation_that_is_stopped_ends_with_the_same_files(straight, tmp_path, number):
    argv = ["clead_jax.evaluate", "--models=baseline", "--attacks=pgd(steps=6000)", "--protocol=whitebox"]
    argv += ["--curve=none", "--checks=false", "--plugins=speck"]
    for name in ("undisturbed", "stopped"):
        shutil.copytree(straight / "run", tmp_path / name)
    assert ended(launch("", straight, *argv, f"--workdir={tmp_path}/undisturbed"))[0] == 0
    process = launch("", straight, *argv, f"--workdir={tmp_path}/stopped")
    while not (tmp_path / "stopped" / lock.NAME).exists():
        time.sleep(0.02)
    time.sleep(1.5)
    process.send_signal(number)
    status, out, error = ended(process)
    assert (status, error) in ((-9, ""), (0, "")) or (status == 128 + number and "\n" not in error), (out, error)
    assert (
        status != 128 + number or list((tmp_path / "stopped" / "evaluation").glob("progress-*.npz")) or "pgd" not in out
    )
    assert ended(launch("", straight, *argv, f"--workdir={tmp_path}/stopped"))[0] == 0
    records = [dict(np.load(tmp_path / name / "evaluation" / "per_example.npz")) for name in ("undisturbed", "stopped")]
    chex.assert_trees_all_equal(*records)


# --- a disk that fills, a page that is not finished ------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MB, or a skip where none can be made."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this user may not mount a file system")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def arrays(size, count=20):
    return {f"w{n}": np.random.default_rng(n).normal(size=size) for n in range(count)}


SAVE = """
import sys, os
import numpy as np
from clead_jax.config import cli
from clead_jax.core import progress
from clead_jax.training import checkpoint
def main(argv):
    progress.show(0)
    if "unforeseen" in argv:  # the disk fills after the room was looked for
        os.posix_fallocate = lambda *given: None
    w = {f"w{n}": np.random.default_rng(n).normal(size=20_000) for n in range(40)}
    checkpoint.save(argv[1], 20, w, {"a": w}, {})
cli.run(main)
"""


@pytest.mark.parametrize("how", ["full", "unforeseen", "read-only", "a file in the way"])
def test_a_checkpoint_that_cannot_be_written_is_one_line_and_leaves_nothing_half(small_disk, how):
    folder = small_disk / "ck"
    checkpoint.save(folder, 10, arrays(100), {"a": arrays(10)}, {})
    if how == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    if how == "a file in the way":
        folder = folder / "10" / "step.json"
    words = [sys.executable, "-c", SAVE, str(folder), how]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stdout == "", done.stderr
    assert done.stderr.startswith(f"error: cannot write checkpoint 20 in {folder}: ")
    assert os.listdir(small_disk / "ck") == ["10"]
    if how == "read-only":
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    checkpoint.save(small_disk / "ck", 20, arrays(100), {"a": arrays(10)}, {})
    assert checkpoint.steps(small_disk / "ck") == [10, 20]


def test_a_page_that_fails_or_is_killed_leaves_the_one_before(tmp_path):
    """Of report and compare alike: both write through this."""
    for name, text in (("a.png", "old"), ("page.html", "old a.png")):
        (tmp_path / name).write_text(text)
    for error in (OSError, KeyboardInterrupt, SystemExit, MemoryError):
        with pytest.raises(error), files.replaced_together(tmp_path) as part:
            (part / "a.png").write_text("new")
            raise error
        assert sorted(os.listdir(tmp_path)) == ["a.png", "page.html"] and (tmp_path / "a.png").read_text() == "old"
    (tmp_path / ".part").mkdir()  # of a killed process
    (tmp_path / ".part" / "b.png").write_text("half")
    with files.replaced_together(tmp_path) as part:
        (part / "page.html").write_text("new a.png")
        (part / "a.png").write_text("new")
    assert {name: (tmp_path / name).read_text() for name in os.listdir(tmp_path)} == {
        "a.png": "new", "page.html": "new a.png"
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda n: n.name)
def test_a_report_that_is_killed_leaves_the_one_before_and_the_next_is_whole(tmp_path, number):
    workdir = tmp_path / "run"
    shutil.copytree(ROOT / "tests/fixtures/workdir-v0.1", workdir)
    report = lambda: {file.name: file.read_bytes() for file in (workdir / "report").iterdir() if file.is_file()}
    command = [sys.executable, "-m", "clead_jax.report", f"--workdir={workdir}"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    before = report()
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list((workdir / "report/.part").glob("*.png")):
        time.sleep(0.005)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number) and said.count("\n") <= 2, said
    assert {name: data for name, data in report().items() if name != ".lock"} == before
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert report() == before and not (workdir / "report/.part").exists()


def test_two_that_write_one_page_take_turns(tmp_path):
    order = []

    def write(name):
        with files.replaced_together(tmp_path) as part:
            order.append(name)
            (part / "page.html").write_text(name)
            time.sleep(0.2)
            order.append(name)

    threads = [threading.Thread(target=write, args=[name]) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert order[::2] == order[1::2] and (tmp_path / "page.html").read_text() == order[-1]
    assert os.listdir(tmp_path) == ["page.html"]
