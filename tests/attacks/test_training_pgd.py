"""Images that stop by themselves, other starts, noise: against loops over single images."""

import dataclasses
import functools

import attack_problems
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clead_jax import attacks
from clead_jax.attacks.objectives import ascent, cross_entropy, kl
from clead_jax.core.registry import ATTACKS
from clead_jax.core.types import CleanLogits

ENTRY = ATTACKS["training_pgd"]
PROBLEM = attack_problems.mlp(batch=16)
BASE = ENTRY.config(eps=0.2, step_size=0.05, steps=6, random_start=False)


def solve(cfg, name="training_pgd", objective=cross_entropy, target=PROBLEM.labels):
    run = lambda cfg: attacks.run(ATTACKS[name].value, PROBLEM.forward, objective, PROBLEM.x, target, PROBLEM.keys, cfg)
    return np.asarray(jax.jit(run)(cfg))


@functools.partial(jax.jit, static_argnums=0)
def gradient_at(objective, x_adv, target):
    gradient, _, outputs = ascent(PROBLEM.forward, objective, x_adv, target)
    return gradient, outputs


def by_hand(tau, counts, eps, step_size):
    """One image at a time, as the papers' pseudo-code has it; all settings are lists of one value an image."""
    found = []
    for i, x in enumerate(PROBLEM.x):
        x, x_adv, left = np.asarray(x), np.asarray(x)[None], tau[i]
        for _ in range(6):
            gradient, outputs = gradient_at(cross_entropy, x_adv, PROBLEM.labels[i : i + 1])
            wrong = np.argmax(outputs) != PROBLEM.labels[i]
            counted = wrong if counts == "errors" else True
            if counted and left == 0:
                break
            left -= counted
            x_adv = np.clip(x_adv + step_size[i] * np.sign(gradient), x - eps[i], x + eps[i]).clip(0, 1)
        found.append(x_adv[0])
    return np.stack(found)


@pytest.mark.parametrize("tau", [0, 1, 2])
def test_friendly_steps_are_those_of_the_pseudo_code(tau):
    found = solve(dataclasses.replace(BASE, counts="errors", tau=tau))
    np.testing.assert_allclose(found, by_hand([tau] * 16, "errors", [0.2] * 16, [0.05] * 16), atol=1e-6)
    assert not np.allclose(found, solve(BASE), atol=1e-6)


def test_friendly_about_the_clean_logits_counts_errors_by_the_label():
    logits = PROBLEM.forward(PROBLEM.x)
    target = CleanLogits((PROBLEM.labels + 1) % 3, logits)  # every image is wrong from the start
    cfg = dataclasses.replace(BASE, counts="errors", tau=0)
    np.testing.assert_array_equal(solve(cfg, objective=kl, target=target), PROBLEM.x)
    whole = solve(BASE, objective=kl, target=target)
    np.testing.assert_array_equal(whole, solve(BASE, objective=kl, target=logits))


@pytest.mark.parametrize("name", ["pgd", "tau K"])
def test_patience_of_all_steps_is_pgd(name):
    cfg = dataclasses.replace(BASE, random_start=True, **({} if name == "pgd" else {"counts": "errors", "tau": 6}))
    pgd = ATTACKS["pgd"].config(eps=0.2, step_size=0.05, steps=6, keep="last")
    np.testing.assert_allclose(solve(cfg), solve(pgd, "pgd"), atol=1e-6)  # the last bit is the compiler's


def test_every_image_has_its_own_radius_step_and_number():
    tau, eps = np.arange(16) % 7, np.linspace(0.02, 0.3, 16).astype(np.float32)
    step = np.linspace(0.1, 0.02, 16).astype(np.float32)
    cfg = dataclasses.replace(BASE, counts="steps", tau=jnp.asarray(tau), eps=eps, step_size=step)
    np.testing.assert_allclose(solve(cfg), by_hand(tau, "steps", eps, step), atol=1e-6)


def test_the_normal_start_is_a_thousandth_wide():
    cfg = dataclasses.replace(BASE, random_start=True, start="normal", counts="steps", tau=0)
    inner = (np.asarray(PROBLEM.x) > 0.01) & (np.asarray(PROBLEM.x) < 0.99)
    assert (solve(cfg) - PROBLEM.x)[inner].std() == pytest.approx(0.001, rel=0.05)


def test_the_radius_of_the_start_is_its_own():
    cfg = dataclasses.replace(BASE, random_start=True, start_eps=0.01, counts="steps", tau=0)
    assert 0.009 < np.abs(solve(cfg) - PROBLEM.x).max() <= 0.01 + 1e-6


def test_noise_is_added_in_every_step():
    noisy, inner = dataclasses.replace(BASE, steps=2, noise=0.01), (PROBLEM.x > 0.3) & (PROBLEM.x < 0.7)
    moved = (solve(noisy) - solve(dataclasses.replace(BASE, steps=2)))[np.asarray(inner)]
    few = np.abs(moved) < 0.045  # the rest took another turn
    assert few.mean() > 0.8 and moved[few].std() == pytest.approx(0.01 * 2**0.5, rel=0.1)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"start": "warm"}, "unknown start 'warm': known: uniform, normal"),
        ({"counts": "losses"}, "unknown counts 'losses': known: errors, steps"),
        ({"tau": -1}, "tau must not be negative"),
        ({"restarts": 2}, "restarts=2 needs"),
        ({"keep": "best"}, "keeps the last point"),
    ],
)
def test_what_it_cannot_do(settings, said):
    with pytest.raises(ValueError, match=said):
        ENTRY.config(**settings)
