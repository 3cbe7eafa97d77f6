"""A real process that is killed at random moments, by any signal, ends where an undisturbed one ends."""

import json
import os
import pathlib
import random
import signal
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
KILLS = 10
SIGNALS = signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP
LONGER = {"baseline.epochs": 6, "pretrain.epochs": 6, "probe.epochs": 6, "evaluation.steps": 10}


def launch(workdir, folder):
    """Starts the run; its programs come compiled from `folder`, so that the time goes into what can be interrupted."""
    env = os.environ | {
        "PYTHONPATH": str(ROOT / "tests"),
        "XLA_FLAGS": "",  # one device, as most users have
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    argv = [sys.executable, "-u", "-m", *speck.command(workdir, **LONGER)]
    argv[3] = "clead_jax.main"
    with (folder / "log").open("a") as log:
        return subprocess.Popen(argv, cwd=ROOT, env=env, stdout=log, stderr=log)


def to_its_end(workdir, folder):
    """Seconds of an undisturbed run."""
    begun = time.monotonic()
    assert launch(workdir, folder).wait() == 0, (folder / "log").read_text()[-3000:]
    return time.monotonic() - begun


def outcome(workdir):
    """Everything a run leaves that is no clock reading."""
    clock = ("images_per_s", "seconds")
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    results = json.loads((workdir / "evaluation/results.json").read_text())
    for cost in results["training_cost"].values():
        del cost["seconds"]
    arrays = {}
    for path in (workdir / "evaluation").glob("*.npz"):
        with np.load(path) as stored:
            arrays[path.name] = dict(stored)
    weights = {
        stage: checkpoint.restore_model(build.checkpoint_dir(workdir, stage))[0]
        for stage in ("baseline", "pretrain", "probe")
    }
    metrics = [{k: v for k, v in line.items() if k not in clock} for line in lines]
    return {"weights": weights, "arrays": arrays}, {"metrics": metrics, "results": results}


@pytest.mark.slow
def test_ten_kills_cost_nothing(tmp_path):
    to_its_end(tmp_path / "warm", tmp_path)  # compiles
    seconds = to_its_end(tmp_path / "straight", tmp_path)
    arrays, records = outcome(tmp_path / "straight")
    dice, kills, rounds = random.Random(0), [], 0
    while len(kills) < KILLS:
        rounds += 1
        workdir = tmp_path / f"killed{rounds}"
        while len(kills) < KILLS:
            log = (tmp_path / "log").stat().st_size
            process = launch(workdir, tmp_path)
            try:
                assert process.wait(dice.uniform(0, seconds)) == 0
                break  # it was faster than the dice
            except subprocess.TimeoutExpired:
                number = SIGNALS[len(kills) % len(SIGNALS)]
                process.send_signal(number)
                assert process.wait() in (-number, 128 + number, 1)  # 1: Ctrl-C while Python itself starts
                said = (tmp_path / "log").read_bytes()[log:].decode().splitlines()
                kills.append(f"{number.name}: {said[-1] if said else '(start)'}")
        to_its_end(workdir, tmp_path)
        again_arrays, again_records = outcome(workdir)
        assert again_records == records
        chex.assert_trees_all_equal(again_arrays, arrays)
    print(f"\nstraight run {seconds:.1f} s; {rounds} rounds; killed after:", *kills, sep="\n  ")
