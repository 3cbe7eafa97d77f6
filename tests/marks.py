"""Which cases of a parametrised test run by default."""

import pytest


def slowly(cases, fast=(), ids=str):
    """The cases as parameters of a test, each a tuple of arguments or a single one; those not in `fast` are slow."""
    arguments = lambda case: case if isinstance(case, tuple) else (case,)
    name = lambda case: "-".join(map(ids, arguments(case)))
    marks = lambda case: () if case in fast else pytest.mark.slow
    return [pytest.param(*arguments(case), marks=marks(case), id=name(case)) for case in cases]


def first_of_each(cases):
    """Of cases that begin with a name the first one of every name."""
    return list({case[0]: case for case in reversed(cases)}.values())
