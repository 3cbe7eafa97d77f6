"""The measuring of a GPU: which step is begun, stopped, kept, left out; and all of it at tiny size, on a CPU."""

import importlib
import inspect
import json
import os
import pathlib
import subprocess
import sys
from functools import partial

import pytest

from benchmarks.gpu import measure
from benchmarks.gpu.steps import STEPS, TRAIN, Fit, Step, last_line, of_evaluation, of_file, of_training
from clead_jax import config
from clead_jax.config import cli

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
MACHINE = {"device": "NVIDIA H100 80GB HBM3", "devices": 1, "jax": "0", "backend": "gpu", "python": "3"}
WRITER = """import json, pathlib, sys, time
name, file, *words = sys.argv[1:]
pathlib.Path(file).write_text(json.dumps({"words": words, "lines": [{"what": "step", "images_per_s": 3 * 450}]}))
print("it says", name)
time.sleep(float(words[0]) if words else 0)
sys.exit(3 if name == "broken" else 0)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A place whose commands are a program that writes its arguments."""
    (tmp_path / "writer.py").write_text(WRITER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for name in ("output", "work"):
        (tmp_path / name).mkdir()
    return measure.Place("", tmp_path / "output", tmp_path / "work", False)


def step(name, *words, minutes=1.0, **more):
    return Step(name, ("writer", name, "{file}", *words), minutes, of_file, **more)


def through(steps, place, left=lambda: 1000.0):
    return measure.through(steps, place, MACHINE, left)


def record(place, name):
    return json.loads((place.output / f"{name}.json").read_text())


def test_a_step_is_saved_and_not_done_again(place, capsys):
    assert through([step("one", "0")], place) == []
    found = record(place, "one")
    assert found["command"] == "python -m writer one DIR 0" and found["found"]["words"] == ["0"]
    assert found["machine"] == MACHINE and found["seconds"] >= 0 and str(place.work) not in json.dumps(found)
    assert through([step("one", "0")], place) == []
    assert capsys.readouterr().out.splitlines()[-1] == "one: done before"


def test_what_does_not_fit_waits_and_what_is_smaller_is_done(place, capsys):
    through([step("long", minutes=20), step("short", minutes=1), step("last")], place, lambda: 120.0)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "long: waits: about 20 minutes, and 2 are left" and said[1].startswith("short: done in")
    assert {path.stem for path in place.output.iterdir()} == {"short", "last"}
    assert through([step("none")], place._replace(rehearse=True), lambda: -1.0) == []
    assert capsys.readouterr().out.strip() == "none: waits: no time is left"


def test_a_failed_step_is_named_and_leaves_no_record(place, capsys):
    assert through([step("broken"), step("after")], place) == ["broken"]
    assert "broken: failed with status 3: it says broken" in capsys.readouterr().out
    assert {path.stem for path in place.output.iterdir()} == {"after"}


def test_a_step_that_outlasts_the_call_is_told_to_stop(place, capsys, monkeypatch):
    monkeypatch.setattr(measure, "GRACE", 20.0)
    assert through([step("slow", "60", minutes=0.01)], place, lambda: 1.5) == []
    assert "the call's time is over; the next call goes on" in capsys.readouterr().out
    assert not list(place.output.iterdir())


def test_what_is_missing_is_left_out_in_a_line(place, capsys):
    steps = [step("data", needs=("data",)), step("module", needs=("no_such_module",)), step("second", after="first")]
    assert through(steps, place) == []
    assert capsys.readouterr().out.splitlines() == [
        "data: left out: it needs CIFAR-10, --data=DIR",
        "module: left out: no_such_module is not installed",
        "second: waits for first",
    ]


def test_epochs_are_as_many_as_fit_and_stay(place):
    fit = Fit("speed", "step", 5.0)
    assert fit.epochs({"found": {"lines": [{"what": "step", "images_per_s": TRAIN / 60}]}}) == 5
    assert fit.epochs({"found": {"lines": [{"what": "step", "images_per_s": 1.0}]}}) == 1
    with pytest.raises(ValueError, match="speed has no line 'step'"):
        fit.epochs({"found": {"lines": []}})
    training = step("training", "0", "--epochs={epochs}", fit=fit)
    through([training], place)
    assert not list(place.output.iterdir())
    through([step("speed", "0"), training], place)
    assert record(place, "training")["found"]["words"][-1] == "--epochs=9"  # 5 * 60 * 3 * 450 / 45,000
    (place.output / "training.json").unlink()
    (place.work / "training.epochs").write_text("4")
    through([training], place)
    assert record(place, "training")["found"]["words"][-1] == "--epochs=4"


def test_what_is_kept_of_a_command(tmp_path):
    (tmp_path / "log").write_text("first\n3 passed\n\n")
    assert last_line(tmp_path / "file", tmp_path / "log") == {"said": "3 passed"}
    with pytest.raises(ValueError, match="no results below"):
        of_evaluation(tmp_path / "run.json", tmp_path / "log")
    for folder in ("evaluation", "evaluation/fast"):
        (tmp_path / "run" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / folder / "results.json").write_text(json.dumps({"models": {"a": 1}, "checks": {}}))
    lines = [{"stage": "a", "epoch": 1}, {"stage": "b", "epoch": 1}, {"stage": "a", "epoch": 2}]
    (tmp_path / "run" / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert of_training(tmp_path / "run.json", tmp_path / "log") == {"a": lines[2], "b": lines[1]}
    assert of_evaluation(tmp_path / "run.json", tmp_path / "log") == {
        "evaluation": {"models": {"a": 1}},
        "evaluation/fast": {"models": {"a": 1}},
    }


def test_the_card_names_the_folder():
    assert measure.card(MACHINE) == "gpu-h100-80gb-hbm3"
    assert measure.card({"device": "NVIDIA A100-SXM4-40GB"}) == "gpu-a100-sxm4-40gb"


def test_the_steps_are_in_order():
    """Each name once; what a step reads is made before it."""
    names = [each.name for each in STEPS]
    assert len(set(names)) == len(names)
    for number, each in enumerate(STEPS):
        assert {name for name in (each.after, each.fit.of if each.fit else "") if name} <= set(names[:number])
        assert ("{epochs}" in " ".join(each.command)) == bool(each.fit)


@pytest.mark.parametrize("step", [each for each in STEPS if each.command[0] != "pytest"], ids=lambda step: step.name)
def test_every_command_is_understood_by_its_door(step, monkeypatch):
    """Its flags and fields are there, and their values can be, also those of a rehearsal."""
    monkeypatch.chdir(ROOT)
    define = importlib.import_module(step.command[0])._define
    for more in ((), step.tiny):
        words = [word.replace("{epochs}", "3") for word in (*step.command, *more)]
        if len(inspect.signature(define).parameters) == 1:
            cli.parse(words, define, "")
        else:
            config.validate(cli.parse(cli.with_checked_config(words), partial(define, words), "").config)


def test_without_a_gpu_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(measure, "asked", lambda: MACHINE | {"backend": "cpu"})
    with pytest.raises(ValueError, match="no GPU: jax computes on cpu; --rehearse goes through it"):
        measure.main(["measure", f"--output={tmp_path}", f"--work={tmp_path}"])
    with pytest.raises(ValueError, match="holds no prepared cifar10"):
        measure.main(["measure", f"--data={tmp_path}"])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_all_of_it_at_tiny_size(tmp_path):
    """By the script, as a user would, on a CPU; what needs torch is left out where that is not installed."""
    env = os.environ | {"PYTHON": sys.executable, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    env |= {"PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled")}
    words = ["bash", "launch/measure_gpu.sh", "--rehearse", "--minutes=600", f"--work={tmp_path}"]
    for again in (False, True):
        done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        lines = dict(line.split(": ", 1) for line in done.stdout.splitlines()[1:])
        assert set(lines) == {each.name for each in STEPS}
        said = "done before" if again else "done in"
        left_out = {name for name, line in lines.items() if not line.startswith(said)}
        assert all("torch" in name and "is not installed" in lines[name] for name in left_out), lines
    made = {path.stem for path in (tmp_path / "rehearsal" / "records").iterdir()}
    assert made == set(lines) - left_out
