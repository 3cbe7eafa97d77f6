"""What a program says while it works."""

import logging

import pytest

from clead_jax.core import progress


def test_seldom_says_yes_once_in_a_while():
    now = [0.0]
    due = progress.seldom(5.0, clock=lambda: now[0])
    said = []
    for now[0] in (0.0, 4.9, 5.0, 5.1, 9.9, 30.0, 31.0, 35.0):
        said.append(due())
    assert said == [False, False, True, False, False, True, False, True]


@pytest.mark.parametrize(("verbosity", "shown"), [(-1, "W"), (0, "WI"), (1, "WID")])
def test_verbosity(verbosity, shown, capsys):
    progress.show(verbosity)
    for letter, level in (("W", logging.WARNING), ("I", logging.INFO), ("D", logging.DEBUG)):
        progress.log.log(level, letter)
    assert capsys.readouterr().out.split() == list(shown)


def test_only_the_main_process_speaks(capsys):
    progress.show(0, is_main=lambda: False)
    progress.log.warning("unheard")
    assert capsys.readouterr().out == ""


def test_the_package_says_nothing_unless_a_program_asks(capsys):
    progress.log.handlers, progress.log.propagate = [], True
    progress.log.info("unheard")
    assert capsys.readouterr().out == ""
