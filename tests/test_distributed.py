"""The whole program on two processes: the same weights as on one with as many devices; stopped together, too."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import chex
import numpy as np
import pytest
import speck

from clead_jax.experiment import builders as build
from clead_jax.training import checkpoint

ROOT = pathlib.Path(__file__).resolve().parent.parent


def free_address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def two(workdir, **more):
    """Two processes of one device each, whose stderr is kept."""
    env = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "JAX_NUM_PROCESSES": "2"}
    env["JAX_COORDINATOR_ADDRESS"] = free_address()
    settings = {"stages": "baseline", "baseline.epochs": 60} | more
    words = [sys.executable, "-u", "-m", "clead_jax.main", *speck.command(workdir, **settings)[1:], "--distributed"]
    pipes = {"cwd": ROOT, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return [subprocess.Popen(words, env=env | {"JAX_PROCESS_ID": str(rank)}, **pipes) for rank in range(2)]


def in_training(workdir, processes):
    while not (workdir / "checkpoints" / "baseline" / "8").is_dir():
        assert all(process.poll() is None for process in processes), processes[0].communicate()[1]
        time.sleep(0.05)


def ends(processes):
    """(status, lines on stderr) of each, within a minute."""
    said = [process.communicate(timeout=60)[1] for process in processes]
    return [(process.returncode, error.strip().splitlines()) for process, error in zip(processes, said, strict=True)]


@pytest.mark.slow
def test_two_processes_that_are_stopped_or_killed_end_with_the_same_bits(tmp_path):
    straight = two(tmp_path / "straight")
    assert [process.wait(timeout=300) for process in straight] == [0, 0]
    for rank, number in enumerate((signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP, signal.SIGKILL)):
        workdir = tmp_path / number.name
        processes = two(workdir)
        in_training(workdir, processes)
        processes[rank % 2].send_signal(number)
        found = ends(processes)
        status = -9 if number == signal.SIGKILL else 128 + number
        assert found[rank % 2][0] == status and all(len(lines) <= 1 for _, lines in found), found
        if number == signal.SIGKILL:
            assert f"process {rank % 2} on" in found[1 - rank % 2][1][0]
        else:
            assert all("stopped by" in lines[0] for _, lines in found), found  # by its own signal, or the other's
        assert [process.wait(timeout=300) for process in two(workdir)] == [0, 0]
        one, other = (checkpoint.restore_model(tmp_path / name / "checkpoints/baseline")[0] for name in (
            "straight", number.name
        ))  # fmt: skip
        chex.assert_trees_all_equal(one, other)


def start(workdir, devices, **environment):
    # a real backbone: the features of a speck collapse, and a sign attack then climbs rounding noise
    more = {"model.backbone": "tiny", "model.width": 8, "views": "clean,pgd", "pretrain.lr": 0.01}
    words = [*speck.command(workdir, **more), *(["--distributed"] if environment else [])]
    flags = f"--xla_force_host_platform_device_count={devices}"
    env = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"} | environment
    return subprocess.Popen([sys.executable, "-m", "clead_jax.main", *words[1:]], cwd=ROOT, env=env)


@pytest.mark.slow
def test_two_processes_train_and_measure_as_one(tmp_path):
    cluster = {"JAX_COORDINATOR_ADDRESS": free_address(), "JAX_NUM_PROCESSES": "2"}
    started = [start(tmp_path / "two", 2, **cluster, JAX_PROCESS_ID=str(i)) for i in range(2)]
    started.append(start(tmp_path / "one", 4))
    assert [process.wait(timeout=400) for process in started] == [0, 0, 0]
    for stage in ("baseline", "pretrain", "probe"):
        one, two = (checkpoint.restore_model(build.checkpoint_dir(str(tmp_path / n), stage))[0] for n in ("one", "two"))
        chex.assert_trees_all_close(one, two, rtol=2e-3, atol=2e-5)
    records = [dict(np.load(tmp_path / n / "evaluation" / "per_example.npz")) for n in ("one", "two")]
    assert all((records[0][key] == records[1][key]).mean() > 0.96 for key in records[0])
