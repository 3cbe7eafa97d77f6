"""FMN and DDN: distances that are known, or that other attacks find."""

import importlib

import attack_problems
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clead_jax import attacks
from clead_jax.attacks.fab_projection import length
from clead_jax.core.registry import ATTACKS

DUAL = {"linf": 1, "l2": 2, "l1": np.inf}
EVERY = [("fmn", "linf"), ("fmn", "l2"), ("fmn", "l1"), ("ddn", "l2")]


@pytest.fixture(autouse=True)
def rolled(monkeypatch):
    """The models here have no convolutions: loops stay rolled, and compile faster."""
    monkeypatch.setattr(importlib.import_module("clead_jax.attacks.run"), "MOST_UNROLLED", 0)


def attack(problem, name, norm="", **settings):
    """x_adv, at any distance."""
    entry, free = ATTACKS[name], {"eps": 1e6, "norm": norm} if norm and name != "ddn" else {}
    run = jax.jit(lambda x, keys: attacks.run(entry.value, problem.forward, entry.info["objective"], x, problem.labels,
                                              keys, entry.config(**free, **settings)))  # fmt: skip
    return run(problem.x, problem.keys)


def distance(problem, x_adv, norm):
    """How far it is, inf where it does not fool the model."""
    fools = attacks.fooled(problem.forward(x_adv), problem.labels)
    return np.where(fools, length(x_adv - problem.x, norm), np.inf)


@pytest.mark.parametrize(("name", "norm"), EVERY)
def test_among_several_classes_it_finds_the_nearest(name, norm):
    problem = attack_problems.linear(classes=4)
    logits = problem.forward(problem.x)
    w = problem.weights.T - problem.weights.T[problem.labels][:, None]  # [B, K, pixels]
    gap = jnp.take_along_axis(logits, problem.labels[:, None], 1) - logits
    true = jnp.where(gap > 0, gap / jnp.linalg.norm(w, ord=DUAL[norm], axis=-1), jnp.inf).min(-1)
    found = distance(problem, attack(problem, name, norm), norm)
    np.testing.assert_allclose(found, true, rtol=0.03 if name == "ddn" else 0.01)  # it may choose another class


@pytest.mark.parametrize(("name", "norm"), EVERY)
def test_on_a_network_it_is_as_near_as_fab(name, norm):
    problem = attack_problems.mlp(batch=32)
    reference = distance(problem, attack(problem, "fab_t", norm, targets=2, steps=20), norm)
    found = distance(problem, attack(problem, name, norm, **({} if name == "ddn" else {"targets": 2})), norm)
    assert np.isfinite(reference).all() and np.median(found) <= 1.01 * np.median(reference)
    assert (found <= 1.05 * reference).mean() > 0.9


@pytest.mark.parametrize("name", ["fmn", "ddn"])
def test_images_that_are_wrong_already_stay(name):
    problem, entry = attack_problems.mlp(), ATTACKS[name]
    given = problem.forward, entry.info["objective"]
    start = entry.value.init(*given, problem.x, (problem.labels + 1) % 3, problem.keys, entry.config())
    found = entry.value.step(*given, entry.value.step(*given, start, entry.config()), entry.config())
    assert (found.distance == 0).all()
    np.testing.assert_array_equal(entry.value.result(found), problem.x)


def test_only_what_lies_within_eps_counts():
    problem = attack_problems.mlp(batch=16)
    quick = {"targets": 1, "steps": 20}
    free = distance(problem, attack(problem, "fmn", "l2", **quick), "l2")
    entry, eps = ATTACKS["fmn"], float(np.median(free))
    given = problem.forward, entry.info["objective"], problem.x, problem.labels, problem.keys
    x_adv = jax.jit(lambda cfg: attacks.run(entry.value, *given, cfg))(entry.config(eps=eps, norm="l2", **quick))
    np.testing.assert_array_equal(np.isfinite(distance(problem, x_adv, "l2")), free <= eps)
