"""The whole program on two processes: the same weights as on one with as many devices."""

import os
import pathlib
import socket
import subprocess
import sys

import chex
import numpy as np
import pytest
import speck

from clead_jax.experiment import builders as build
from clead_jax.training import checkpoint

ROOT = pathlib.Path(__file__).resolve().parent.parent


def start(workdir, devices, **environment):
    # a real backbone: the features of a speck collapse, and a sign attack then climbs rounding noise
    more = {"model.backbone": "tiny", "model.width": 8, "views": "clean,pgd", "pretrain.lr": 0.01}
    words = [*speck.command(workdir, **more), *(["--distributed"] if environment else [])]
    flags = f"--xla_force_host_platform_device_count={devices}"
    env = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"} | environment
    return subprocess.Popen([sys.executable, "-m", "clead_jax.main", *words[1:]], cwd=ROOT, env=env)


@pytest.mark.slow
def test_two_processes_train_and_measure_as_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    cluster = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    started = [start(tmp_path / "two", 2, **cluster, JAX_PROCESS_ID=str(i)) for i in range(2)]
    started.append(start(tmp_path / "one", 4))
    assert [process.wait(timeout=400) for process in started] == [0, 0, 0]
    for stage in ("baseline", "pretrain", "probe"):
        one, two = (checkpoint.restore_model(build.checkpoint_dir(str(tmp_path / n), stage))[0] for n in ("one", "two"))
        chex.assert_trees_all_close(one, two, rtol=2e-3, atol=2e-5)
    records = [dict(np.load(tmp_path / n / "evaluation" / "per_example.npz")) for n in ("one", "two")]
    assert all((records[0][key] == records[1][key]).mean() > 0.96 for key in records[0])
