"""Defences that only look robust are broken or flagged; honest nets are not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weak_inputs  # noqa: F401  fills the list
import weak_networks  # noqa: F401
from check_contexts import context_of, convolutional, digits, halves, pairs, trained
from marks import slowly
from weak_defences import DEFENCES, MISTAKE

from clead_jax.evaluation.checks.run import CHECKS, run_checks

EPS = 0.2
BROKEN = 0.05  # of the images that a defence gets right, the share that it may keep
FAST = ("quantised", "scaled", "takes_normalised", "median", "retrieved", "voting", "flipped_gradient", "probabilities")
FLAGGED = (  # on a net that is robust without them
    *("scaled", "quantised", "probabilities", "takes_normalised", "batch_normalised", "no_gradient", "false_gradient"),
    *("rippled", "saturated", "decided", "thermometer", "noise_of_python", "noise_of_content", "noise_by_place"),
    *("on_the_grid", "overflowing", "retrieved", "low_rank", "voting", "nearest_neighbours", "flipped_gradient"),
)


def digits_context(forward=convolutional, defended=0.0, images=lambda x: x, **more):
    _, (x, labels) = digits()
    return context_of(forward, trained(defended), images(x), labels, eps=EPS, **more)


def weak(name, defended=0.0):
    """The context of a defence of the small net."""
    images = (lambda x: (x - 0.5) / 0.25) if name == "takes_normalised" else (lambda x: x)
    found = DEFENCES[name]
    return digits_context(found.make(convolutional), defended, images, randomized=found.randomized)


def first_fail(context):
    """The first check that fails, or None: the rest need not be asked."""
    return next((c["name"] for c in (q(context) for q in CHECKS) if c["status"] == "fail"), None)


def broken(context):
    """Whether one of the attacks of an audit leaves next to nothing."""
    attacks = ["apgd_ce(eot=10)"] if context.model.randomized else ["pgd", "apgd_ce"]
    return any(context.attack(attack).correct.mean() <= BROKEN for attack in attacks)


def fails(context):
    return [c for c in run_checks(context) if c["status"] == "fail"]


def test_twenty_published_kinds_each_with_its_source_and_how_it_was_broken():
    assert sum(found.source != MISTAKE for found in DEFENCES.values()) >= 20
    assert all(found.source and found.broken for found in DEFENCES.values())


@pytest.mark.parametrize("name", slowly(DEFENCES, FAST))
def test_a_weak_defence_is_broken_or_flagged(name):
    context = weak(name)
    right = context.predict(context.images) == context.labels
    assert right.mean() > 0.75 or name == "takes_normalised"  # else there is nothing to defend
    assert broken(context) or first_fail(context)


@pytest.mark.slow
@pytest.mark.parametrize("name", FLAGGED)
def test_a_weak_defence_of_a_robust_net_is_flagged(name):
    assert first_fail(weak(name, defended=EPS))


def test_random_resizing_that_is_not_announced_is_flagged():
    announced = DEFENCES["resized_and_padded"].make(convolutional)
    secret = lambda v, x: announced(v, x, jax.random.key(np.random.randint(1 << 30)))
    assert first_fail(digits_context(secret)) == "deterministic"


@pytest.mark.parametrize("defended", slowly([0.0, EPS], [EPS]))
def test_honest_nets_pass(defended):
    context = digits_context(defended=defended, undefended=trained(0.0))
    assert not fails(context)
    robust = context.attack("pgd").correct.mean()
    assert (robust > 0.5) == bool(defended)  # the nets are what they are said to be


def in_bfloat16(v, x):
    """Everything computed in bfloat16."""
    half = lambda leaf: leaf.astype(jnp.bfloat16)
    return convolutional(jax.tree.map(half, v), half(x))


SILU, POOLED = functools.partial(convolutional, act=jax.nn.silu), functools.partial(convolutional, pool=True)
HONEST = {  # forward, what was trained, on what data, and whether it draws noise
    "noisy": (DEFENCES["noisy"].make(convolutional), convolutional, digits, True),
    "bfloat16": (in_bfloat16, convolutional, digits, False),
    "silu": (SILU, SILU, digits, False),
    "max_pool": (POOLED, POOLED, digits, False),
    "a_hundred_classes": (convolutional, convolutional, pairs, False),
    "two_classes": (convolutional, convolutional, halves, False),
}


@pytest.mark.parametrize("name", slowly(HONEST, ()))
def test_honest_nets_of_other_kinds_pass(name):
    forward, net, data, randomized = HONEST[name]
    _, (images, labels) = data()
    classes = {pairs: 100, halves: 2}.get(data, 10)
    eps, more = EPS / 2, {"randomized": randomized, "classes": classes}
    context = context_of(forward, trained(eps, net, data), images, labels, eps, **more)
    assert not fails(context)
    assert context.attack("pgd").correct.mean() > 0.2  # checks that need correct images have some


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
@pytest.mark.parametrize("name", [name for name in FLAGGED if not DEFENCES[name].of_digits])
def test_a_weak_defence_of_a_reference_net_is_flagged(shared, name, base):
    variables, images, labels = reference(shared, base, 64)
    images = (images - 0.5) / 0.25 if name == "takes_normalised" else images
    assert first_fail(context_of(DEFENCES[name].make(four_convolutions), variables, images, labels, eps=8 / 255))
