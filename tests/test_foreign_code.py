"""Opening somebody's files runs none of their code; whoever trusts it names it."""

import json
import pathlib
import pickle
import shutil
import sys

import numpy as np
import pytest
import speck  # noqa: F401  the plugin of that run

import clead_jax
from clead_jax import compare, evaluate, report
from clead_jax.experiment import history
from clead_jax.results import files

OLD = pathlib.Path(__file__).resolve().parent / "fixtures" / "workdir-v0.1"


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """A run whose config names a module that lies in the current directory and leaves a mark."""
    run = shutil.copytree(OLD, tmp_path / "run")
    (tmp_path / "evil_module.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    path = run / "config.json"
    saved = json.loads(path.read_text())
    saved["config"]["plugins"] = "speck,evil_module"
    path.write_text(json.dumps(saved))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield run
    sys.modules.pop("evil_module", None)


def ran(run):
    return (run.parent / "ran").exists()


ONLY_READ = ["--attacks=fgsm", "--curve=none", "--nochecks", "--protocol=whitebox"]
DOORS = {
    "evaluate": lambda run: evaluate.main(["evaluate", f"--workdir={run}", *ONLY_READ]),
    "another run's model": lambda run: evaluate.main(
        [
            "evaluate",
            f"--workdir={shutil.copytree(OLD, run.parent / 'mine')}",
            f"--models=their={run}:probe",
            *ONLY_READ,
        ]
    ),
    "load": lambda run: clead_jax.load(str(run)),
    "load another stage": lambda run: clead_jax.load(str(run), "baseline"),
    "history": lambda run: history.history(str(run)),
    "report": lambda run: report.main(["report", f"--workdir={run}"]),
    "compare": lambda run: compare.main(["compare", f"--workdirs={run}", f"--output={run}/compare"]),
}


@pytest.mark.parametrize("door", DOORS)
def test_no_plugin_is_imported_because_a_file_names_it(foreign, capsys, door):
    DOORS[door](foreign)
    assert not ran(foreign)
    said = [line for line in capsys.readouterr().out.splitlines() if "was made with plugins=evil_module" in line]
    assert len(said) >= (door not in ("report", "compare")) and all("--plugins" in line for line in said)


def test_a_plugin_that_is_named_is_imported(foreign, capsys):
    clead_jax.load(str(foreign), plugins="evil_module")
    assert ran(foreign) and "was made with" not in capsys.readouterr().out
    (foreign.parent / "ran").unlink()
    del sys.modules["evil_module"]
    evaluate.main(["evaluate", f"--workdir={foreign}", "--plugins=evil_module", *ONLY_READ])
    assert ran(foreign)
    with pytest.raises(ValueError, match="cannot import 'nowhere'"):
        clead_jax.load(str(foreign), plugins="nowhere")


class Bomb:
    def __reduce__(self):
        return (open, ("ran", "w"))


@pytest.mark.parametrize("name", ["per_example", "samples", "embeddings", "pickle"])
def test_no_pickle_is_opened(foreign, name):
    path = foreign / "evaluation" / f"{'samples' if name == 'pickle' else name}.npz"
    if name == "pickle":
        path.write_bytes(pickle.dumps(Bomb()))
    else:
        np.savez(path, **files.load_arrays(path), evil=np.array([Bomb()], object))
    for door in ("report", "evaluate"):
        with pytest.raises(ValueError, match=r"\.npz is damaged"):
            DOORS[door](foreign)
    assert not ran(foreign)


def test_no_setting_of_the_directory_draws_by_a_program(foreign, monkeypatch):
    """matplotlib reads ./matplotlibrc: pictures are drawn without TeX and without a backend of its choice."""
    import matplotlib

    monkeypatch.setitem(matplotlib.rcParams, "text.usetex", True)
    report.main(["report", f"--workdir={foreign}"])
    assert (foreign / "report/index.html").exists() and not ran(foreign)
