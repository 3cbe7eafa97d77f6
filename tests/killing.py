"""Runs that end right after they have saved a checkpoint, and what is read back of them."""

import contextlib

import pytest

from clead_jax import config
from clead_jax.experiment import builders, train
from clead_jax.experiment.context import open_run
from clead_jax.training import checkpoint


@contextlib.contextmanager
def killed_after_a_save(monkeypatch):
    """Inside, the first checkpoint that is saved ends the run. What else the test has patched stays as it is."""
    save = checkpoint.save

    def save_and_end(*args):
        save(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(checkpoint, "save", save_and_end)
        yield


def restored(workdir, stage):
    """The latest checkpoint of a stage, its training state included."""
    run = open_run(config.restore(str(workdir))[0], str(workdir), "")
    return train.restore(run, run.stages[stage], builders.checkpoint_dir(str(workdir), stage))
