"""Whatever a user gets wrong is one line on stderr that names it, an exit status, and nothing lost or written."""

import json
import os
import pathlib
import resource
import subprocess
import sys

import numpy as np
import pytest
import speck

from clead_jax import evaluate, main, report
from clead_jax.config import cli

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture
def refused(monkeypatch, capsys):
    """refused(main, argv) -> the one line on stderr, after everything it must be was checked."""

    def run(door, argv):
        monkeypatch.setattr(sys, "argv", argv)
        monkeypatch.delenv("CLEAD_JAX_TRACEBACK", raising=False)
        with pytest.raises(SystemExit) as stopped:
            cli.run(door)
        assert stopped.value.code not in (0, None)
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.endswith("\n") and error.count("\n") == 1, error
        return error

    return run


def save_npz(path, **changes):
    random = np.random.RandomState(0)
    images = random.randint(0, 256, (80, 8, 8, 1)).astype(np.uint8)
    np.savez(path, **({"images": images, "labels": np.arange(80) % 4} | changes))
    return path


# --- flags ------------------------------------------------------------------------------------------------------------

WORDS = {
    "unknown field": (["--config.pretrain.epoch=3"], ["'pretrain.epoch'", "pretrain.epochs"]),
    "field without its section": (["--config.temperature=0.2"], ["'temperature'", "pretrain.temperature"]),
    "section for a field": (["--config.evaluation=1"], ["'evaluation'", "evaluation.eps"]),
    "unknown flag": (["--wrkdir=x"], ["wrkdir", "workdir"]),
    "stray word": (["workdir"], ["'workdir'", "--workdir"]),
    "word for a number": (["--config.pretrain.epochs=many"], ["pretrain.epochs", "many"]),
    "half an epoch": (["--config.pretrain.epochs=1.5"], ["pretrain.epochs", "1.5"]),
    "number for a yes": (["--config.augment.flip=7"], ["augment.flip", "7"]),
    "list for a number": (["--config.baseline.lr=1,2"], ["baseline.lr", "1,2"]),
}


@pytest.mark.parametrize("flags, named", WORDS.values(), ids=WORDS)
def test_flags(refused, tmp_path, flags, named):
    error = refused(main.main, [*speck.command(tmp_path / "run"), *flags])
    assert all(word in error for word in named), error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["main"], "--config="),
        (["main", "--workdir=x"], "--config="),
        (["main", "--config"], "no config file"),
        (["main", "--config=configs/nowhere.py"], "configs/nowhere.py"),
        (["main", "--config=configs"], "'configs'"),
        (["main", "--config=tests/conftest.py"], "get_config"),
        (["main", "--config=configs/quickstart.py:fast"], "configs/quickstart.py"),
    ],
    ids=str,
)
def test_no_config(refused, monkeypatch, argv, named):
    monkeypatch.chdir(ROOT)
    assert named in refused(main.main, argv)


# --- values -----------------------------------------------------------------------------------------------------------

