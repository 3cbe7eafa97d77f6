"""Sweeps: which runs a command line means, what is run again, and what one failure costs."""

import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import threading
import time

import pytest
import speck
import test_compare

from clead_jax import sweep
from clead_jax.config import grid

ROOT = pathlib.Path(__file__).resolve().parent.parent
QUICK = "--config=configs/quickstart.py"


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def trained(monkeypatch):
    """A stand-in for training: the names of the runs that were started. Those in `failing` end with status 2."""

    class Started(list):
        failing: tuple[str, ...] = ()

    started = Started()

    def run(words, *_):
        assert words[1:3] == ["-m", "clead_jax.main"]
        workdir = pathlib.Path(next(w.removeprefix("--workdir=") for w in words if w.startswith("--workdir=")))
        settings = [w.removeprefix("--config.").partition("=") for w in words if w.startswith("--config.")]
        given = {field: value for field, _, value in settings}
        started.append(workdir.name)
        if workdir.name in started.failing:
            return 2
        temperature = float(given.get("pretrain.temperature", 0.1))
        test_compare.run(workdir, seed=int(given["seed"]), pretrain__temperature=temperature)
        return 0

    monkeypatch.setattr(sweep, "_status", run)
    return started


def plan(*words):
    return grid.plan(["sweep", *words])


def names(*words):
    return [run.name for run in plan(*words)[0]]


# --- what a command line means ----------------------------------------------------------------------------------------


def test_the_product_of_values_and_seeds():
    runs, workdir, dry, jobs = plan(QUICK, "--sweep.similarity=cosine,euclidean", "--sweep.width=4,8", "--seeds=0,1")
    assert (str(workdir), dry, jobs) == ("runs/sweep-quickstart", False, 1)
    assert [run.name for run in runs[:3]] == [
        "similarity=cosine_width=4_seed=0",
        "similarity=cosine_width=8_seed=0",
        "similarity=euclidean_width=4_seed=0",
    ]
    assert len(runs) == 8 and [run.name[-6:] for run in runs] == ["seed=0"] * 4 + ["seed=1"] * 4
    assert runs[1].fields["model.width"] == 8 and runs[7].fields["seed"] == 1
    assert all(run.workdir == workdir / run.name for run in runs)


def test_the_printed_command_is_one_that_a_user_could_type():
    words = [
        QUICK,
        "-config.model.width",
        "8",
        "--noconfig.augment.flip",
        "--sweep.views=clean,pgd;clean,pgd(steps=3),cw",
    ]
    runs = plan(*words, "--workdir=a b")[0]
    assert [run.name for run in runs] == ["views=clean-pgd_seed=0", "views=clean-pgd-steps=3-cw_seed=0"]
    assert runs[1].argv == [
        QUICK,
        "--workdir=a b/views=clean-pgd-steps=3-cw_seed=0",
        "--config.model.width=8",
        "--noconfig.augment.flip",
        "--config.views=clean,pgd(steps=3),cw",
        "--config.seed=0",
    ]
    assert (runs[1].fields["views"], runs[1].fields["augment.flip"]) == ("clean,pgd(steps=3),cw", False)


