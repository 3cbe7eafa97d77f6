"""A work directory that version 0.1 has made, before the evaluation was rebuilt, is read by this one."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import speck  # noqa: F401  the plugin of that run

import clead_jax
from clead_jax import compare, evaluate, main, report

OLD = pathlib.Path(__file__).resolve().parent / "fixtures" / "workdir-v0.1"


@pytest.fixture
def run(tmp_path):
    return shutil.copytree(OLD, tmp_path / "run")


def results(run):
    return json.loads((run / "evaluation/results.json").read_text())


def records(run):
    with np.load(run / "evaluation/per_example.npz") as stored:
        return dict(stored)


def test_what_it_has_measured_is_not_measured_again(run, capsys):
    before = records(run)
    evaluate.main(["evaluate", f"--workdir={run}"])
    said = capsys.readouterr().out
    assert all(f"{name} is measured already" in said for name in ("baseline/pgd", "defended/cw"))
    found = records(run)
    assert all(np.array_equal(found[name], before[name]) for name in before)


@pytest.mark.slow
def test_measured_afresh_it_gives_the_same_to_the_bit(run):
    """The old code ran every attack to its end on every image; this one lets broken images leave."""
    before, suite = records(run), results(run)["protocols"]["autoattack"]["defended"]
    evaluate.main(["evaluate", f"--workdir={run}", "--fresh", "--attacks=fgsm,pgd,cw,autoattack"])
    found, now = records(run), results(run)
    assert before.keys() == found.keys()
    assert {name for name in before if not np.array_equal(found[name], before[name])} == set()
    assert now["protocols"]["autoattack"]["defended"]["accuracy"] == suite["accuracy"]
    assert now["curves"]["accuracy"] == json.loads((OLD / "evaluation/results.json").read_text())["curves"]["accuracy"]


def test_it_is_reported_compared_and_loaded(run, tmp_path, capsys):
    report.main(["report", f"--workdir={run}"])
    assert "AutoAttack" in next((run / "report").glob("*.html")).read_text()
    compare.main(["compare", f"--workdirs={run}", f"--output={tmp_path / 'both'}"])
    assert next((tmp_path / "both").glob("*.html")).exists()
    model = clead_jax.load(str(run))
    images = np.zeros((2, *model.image_shape), np.float32)
    forward, variables = model
    np.testing.assert_array_equal(forward(variables, images), model(images))


def test_a_finished_run_is_finished(run, capsys):
    command = json.loads((run / "config.json").read_text())["command"].split()
    main.main(["main", *command[3:], f"--workdir={run}"])
    assert "probe: finished already (8 steps)" in capsys.readouterr().out
