"""What every registered attack owes its caller. A new entry of ATTACKS is tested by being registered."""

import dataclasses
import functools
import importlib
import re

import attack_problems
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from marks import first_of_each, slowly

from clead_jax import attacks
from clead_jax.attacks.norms import NORMS
from clead_jax.attacks.objectives import margin
from clead_jax.core.registry import ATTACKS
from clead_jax.core.types import Targeted

EPS = 8 / 255
DUAL = {"linf": 1, "l2": 2, "l1": np.inf}

# What is enough here of attacks that take thousands of steps by default.
QUICK = {
    "apgd_ce": {"steps": 30},
    "apgd_dlr": {"steps": 30},
    "apgd_t": {"steps": 30, "targets": 1},
    "cw_l2": {"steps": 200},
    "pma": {"steps": 30},
    "mm": {"steps": 30, "targets": 1},
    "ddn": {"steps": 100, "radius": 0.02},
    "fmn": {"steps": 30},
    "fab": {"steps": 10},
    "fab_t": {"steps": 10, "targets": 1},
    "square": {"queries": 300, "rescale": True},
}
# How many classes an attack needs, if more than two.
CLASSES = {"apgd_dlr": 4, "apgd_t": 4}
# The share of the optimum in a linear model that an attack in a ball owes: no less than 0.97 if it knows the gradient.
# The weights there are noise, which windows do not fit; a query budget is no excuse in Linf, where windows shrink to 1.
SHARE = {("square", "linf"): 0.75, ("square", "l2"): 0.4, ("square", "l1"): 0.3}
SHARE |= {("noise", "linf"): 0.12, ("noise", "l2"): 0.15, ("noise", "l1"): 0.08}  # the best of 100


def in_a_ball(name: str) -> bool:
    """Whether there is a ball that the result lies in."""
    return hasattr(ATTACKS[name].config(), "eps")


def nearest(name: str) -> bool:
    """Whether the attack looks for the smallest perturbation; the others for the worst point of the ball."""
    return ATTACKS[name].info.get("nearest", False)


CASES = [(name, norm) for name in ATTACKS for norm in (NORMS if in_a_ball(name) else [ATTACKS[name].config.norm])]
IN_A_BALL = [case for case in CASES if in_a_ball(case[0])]
every_attack = pytest.mark.parametrize(("name", "norm"), CASES)
every_attack_in_one_norm = pytest.mark.parametrize(("name", "norm"), slowly(CASES, first_of_each(CASES)))
every_attack_in_a_ball = pytest.mark.parametrize(("name", "norm"), IN_A_BALL)


@pytest.fixture(autouse=True)
def rolled_loops(monkeypatch):
    """The models here have no convolutions: loops stay rolled, and compile ten times faster."""
    monkeypatch.setattr(importlib.import_module("clead_jax.attacks.run"), "MOST_UNROLLED", 0)


@functools.cache
def on_linear(name, norm):
    """The linear problem of two classes, and what the attack makes of it."""
    cfg = config(name, norm, eps=jnp.inf) if nearest(name) else config(name, norm)
    return linear(name), solve(name, linear(name), cfg)


@functools.cache
def on_mlp(name, norm):
    """A network with a hidden layer, what the attack makes of its images, and the attack's settings."""
    return mlp(name), solve(name, mlp(name), config(name, norm)), config(name, norm)


def config(name, norm, **changes):
    cfg = ATTACKS[name].config(**QUICK.get(name, {}))
    return dataclasses.replace(cfg, norm=norm, **changes) if in_a_ball(name) else cfg


@functools.cache
def linear(name, classes=2):
    return with_classes(attack_problems.linear(classes), classes, CLASSES.get(name, 0))


@functools.cache
def mlp(name):
    return with_classes(attack_problems.mlp(), 3, CLASSES.get(name, 0))


def with_classes(problem, has, needs):
    """The problem with classes added that no image comes near to."""
    far_away = -100.0 - jnp.arange(max(needs - has, 0))
    add = lambda logits: jnp.concatenate([logits, jnp.broadcast_to(far_away, (len(logits), len(far_away)))], -1)
    return problem._replace(forward=lambda x: add(problem.forward(x)))