def test_config_files_are_swept_too():
    files = "configs/resnet18.py,configs/resnet50.py"
    runs = plan(f"--sweep.config={files}", "--seeds=3", "--config.model.width=8")[0]
    assert [run.name for run in runs] == ["config=resnet18_seed=3", "config=resnet50_seed=3"]
    assert [run.fields["model.backbone"] for run in runs] == ["resnet18", "resnet50"]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (
            ["--sweep.pretrain.temperature=0.1,0.2"],
            ["pretrain.temperature=0.1_seed=0", "pretrain.temperature=0.2_seed=0"],
        ),
        (["--sweep.model.backbone=resnet18,resnet34"], ["backbone=resnet18_seed=0", "backbone=resnet34_seed=0"]),
        (["--seeds=1,2"], ["seed=1", "seed=2"]),
        (["--sweep.seed=1,2"], ["seed=1", "seed=2"]),
        (["--sweep.train_attack.eps=4/255,8/255", "--config.seed=7"], ["train_attack.eps=4-255_seed=7"]),
        (["--sweep.pretrain.weights=;0.3,0.7"], ["pretrain.weights=_seed=0", "pretrain.weights=0.3-0.7_seed=0"]),
    ],
    ids=str,
)
def test_names(words, found):
    assert names(QUICK, *words)[: len(found)] == found


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([QUICK], "nothing to sweep"),
        ([QUICK, "--sweep.epochs=1,2"], "could be baseline.epochs, .*probe.epochs.*; write one of them in full"),
        ([QUICK, "--sweep.simlarity=cosine"], "'simlarity'; nearest: .*similarity"),
        ([QUICK, "--sweep.width="], "--sweep.width has no values"),
        ([QUICK, "--sweep.width=4", "--sweep.width=8"], "given twice"),
        ([QUICK, "--sweep.width=4", "--config.model.width=8"], "model.width is given twice"),
        ([QUICK, "--seeds=0,1", "--config.seed=8"], "seed is given twice"),
        ([QUICK, "--sweep.width=4,many"], "many"),
        ([QUICK, "--sweep.width=4,0"], "model.width is 0"),
        ([QUICK, "--seeds=0,1", "--sweep.seed=2"], "seed is given twice"),
        ([QUICK, "--seeds=0.5"], "0.5"),
        ([QUICK, "--sweep.views=clean,pgd;clean, pgd"], "share the folder"),
        ([QUICK, "--sweep.evaluation.eps=0.1,0.2"], "evaluation.eps is 0.1 here and 0.2 there.*train once"),
        ([QUICK, "--sweep.width=4", "--config.stages=baseline"], "needs the stage evaluate"),
        ([QUICK, "--sweep.width=4", "--workdri=x"], "workdri"),
        ([QUICK, "--sweep.width=4", "--jobs=0"], "jobs"),
        ([QUICK, "--sweep.width=4", "--jobs=9999"], f"--jobs=9999, but there are {len(os.sched_getaffinity(0))} cores"),
        ([QUICK, "--sweep.width=4", "--config.model.widht=8"], "unknown config field 'model.widht'"),
        (["--sweep.width=4"], "which config"),
        ([QUICK, "--sweep.data.name=digits,cifar10"], "data.name is cifar10 here and digits there"),
        (["--sweep.config=configs/resnet18.py,configs/quickstart.py"], "such runs would share no table"),
        ([QUICK, "--sweep.config=configs/resnet18.py"], "config is given twice"),
        (["--sweep.config=configs/resnet18.py,configs/none.py"], "no config file at 'configs/none.py'"),
    ],
    ids=str,
)
def test_bad_input(trained, words, said):
    with pytest.raises(ValueError, match=said) as caught:
        sweep.main(["sweep", *words])
    assert "\n" not in str(caught.value) and trained == []


# --- what is run ------------------------------------------------------------------------------------------------------


def start(workdir, *words):
    sweep.main(["sweep", QUICK, "--sweep.pretrain.temperature=0.1,0.2", "--seeds=0,1", f"--workdir={workdir}", *words])


ALL = [f"pretrain.temperature={t}_seed={s}" for s in (0, 1) for t in (0.1, 0.2)]


def test_everything_is_run_and_compared_once(trained, tmp_path, capsys):
    start(tmp_path)
    said = capsys.readouterr().out
    assert trained == ALL and "sweep: 4 runs" in said and "0 finished already" in said
    assert said.count("python -m clead_jax.main --config=configs/quickstart.py") == 4
    assert "pretrain.temperature=0.2  " in said and "60.0 ± 0.0" in said and (tmp_path / "compare.png").exists()
    trained.clear()
    start(tmp_path)
    assert trained == [] and "4 runs in" in (said := capsys.readouterr().out) and "4 finished already" in said
    assert "60.0 ± 0.0" in said
    start(tmp_path, "--config.log.every=1")
    assert trained == ALL  # another command: it says for itself what of it is done


def test_a_sweep_that_was_stopped_goes_on_where_it_was(trained, tmp_path, monkeypatch):
    play, calls = sweep._status, []

    def dying(words, *rest):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(words)
        return play(words, *rest)

    monkeypatch.setattr(sweep, "_status", dying)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path)
    monkeypatch.setattr(sweep, "_status", play)
    start(tmp_path)
    assert trained == ALL


def test_a_run_whose_budget_ended_is_gone_on_with(trained, tmp_path):
    start(tmp_path)
    trained.clear()
    path = tmp_path / ALL[2] / "evaluation" / "results.json"
    found = json.loads(path.read_text())
    path.write_text(json.dumps(found | {"protocols": {"autoattack": {"defended": {"complete": False}}}}))
    start(tmp_path)
    assert trained == [ALL[2]]


def test_a_run_that_fails_stops_no_other(trained, tmp_path, capsys):
    trained.failing = (ALL[1],)
    with pytest.raises(ValueError, match=rf"1 of 4 runs failed: {ALL[1]}; the same command"):
        start(tmp_path)
    assert trained == ALL
    assert "pretrain.temperature=0.2" in capsys.readouterr().out.split("comparison:")[0].splitlines()[-2]
    trained.clear()
    trained.failing = ()
    start(tmp_path)
    assert trained == [ALL[1]]