VALUES = {
    "stages": ("baseline,pretrian", ["'pretrian'", "pretrain"]),
    "views": ("clean,pdg", ["'pdg'", "'pgd'", "cw"]),
    "evaluation.attacks": ("fgsm,autohack", ["'autohack'", "fgsm", "pgd"]),
    "evaluation.distances": ("far", ["'far'", "cw_l2"]),
    "validation.attack": ("pgd(stepz=3)", ["'stepz'", "steps"]),
    "supervised.attack": ("pgd(steps)", ["pgd(steps)"]),
    "baseline.attack": ("pgdd", ["unknown attack 'pgdd'", "pgd"]),
    "baseline.average": ("mean", ["unknown average 'mean'", "ema, swa"]),
    "baseline.trains": ("hed", ["baseline.trains", "'hed'", "backbone, projector, head"]),
    "pretrain.loss": ("infonce", ["'infonce'", "info_nce"]),
    "joint.margin": ("3", ["joint.margin 3", "[0, 2]"]),
    "joint.margin_form": ("margin_pairwise(m=1)", ["loss 'margin_pairwise' has no setting 'm'", "margin"]),
    "joint.weight_ce": ("0", ["weight_ce", "0.0, 1.0, 1.0", "above 0"]),
    "joint.weight_margin": ("-1", ["weight_margin", "-1.0"]),
    "joint.temperature": ("0", ["joint.temperature", "0"]),
    "joint.ascend": ("labels", ["'labels'", "online"]),
    "pretrain.similarity": ("dot", ["'dot'", "cosine", "euclidean"]),
    "pretrain.pairing": ("some", ["'some'", "anchor", "all"]),
    "pretrain.positives": ("none", ["'none'", "instance", "class"]),
    "pretrain.ascend": ("labels", ["'labels'", "contrastive", "online", "baseline"]),
    "pretrain.start": ("warm", ["'warm'", "scratch", "baseline"]),
    "pretrain.weights": ("1,2,3", ["pretrain.weights", "1,2,3", "must be 1 numbers"]),
    "pretrain.optimizer": ("lion", ["'lion'", "adam", "sgd"]),
    "pretrain.schedule": ("step", ["'step'", "cosine", "constant"]),
    "probe.start": ("newest", ["'newest'", "scratch", "pretrain", ":best"]),
    "model.backbone": ("resnet19", ["'resnet19'", "resnet18"]),
    "model.dtype": ("float16", ["'float16'", "bfloat16"]),
    "model.width": ("0", ["model.width", "0"]),
    "data.name": ("digit", ["'digit'", "'digits'", "cifar10"]),
    "evaluation.which": ("newest", ["evaluation.which", "'newest'", "latest, best"]),
    "data.validation": ("1.5", ["data.validation", "1.5"]),
    "data.train_size": ("100000", ["data.train_size", "100000"]),
    "data.test_size": ("-1", ["data.test_size", "-1"]),
    "evaluation.eps": ("8", ["evaluation.eps", "8", "[0, 1]"]),
    "train_attack.eps": ("-1/255", ["train_attack.eps", "-0.0039", "[0, 1]"]),
    "evaluation.curve": ("0,0.1,1.1", ["evaluation.curve", "1.1"]),
    "evaluation.step_size": ("two", ["evaluation.step_size", "'two'"]),
    "evaluation.norm": ("l7", ["'l7'", "linf", "l2"]),
    "evaluation.steps": ("0", ["evaluation.steps", "0"]),
    "evaluation.num_examples": ("-5", ["evaluation.num_examples", "-5"]),
    "pretrain.batch_size": ("12", ["pretrain.batch_size", "12", "8 devices"]),
    "probe.batch_size": ("128", ["probe.batch_size", "128", "64"]),
    "baseline.epochs": ("0", ["baseline.epochs", "0"]),
    "seed": ("-1", ["seed", "-1"]),
    "plugins": ("nowhere_to_find", ["plugins", "'nowhere_to_find'"]),
}


@pytest.mark.parametrize("field", VALUES)
def test_values(refused, tmp_path, field):
    value, named = VALUES[field]
    error = refused(main.main, speck.command(tmp_path / "run", **{field: value}))
    assert all(word in error for word in named), error
    assert not (tmp_path / "run").exists()


MEANINGLESS = {
    "no step": ({"evaluation.step_size": "0"}, ["evaluation.step_size is 0", "above 0"]),
    "no step in training": ({"train_attack.step_size": "0"}, ["train_attack.step_size is 0"]),
    "no step in validation": ({"validation.attack": "pgd(step_size=0)"}, ["step_size must lie in (0, inf)"]),
    "beyond the cube": ({"evaluation.norm": "l2", "evaluation.eps": "8.1"}, ["evaluation.eps is 8.1", "[0, 8]"]),
    "a curve beyond": ({"evaluation.norm": "l1", "evaluation.curve": "0,65"}, ["evaluation.curve is 65", "[0, 64]"]),
    "training beyond": ({"train_attack.norm": "L2", "train_attack.eps": "9"}, ["train_attack.eps is 9", "[0, 8]"]),
    "one attack beyond": ({"baseline.attack": "pgd(norm=l2,eps=9)"}, ["pgd(norm=l2,eps=9): eps is 9", "[0, 8]"]),
    "growing momentum": ({"baseline.momentum": "1"}, ["baseline.momentum is 1.0", "below 1"]),
    "only a warm-up": ({"probe.warmup_epochs": "2"}, ["probe.warmup_epochs is 2.0", "below 2"]),
    "a negative batch": ({"evaluation.batch_size": "-8"}, ["evaluation.batch_size is -8"]),
    "no number": ({"pretrain.weight_decay": "nan"}, ["pretrain.weight_decay", "nan"]),
    "endless": ({"baseline.lr": "inf"}, ["baseline.lr", "inf"]),
    "a loss": ({"baseline.loss": "trades(beta=-1)"}, ["beta must not be negative, got -1"]),
}


