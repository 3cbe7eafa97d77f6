import attack_problems
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clead_jax.attacks import CWL2Config, distance, fooled, run
from clead_jax.attacks.cw_l2 import CW_L2
from clead_jax.attacks.objectives import margin


def attack(problem, cfg):
    return jax.jit(lambda x: run(CW_L2, problem.forward, margin, x, problem.labels, problem.keys, cfg))(problem.x)


def true_distance(problem, clearance=0.0):
    """How far the hyperplane margin = clearance is, among any number of classes."""
    logits, best = problem.forward(problem.x), problem.labels[:, None]
    gaps = jnp.take_along_axis(logits, best, 1) - logits + clearance
    columns = problem.weights.T
    between = jnp.linalg.norm(columns[problem.labels][:, None] - columns[None], axis=-1)
    return jnp.where(between > 0, gaps / between, jnp.inf).min(-1)


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
@pytest.mark.parametrize(("classes", "confidence"), [(2, 0.0), (4, 0.0), (2, 0.5)])
def test_it_finds_the_nearest_boundary(scale, classes, confidence):
    problem = attack_problems.linear(classes)
    weights = scale * problem.weights
    forward = lambda x: (x - 0.5).reshape(len(x), -1) @ weights
    problem = problem._replace(forward=forward, weights=weights)
    x_adv = attack(problem, CWL2Config(steps=200, confidence=scale * confidence))
    np.testing.assert_allclose(distance(problem.x, x_adv), true_distance(problem, scale * confidence), rtol=0.01)
    assert (margin(forward(x_adv), problem.labels) >= scale * confidence - 1e-4).all()


def test_where_nothing_fools_the_model_the_image_stays():
    problem = attack_problems.linear()
    certain = problem._replace(forward=lambda x: problem.forward(0 * x) + jnp.array([9.0, 0.0]))
    certain = certain._replace(labels=jnp.zeros(8, jnp.int32))
    np.testing.assert_array_equal(attack(certain, CWL2Config(steps=10)), problem.x)


def test_an_image_already_misclassified_is_at_distance_0():
    problem = attack_problems.mlp()
    wrong = problem._replace(labels=(problem.labels + 1) % 3)
    x_adv = attack(wrong, CWL2Config(steps=20))
    assert fooled(problem.forward(x_adv), wrong.labels).all() and distance(problem.x, x_adv).max() < 1e-4


def test_more_search_finds_nearer_images():
    problem = attack_problems.mlp()
    short, long = (distance(problem.x, attack(problem, CWL2Config(steps=n))) for n in (60, 600))
    assert (short > 0).all() and (long <= short * 1.001).all() and long.mean() < 0.95 * short.mean()


def test_bad_settings():
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        CWL2Config(rounds=0)
