"""Defences that only look robust are broken or flagged; honest nets are not."""

import functools

import jax
import numpy as np
import pytest
import weak_defences
from check_contexts import context_of, convolutional, digits, trained

from clead_jax.evaluation.checks.run import CHECKS, run_checks

EPS = 0.2


def digits_context(forward=convolutional, defended=0.0, images=lambda x: x, **more):
    _, (x, labels) = digits()
    return context_of(forward, trained(defended), images(x), labels, eps=EPS, **more)


def first_fail(context):
    """The first check that fails, or None: the rest need not be asked."""
    return next((c["name"] for c in (q(context) for q in CHECKS) if c["status"] == "fail"), None)


def fails(context):
    return [c for c in run_checks(context) if c["status"] == "fail"]


@pytest.mark.parametrize("defended", [0.0, EPS])
@pytest.mark.parametrize("name", [*weak_defences.PLANTED, *weak_defences.HELD_OUT])
def test_a_weak_defence_is_flagged(name, defended):
    defence = (weak_defences.PLANTED | weak_defences.HELD_OUT)[name]
    images = (lambda x: (x - 0.5) / 0.25) if name == "takes_normalised" else (lambda x: x)
    assert first_fail(digits_context(defence(convolutional), defended, images))


def test_winners_take_all_is_flagged_or_broken():
    context = digits_context(functools.partial(convolutional, act=weak_defences.winners))
    assert context.attack("pgd").correct.mean() <= 0.1 or first_fail(context)


def test_random_resizing_is_flagged_or_broken():
    context = digits_context(weak_defences.resized_and_padded(convolutional), randomized=True)
    assert context.attack("apgd_ce(eot=2)").correct.mean() <= 0.1 or first_fail(context)


def test_random_resizing_that_is_not_announced_is_flagged():
    secret = lambda v, x: weak_defences.resized_and_padded(convolutional)(
        v, x, jax.random.key(np.random.randint(1 << 30))
    )
    assert first_fail(digits_context(secret)) == "deterministic"


@pytest.mark.parametrize("defended", [0.0, EPS])
def test_honest_nets_pass(defended):
    context = digits_context(defended=defended, undefended=trained(0.0))
    assert not fails(context)
    robust = context.attack("pgd").correct.mean()
    assert (robust > 0.5) == bool(defended)  # the nets are what they are said to be


# --- the nets with reference results ----------------------------------------------------------------------------------


def reference(shared, name, n):
    """(variables, images, labels) of a small CIFAR-10 net, or a skip that says it is absent."""
    path = shared / "parity" / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"no reference net at {path}")
    found = np.load(path)
    variables = {k.removeprefix("net/"): found[k] for k in found.files if k.startswith("net/")}
    return variables, found["images"][:n].astype(np.float32) / 255, found["labels"][:n].astype(np.int32)


def four_convolutions(v, x, act=jax.nn.relu):
    h = (x - 0.5) / 0.25
    for i, stride in enumerate((1, 2, 2, 1)):
        h = jax.lax.conv_general_dilated(
            h, v[f"conv{i}_w"], (stride, stride), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        h = act(h + v[f"conv{i}_b"])
    return h.mean((1, 2)) @ v["dense_w"] + v["dense_b"]


@pytest.mark.slow
@pytest.mark.parametrize("n", [64, 128])
@pytest.mark.parametrize("name", ["robust", "clean"])
def test_honest_reference_nets_pass(shared, name, n):
    assert not fails(context_of(four_convolutions, *reference(shared, name, n), eps=8 / 255))


@pytest.mark.slow
@pytest.mark.parametrize("base", ["robust", "clean"])
@pytest.mark.parametrize("name", [*weak_defences.PLANTED, *weak_defences.HELD_OUT])
def test_a_weak_defence_of_a_reference_net_is_flagged(shared, name, base):
    variables, images, labels = reference(shared, base, 64)
    images = (images - 0.5) / 0.25 if name == "takes_normalised" else images
    defence = (weak_defences.PLANTED | weak_defences.HELD_OUT)[name]
    assert first_fail(context_of(defence(four_convolutions), variables, images, labels, eps=8 / 255))