@pytest.mark.parametrize("case", MEANINGLESS)
def test_values_that_cannot_mean_anything(refused, tmp_path, case):
    fields, named = MEANINGLESS[case]
    error = refused(main.main, speck.command(tmp_path / "run", **fields))
    assert all(word in error for word in named), error
    assert not (tmp_path / "run").exists()


# --- a user's own images ----------------------------------------------------------------------------------------------

OWN = {
    "shape": ({"images": np.zeros((80, 8, 8), np.uint8)}, ["(80, 8, 8)", "[N, H, W, C]"]),
    "channels": ({"images": np.zeros((80, 8, 8, 2), np.uint8)}, ["(80, 8, 8, 2)"]),
    "type": ({"images": np.zeros((80, 8, 8, 1), np.int64)}, ["int64", "uint8"]),
    "range": ({"images": np.full((80, 8, 8, 1), 255.0)}, ["255.0", "[0, 1]"]),
    "not a number": ({"images": np.full((80, 8, 8, 1), np.nan)}, ["nan", "[0, 1]"]),
    "label below": ({"labels": np.arange(80) % 4 - 1}, ["labels", "-1"]),
    "label above": ({"labels": np.arange(80) % 4, "class_names": np.array(["a", "b"])}, ["0..1"]),
    "label type": ({"labels": np.linspace(0, 1, 80)}, ["labels", "float64"]),
    "label count": ({"labels": np.arange(79) % 4}, ["(79,)", "(80,)"]),
    "empty class": ({"labels": np.arange(80) % 4 * 2}, ["class 1"]),
    "no labels": ({"labels": np.array([{}], object)}, ["mine.npz"]),
}


@pytest.mark.parametrize("changes, named", OWN.values(), ids=OWN)
def test_own_images(refused, tmp_path, changes, named):
    path = save_npz(tmp_path / "mine.npz", **changes)
    error = refused(main.main, speck.command(tmp_path / "run", data__name=f"npz:{path}"))
    assert all(word in error for word in ["mine.npz", *named]), error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("attacks", ["pgd(steps=0)", "fgsm,cw(restarts=0)", "apgd_ce(steps=0)"])
def test_a_setting_that_cannot_be_names_its_attack(refused, tmp_path, attacks):
    error = refused(main.main, speck.command(tmp_path / "run", evaluation__attacks=attacks))
    assert error.startswith(f"error: {attacks.split(',')[-1]}: ") and "at least 1" in error, error


@pytest.mark.parametrize("source", ["npz", "npz:", "folder:"])
def test_own_images_without_a_path(refused, tmp_path, source):
    (tmp_path / "run").mkdir()
    error = refused(main.main, speck.command(tmp_path / "run", data__name=source))
    assert error == f"error: data.name is {source!r}; it lacks the path: npz:FILE or folder:DIR\n"


def test_own_images_that_are_not_there(refused, tmp_path):
    assert "gone.npz" in refused(main.main, speck.command(tmp_path / "run", data__name=f"npz:{tmp_path}/gone.npz"))


def test_own_images_replaced_under_a_started_run(refused, tmp_path):
    path = save_npz(tmp_path / "mine.npz")
    whole = {"data.name": f"npz:{path}", "data.train_size": 0, "data.test_size": 0}
    argv = speck.command(tmp_path / "run", stages="baseline", baseline__epochs=1, **whole)
    main.main(argv)
    assert str(tmp_path) not in (tmp_path / "run/config.json").read_text()
    save_npz(path, labels=np.arange(80) % 5)
    for door, args in ((main.main, argv), (evaluate.main, ["evaluate", f"--workdir={tmp_path}/run"])):
        error = refused(door, args)
        assert "mine.npz" in error and "num_classes: 4 -> 5" in error and "baseline" in error


# --- directories ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("door", [evaluate.main, report.main], ids=["evaluate", "report"])
def test_a_work_directory_that_is_not_there(refused, tmp_path, door):
    assert "nowhere" in refused(door, ["door", f"--workdir={tmp_path}/nowhere"])
    assert str(tmp_path) in refused(door, ["door", f"--workdir={tmp_path}"])
    assert "--workdir" in refused(door, ["door"])
    assert "'extra'" in refused(door, ["door", f"--workdir={tmp_path}", "extra"])