def test_two_runs_at_a_time_have_a_share_of_the_cores_each(trained, tmp_path, monkeypatch, capsys):
    cores, given, both, play = os.sched_getaffinity(0), [], threading.Barrier(2), sweep._status

    def together(words, mine, output):
        given.append(set(mine))
        both.wait(60)  # for another run: alone it would break
        return play(words)

    monkeypatch.setattr(sweep, "_status", together)
    trained.failing = (ALL[1],)
    with pytest.raises(ValueError, match="1 of 4 runs failed"):
        start(tmp_path, "--jobs=2")
    assert (
        sorted(trained) == sorted(ALL)
        and f"{ALL[1]} failed, see {tmp_path / ALL[1] / 'sweep.log'}" in capsys.readouterr().out
    )
    assert all(share and share < cores for share in given) and set.union(*given) == cores
    assert len({frozenset(share) for share in given}) == 2


def test_a_run_keeps_to_its_cores_and_prints_into_its_file(tmp_path):
    asked = "import os, sys, time; time.sleep(0.5); print(os.sched_getaffinity(0)); sys.exit(3)"
    core = min(os.sched_getaffinity(0))
    assert sweep._status([sys.executable, "-c", asked], [core], tmp_path / "sweep.log") == 3
    assert (tmp_path / "sweep.log").read_text() == f"{{{core}}}\n"


def test_a_dry_run_prints_commands_only(trained, tmp_path, capsys):
    start(tmp_path / "none", "--dry_run")
    commands = [line for line in capsys.readouterr().out.splitlines() if line.startswith("python -m clead_jax.main")]
    assert trained == [] and not (tmp_path / "none").exists()
    assert [shlex.split(line)[4] for line in commands] == [f"--workdir={tmp_path}/none/{name}" for name in ALL]


def test_what_needs_jax_is_checked_for_every_run_before_anything_is_printed(trained, tmp_path, capsys):
    with pytest.raises(ValueError, match=r"^evaluation.attacks=pgdd_seed=0: .*'pgdd'") as caught:
        sweep.main(["sweep", QUICK, "--sweep.evaluation.attacks=fgsm;pgdd", f"--workdir={tmp_path}", "--dry_run"])
    assert "\n" not in str(caught.value) and capsys.readouterr().out == "" and trained == []


# --- real processes ---------------------------------------------------------------------------------------------------

TINY = {"stages": "supervised,evaluate", "defended": "supervised", "evaluation.curve": "", "evaluation.attacks": "fgsm"}


def launch(workdir, *more):
    settings = {k: v for k, v in (speck.SETTINGS | TINY).items() if k != "model.width"}
    words = [
        "--sweep.width=2,4",
        "--seeds=0,1",
        f"--workdir={workdir}",
        *(f"--config.{k}={v}" for k, v in settings.items()),
    ]
    env = os.environ | {"PYTHONPATH": "tests", "XLA_FLAGS": ""}
    argv = [sys.executable, "-m", "clead_jax.sweep", QUICK, *words, *more]
    return subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
def test_a_real_sweep_survives_a_kill_and_a_failure(tmp_path):
    longer = "--config.supervised.epochs=100"  # than the second sweep needs to get there
    killed = launch(tmp_path, longer)
    while not list(tmp_path.glob("*/config.json")):  # the first run has begun
        assert killed.poll() is None, killed.communicate()[0]
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    second = launch(tmp_path, longer)
    said = second.communicate(timeout=300)[0]
    assert second.returncode == 0, said
    assert "another process is at work" in said  # the orphan, which is waited for and not doubled
    assert said.count("± ") == 3 * 2 and "comparison:" in said
    folders = {path.parent.name for path in tmp_path.glob("*/sweep.json")}
    assert folders == {f"width={w}_seed={s}" for w in (2, 4) for s in (0, 1)}
    third = launch(tmp_path, longer)
    assert "4 finished already" in (said := third.communicate(timeout=60)[0]) and "python -m clead_jax.main" not in said
    diverging = launch(tmp_path / "bad", "--config.supervised.lr=1e30")
    said = diverging.communicate(timeout=300)[0]
    assert diverging.returncode == 2 and "4 of 4 runs failed" in said


@pytest.mark.slow
def test_two_real_runs_at_a_time_stop_with_the_sweep_and_go_on(tmp_path):
    stopped = launch(tmp_path, "--jobs=2", "--config.supervised.epochs=300")
    while len(list(tmp_path.glob("*/config.json"))) < 2:
        assert stopped.poll() is None, stopped.communicate()[0]
        time.sleep(0.05)
    stopped.send_signal(signal.SIGTERM)
    said = stopped.communicate(timeout=60)[0]
    assert stopped.returncode == 128 + signal.SIGTERM and said.count("sweep: run ") == 2 and "comparison" not in said
    assert len(list(tmp_path.glob("*/sweep.log"))) == 2 and not list(tmp_path.glob("*/.lock"))
    second = launch(tmp_path, "--jobs=2")
    said = second.communicate(timeout=300)[0]
    assert second.returncode == 0 and "comparison:" in said and len(list(tmp_path.glob("*/sweep.json"))) == 4, said
