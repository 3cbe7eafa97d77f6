"""The command that a run records gives the same config again, however it was typed."""

import shlex

import pytest
import speck

from clead_jax import config, main
from clead_jax.experiment import pipeline


@pytest.fixture
def recorded(monkeypatch):
    """(config, command) of every run that `main` would have started."""
    runs = []
    monkeypatch.setattr(pipeline, "run", lambda cfg, workdir, name, command: runs.append((cfg, command)))
    return runs


def test_every_way_to_write_a_field_is_recorded(recorded):
    words = [
        "--config.supervised.epochs",  # its value is the next word
        "8",
        "--noconfig.train_attack.random_start",
        "-config.evaluation.curve=",
        "--config.views=clean,pgd(steps=2)",
        "--config.pretrain.lr=1e-6",
        "--config.seed=0",  # as it is anyway
        "--workdir=somewhere",
    ]
    main.main(["main", "--config", "configs/pgd_at.py:digits", *words])
    main.main(shlex.split(recorded[0][1])[2:])
    (typed, command), (again, same_command) = recorded
    assert command.startswith("python -m clead_jax.main --config=configs/pgd_at.py:digits ")
    assert command == same_command and config.flatten(typed) == config.flatten(again)
    assert (again.supervised.epochs, again.train_attack.random_start) == (8, False)
    assert command.count("--config.") == 5 and "somewhere" not in command


@pytest.mark.parametrize("name", ["npz:/home/me/mine.npz", "folder:/home/me/mine"])
def test_places_of_this_machine_are_left_out(recorded, name):
    main.main(["main", "--config=configs/resnet18.py", f"--config.data.name={name}", "--config.data.data_dir=/data"])
    kind, _, path = name.partition(":")
    shown = f"--config.data.name={kind}:{path.split('/')[-1]}"
    assert recorded[0][1] == f"python -m clead_jax.main --config=configs/resnet18.py {shown}"


def test_verbosity_decides_what_is_said(tmp_path, capsys):
    for verbosity, epochs in ((0, 2), (-1, 0)):
        argv = speck.command(tmp_path / str(verbosity), stages="baseline")
        main.main([*argv, f"--verbosity={verbosity}"])
        assert capsys.readouterr().out.count("baseline  epoch") == epochs