def test_evaluate_names_what_it_does_not_know(refused, tmp_path):
    argv = ["evaluate", f"--workdir={tmp_path}"]
    (tmp_path / "config.json").write_text("{")
    assert "config.json" in refused(evaluate.main, argv)
    saved = {"data": {"name": "digits"}, "model": {"backbone": "tiny"}, "stages": "baseline"}
    (tmp_path / "config.json").write_text(json.dumps({"name": "x", "config": saved}))
    assert "baseline" in refused(evaluate.main, argv)  # no stage has a checkpoint
    assert "'prob'" in refused(evaluate.main, [*argv, "--models=prob"])
    assert "'pgdd'" in refused(evaluate.main, [*argv, "--attacks=pgdd"])
    assert "steps" in refused(evaluate.main, [*argv, "--steps=few"])
    assert "'all'" in refused(evaluate.main, [*argv, "--split=all"])
    assert "evaluation.eps" in refused(evaluate.main, [*argv, "--eps=8"])
    assert "'newest'" in refused(evaluate.main, [*argv, "--which=newest"])
    assert "cannot start --distributed" in refused(evaluate.main, [*argv, "--distributed"])


@pytest.mark.parametrize("name", ["results.json", "per_example.npz"])
def test_damaged_results(refused, tmp_path, name):
    main.main(speck.command(tmp_path, stages="baseline", baseline__epochs=1))
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation/results.json").write_text("{}")
    (tmp_path / "evaluation" / name).write_bytes(b"PK\x03\x04 half a file")
    assert f"evaluation/{name} is damaged" in refused(evaluate.main, ["evaluate", f"--workdir={tmp_path}"])


@pytest.mark.parametrize("below", ["", "/run"])
def test_a_work_directory_that_cannot_be(refused, tmp_path, below):
    (tmp_path / "file").write_text("mine")
    error = refused(main.main, speck.command(f"{tmp_path}/file{below}"))
    assert str(tmp_path / "file") in error
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_work_directory(refused, tmp_path):
    tmp_path.chmod(0o500)
    assert str(tmp_path) in refused(main.main, speck.command(tmp_path / "run"))
    assert str(tmp_path) in refused(main.main, speck.command(tmp_path))


@pytest.mark.filterwarnings("ignore:Error writing persistent compilation cache")  # the limit holds there too
@pytest.mark.parametrize("room", [100, 10_000], ids=["config", "checkpoint"])
def test_a_full_work_directory(refused, tmp_path, room):
    main.main(speck.command(tmp_path, stages="baseline", baseline__epochs=1))
    before = sorted(path.name for path in (tmp_path / "checkpoints/baseline").iterdir())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))  # no file may grow beyond: as on a full disk
    try:
        error = refused(main.main, speck.command(tmp_path, stages="baseline,pretrain", baseline__epochs=1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(tmp_path) in error and ("large" in error or "checkpoint 4" in error)
    assert sorted(path.name for path in (tmp_path / "checkpoints/baseline").iterdir()) == before
    assert json.loads((tmp_path / "config.json").read_text())["name"] == "quickstart"


# --- as a user meets it -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["clead_jax.main", "--config=configs/quickstart.py", "--config.pretrain.epoch=1"], "pretrain.epochs"),
        (["clead_jax.evaluate", "--workdir=runs/nowhere"], "runs/nowhere"),
    ],
    ids=["main", "evaluate"],
)
def test_real_processes(argv, named):
    done = subprocess.run([sys.executable, "-m", *argv], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and named in done.stderr


def test_a_second_process_is_refused_and_writes_nothing(refused, tmp_path):
    main.main(speck.command(tmp_path, stages="baseline", baseline__epochs=1))
    holder = subprocess.Popen(
        [sys.executable, "-c", f"import time; from clead_jax.results import lock\n"
         f"with lock.held({str(tmp_path)!r}): print('holding', flush=True); time.sleep(100)"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert holder.stdout.readline() == "holding\n"
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        for door, argv in (
            (main.main, speck.command(tmp_path, stages="baseline,evaluate", baseline__epochs=1)),
            (evaluate.main, ["evaluate", f"--workdir={tmp_path}", "--attacks=fgsm", "--curve=none"]),
        ):
            error = refused(door, argv)
            assert f"pid {holder.pid} on" in error and "since 20" in error and error.count("\n") <= 1
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    finally:
        holder.kill()
        holder.wait()
