import attack_problems
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clead_jax.attacks import FABConfig, TargetedFABConfig, fooled
from clead_jax.attacks.fab import FAB
from clead_jax.attacks.fab_projection import length
from clead_jax.attacks.objectives import margin
from clead_jax.core.types import Targeted


def follow(problem, cfg, target=None):
    """The states after each step."""
    target = problem.labels if target is None else target
    state = jax.jit(lambda x: FAB.init(problem.forward, margin, x, target, problem.keys, cfg))(problem.x)
    step = jax.jit(lambda state: FAB.step(problem.forward, margin, state, cfg))
    for _ in range(FAB.num_steps(cfg)):
        state = step(state)
        yield state


def attack(problem, cfg, target=None):
    *_, state = follow(problem, cfg, target)
    return state


@pytest.mark.parametrize("cfg", [FABConfig, TargetedFABConfig])
@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2), ("l1", np.inf)])
def test_among_several_classes_it_finds_the_nearest(cfg, norm, dual):
    problem = attack_problems.linear(classes=4)
    logits = problem.forward(problem.x)
    w = problem.weights.T - problem.weights.T[problem.labels][:, None]  # [B, K, pixels]
    gap = jnp.take_along_axis(logits, problem.labels[:, None], 1) - logits
    true = jnp.where(gap > 0, gap / jnp.linalg.norm(w, ord=dual, axis=-1), jnp.inf).min(-1)
    settings = {"targets": 3} if cfg is TargetedFABConfig else {}
    state = attack(problem, cfg(eps=jnp.inf, norm=norm, steps=20, **settings))
    np.testing.assert_allclose(state.distance, true, rtol=0.005)
    np.testing.assert_allclose(length(FAB.result(state) - problem.x, norm), state.distance, rtol=1e-4)


def test_only_what_lies_within_eps_counts():
    problem = attack_problems.mlp(batch=16)
    free = attack(problem, FABConfig(eps=jnp.inf, steps=20))
    eps = float(np.median(free.distance))
    state = attack(problem, FABConfig(eps=eps, steps=20))
    within = np.asarray(state.distance <= eps)
    assert (
        0 < within.sum() < 16 and not FAB.done(free).any() and not FAB.done(attack(problem, FABConfig(eps=1.0))).any()
    )
    np.testing.assert_array_equal(FAB.done(state), within)
    np.testing.assert_array_equal(fooled(problem.forward(FAB.result(state)), problem.labels), within)
    np.testing.assert_array_equal(FAB.result(state)[~within], problem.x[~within])
    np.testing.assert_array_equal(state.distance, free.distance)  # eps does not bend the search


def test_an_image_already_misclassified_is_at_distance_0():
    problem = attack_problems.mlp()
    state = attack(problem, FABConfig(steps=2), (problem.labels + 1) % 3)
    np.testing.assert_array_equal(FAB.result(state), problem.x)
    assert not state.distance.any() and FAB.done(state).all()


def test_the_distance_never_grows_and_the_final_search_helps_a_short_run():
    problem = attack_problems.mlp(batch=32)
    distances = np.stack([state.distance for state in follow(problem, FABConfig(eps=jnp.inf, steps=5))])
    assert (distances[1:] <= distances[:-1]).all()
    assert (distances[-1] < 0.997 * distances[4]).any()


def test_restarts_begin_elsewhere_and_never_hurt():
    problem = attack_problems.mlp(batch=32)
    states = list(follow(problem, FABConfig(eps=0.2, steps=1, restarts=3)))
    once, thrice = states[3].distance, states[-1].distance
    np.testing.assert_array_equal(once, attack(problem, FABConfig(eps=0.2, steps=1)).distance)
    assert (thrice <= once).all() and (thrice < 0.999 * once).any()


def test_each_run_goes_for_another_class_and_more_runs_than_classes_start_at_random():
    problem = attack_problems.linear(classes=4)
    order = np.argsort(-np.asarray(problem.forward(problem.x)), axis=1)
    states = list(follow(problem, TargetedFABConfig(eps=jnp.inf, steps=1, targets=9)))
    np.testing.assert_array_equal(states[0].goals, order[:, 1:])
    assert FAB.num_steps(TargetedFABConfig(steps=1, targets=9)) == len(states) == 36
    early, late = states[8].x_adv, states[12].x_adv  # after the first step of runs 3 and 4
    assert not jnp.allclose(early, late)
    assert jnp.isfinite(late).all()


def test_targeted_runs_reach_their_goal():
    problem = attack_problems.mlp()
    for shift in (1, 2):
        goal = (problem.labels + shift) % 3
        state = attack(problem, FABConfig(eps=jnp.inf, norm="l2", steps=20), Targeted(problem.labels, goal))
        np.testing.assert_array_equal(problem.forward(FAB.result(state)).argmax(-1), goal)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "l3"}, "unknown norm 'l3'"),
        ({"eps": -1.0}, "eps must not be negative, got -1.0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"targets": -1}, "targets must not be negative, got -1"),
        ({"restarts": 0}, "restarts must be at least 1, got 0"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        FABConfig(**settings)


def test_a_model_without_gradients_leaves_the_image():
    problem = attack_problems.mlp()
    blind = problem._replace(forward=lambda x: jax.lax.stop_gradient(problem.forward(x)))
    state = attack(blind, FABConfig(steps=3, restarts=2))
    assert jnp.isfinite(FAB.result(state)).all() and not FAB.done(state).all()


def test_a_ball_around_the_box_is_no_limit():
    problem = attack_problems.mlp()
    for norm, all_of_it in (("linf", 1.0), ("l2", 108**0.5), ("l1", 108.0)):
        state = attack(problem, FABConfig(eps=all_of_it, norm=norm, steps=2))
        assert jnp.isfinite(state.distance).all() and not FAB.done(state).any()
