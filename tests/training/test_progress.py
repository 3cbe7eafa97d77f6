"""What a person is told while a stage trains, by a clock that the test turns."""

import logging

import pytest

from clead_jax.training import progress
from clead_jax.training.loop import Plan


@pytest.fixture
def clock(monkeypatch):
    """A list whose last entry is the time."""
    times = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: times[-1])
    return times


def test_the_first_steps_tell_how_long_stage_and_run_will_take(clock, capsys):
    told = progress.Progress("pretrain", Plan(100, 10, 10), passes_per_image=4, later=40_000)
    told.start()
    said = "pretrain: 10 epochs x 10 steps x 10 images x 4 forward+backward passes = 4e+03 passes\n"
    assert capsys.readouterr().out == said
    for step, now in ((1, 60.0), (5, 62.0)):  # a minute of compilation, then half a second a step
        clock.append(now)
        told.tick(step, 1.0)
    # 95 steps are left: 47.5 s. 10 images of 4 passes take half a second, so 40,000 passes take 500 s.
    told_first = "pretrain: 0.5 s a step at first, ETA 48 s; the whole run at most about 9 min 08 s\n"
    assert capsys.readouterr().out == told_first
    clock.append(100.0)
    told.tick(50, 1.0)
    assert capsys.readouterr().out == ""


def test_the_last_stage_speaks_of_itself_alone(clock, capsys):
    told = progress.Progress("probe", Plan(100, 10, 10), passes_per_image=1)
    for step in (1, 5):
        clock.append(float(step))
        told.tick(step, 1.0)
    assert capsys.readouterr().out == "probe: 1 s a step at first, ETA 1 min 35 s\n"


@pytest.mark.parametrize(("level", "shown"), [(logging.INFO, True), (logging.WARNING, False)])
def test_a_live_line_is_for_terminals_and_those_who_want_progress(clock, capsys, monkeypatch, level, shown):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(progress.log, "level", level)
    told = progress.Progress("probe", Plan(100, 10, 10), passes_per_image=1)
    for step in (1, 5):
        clock.append(float(step))
        told.tick(step, 1.0)
    assert ("step 5/100" in capsys.readouterr().err) == shown