def run(name, forward, x, target, keys, cfg):
    return attacks.run(ATTACKS[name].value, forward, ATTACKS[name].info["objective"], x, target, keys, cfg)


@functools.cache
def program(name, forward):
    return jax.jit(functools.partial(run, name, forward))


def solve(name, problem, cfg, target=None):
    target = problem.labels if target is None else target
    return program(name, problem.forward)(problem.x, target, problem.keys, cfg)


def size(delta, norm):
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    return np.linalg.norm(np.asarray(delta).reshape(len(delta), -1), ord=order, axis=1)


def check_same(x_adv, expected):
    """Equal but for a few pixels: where a gradient is nearly 0 its sign may depend on the last bit."""
    assert np.mean(np.abs(np.asarray(x_adv) - expected) > 1e-4) < 0.005


def check_strength(name, norm, share=1.0):
    """The attack, scaled down to `share`, reaches the optimum on a linear model of two classes.

    In a ball: nearly all (`SHARE`) of what the best step adds to the margin, which is eps sign(w), eps w / |w|, or
    eps in the pixel of largest w. Nearest: the other side of the boundary, within 1 % of the true distance.
    """
    problem, found = on_linear(name, norm)
    w = attack_problems.linear().weights @ jnp.array([-1.0, 1.0])
    x_adv = problem.x + share * (found - problem.x)
    if nearest(name):
        true = jnp.abs(problem.forward(problem.x) @ jnp.array([-1.0, 1.0])) / jnp.linalg.norm(w, DUAL[norm])
        assert attacks.fooled(problem.forward(x_adv), problem.labels).all()
        np.testing.assert_allclose(size(x_adv - problem.x, norm), true, rtol=0.01)
        return
    away = jnp.where(problem.labels == 0, 1.0, -1.0)[:, None]
    step = {"linf": jnp.sign(w), "l2": w / jnp.linalg.norm(w), "l1": jnp.sign(w) * (jnp.abs(w) == jnp.abs(w).max())}
    best = problem.x + EPS * (away * step[norm]).reshape(problem.x.shape)
    reached, optimum, clean = (margin(problem.forward(x), problem.labels) for x in (x_adv, best, problem.x))
    assert (reached - clean >= SHARE.get((name, norm), 0.97) * (optimum - clean)).all()


@every_attack
def test_it_reaches_the_optimum_of_a_linear_model(name, norm):
    check_strength(name, norm)


@every_attack
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_an_attack_that_does_nothing_or_half_would_not_pass(name, norm, share):
    with pytest.raises(AssertionError):
        check_strength(name, norm, share)


@every_attack
def test_it_stays_in_the_ball_and_the_box(name, norm):
    problem, x_adv, cfg = on_mlp(name, norm)
    assert (x_adv.shape, x_adv.dtype) == (problem.x.shape, jnp.float32)
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    if in_a_ball(name):
        assert (size(x_adv - problem.x, norm) <= cfg.eps + 1e-6).all()


@every_attack_in_a_ball
def test_eps_0_changes_nothing(name, norm):
    problem = mlp(name)
    np.testing.assert_array_equal(solve(name, problem, config(name, norm, eps=0.0)), problem.x)


@every_attack_in_one_norm
def test_targeted_reaches_the_goal(name, norm):
    if name == "noise":
        pytest.skip("aims at nothing")
    problem = linear(name, 3)
    goal = (problem.labels + 1) % 3
    eps = {"linf": EPS, "l2": 0.25, "l1": 1.0}[norm]
    changes = {"eps": eps, "step_size": eps / 4}
    changes = {k: v for k, v in changes.items() if getattr(ATTACKS[name].config(), k, None) is not None}
    x_adv = solve(name, problem, config(name, norm, **changes), Targeted(problem.labels, goal))
    assert (problem.forward(x_adv).argmax(-1) == goal).all()
    assert not (problem.forward(solve(name, problem, config(name, norm, **changes))).argmax(-1) == goal).all()


@every_attack
def test_an_example_does_not_depend_on_its_batch(name, norm):
    problem, x_adv, cfg = on_mlp(name, norm)
    rows = jnp.array([5, 2])
    part = problem._replace(x=problem.x[rows], labels=problem.labels[rows], keys=problem.keys[rows])
    check_same(solve(name, part, cfg), x_adv[rows])


@every_attack
def test_it_is_a_function_of_its_keys(name, norm):
    more_in_l1 = {"eps": 1.0} if norm == "l1" else {}  # else one pixel takes it all, whatever the start was
    problem, cfg = mlp(name), config(name, norm, **more_in_l1)
    x_adv = solve(name, problem, cfg)
    np.testing.assert_array_equal(x_adv, solve(name, problem, cfg))
    other = solve(name, problem._replace(keys=problem.keys[::-1]), cfg)
    assert bool((x_adv == other).all()) != getattr(cfg, "random_start", False)


@pytest.mark.slow
@every_attack
def test_jit_changes_nothing(name, norm):
    problem, x_adv, cfg = on_mlp(name, norm)
    check_same(run(name, problem.forward, problem.x, problem.labels, problem.keys, cfg), x_adv)


@every_attack_in_a_ball
def test_a_curve_over_eps_is_one_program(name, norm):
    problem, traces = mlp(name), []

    def forward(x):
        traces.append(1)
        return problem.forward(x)

    at = lambda eps: solve(name, problem._replace(forward=forward), config(name, norm, eps=eps))
    at(0.01)
    once = len(traces)
    further = [size(at(eps) - problem.x, norm).max() for eps in (0.02, 10.0)]
    assert len(traces) == once and further[0] < further[1]


@every_attack_in_one_norm
def test_rows_can_be_dropped_between_steps(name, norm):
    """Every leaf of the state is [B, ...], and a gathered state goes on as if the others had never been there."""
    problem, cfg = mlp(name), config(name, norm)
    if hasattr(cfg, "eps"):  # DLR is flat where the label ranks third: signs of rounding errors would be compared
        cfg = dataclasses.replace(cfg, eps=cfg.eps / 4)
    attack, objective = ATTACKS[name].value, ATTACKS[name].info["objective"]
    step = jax.jit(lambda state: attack.step(problem.forward, objective, state, cfg))
    begin = jax.jit(lambda cfg: attack.init(problem.forward, objective, problem.x, problem.labels, problem.keys, cfg))
    state = begin(cfg)
    kept = jnp.array([6, 1])
    whole = state
    for made in range(min(attack.num_steps(cfg), 4)):
        whole = step(whole)
        if made == 0:
            assert {leaf.shape[:1] for leaf in jax.tree.leaves(whole)} == {(8,)}
            state = jax.tree.map(lambda leaf: leaf[kept], whole)
        else:
            state = step(state)
    assert attack.done(whole).shape == (8,) and attack.done(whole).dtype == bool
    check_same(attack.result(state), attack.result(whole)[kept])


@every_attack_in_one_norm
def test_spread_over_devices_it_does_not_communicate(name, norm):
    problem, x_adv, cfg = on_mlp(name, norm)
    mesh = Mesh(np.array(jax.devices()), ("data",), axis_types=(AxisType.Auto,))
    args = jax.device_put((problem.x, problem.labels, problem.keys), NamedSharding(mesh, PartitionSpec("data")))
    compiled = program(name, problem.forward).lower(*args, cfg).compile()
    assert not re.search(r"all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter", compiled.as_text())
    check_same(compiled(*args, cfg), x_adv)


@every_attack_in_one_norm
def test_no_gradient_flows_through_it(name, norm):
    problem, cfg = mlp(name), config(name, norm)
    shorter = {"steps": 5, "rounds": 2, "queries": 5}
    cfg = dataclasses.replace(cfg, **{k: v for k, v in shorter.items() if hasattr(cfg, k)})

    def through(scale):
        return run(name, lambda x: scale * problem.forward(x), problem.x, problem.labels, problem.keys, cfg).sum()

    assert jax.grad(through)(2.0) == 0
