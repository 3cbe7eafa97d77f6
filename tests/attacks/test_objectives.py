import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from clead_jax.attacks.objectives import (
    OBJECTIVES,
    OF_EMBEDDINGS,
    cosine_distance,
    cross_entropy,
    dlr,
    fooled,
    margin,
    minimum_margin,
    probability_margin,
    squared_distance,
)
from clead_jax.core.types import Targeted

LOGITS = jnp.array([[2.0, 1.0, -1.0], [-5.0, -2.0, -3.0]])
LABELS = jnp.array([0, 2])


def test_known_values():
    np.testing.assert_allclose(margin(LOGITS, LABELS), [-1.0, 1.0])  # all logits negative: a mask of zeros would say 3
    np.testing.assert_allclose(
        cross_entropy(LOGITS, LABELS),
        -np.log([np.e**2 / (np.e**2 + np.e + 1 / np.e), 1 / (1 + np.e + np.e**-2)]),
        rtol=1e-6,
    )


@pytest.mark.parametrize("objective", [cross_entropy, margin, probability_margin])
def test_targeted_is_the_negated_objective_of_the_goal(objective):
    goal = jnp.array([1, 0])
    np.testing.assert_array_equal(objective(LOGITS, Targeted(LABELS, goal)), -objective(LOGITS, goal))
    check_grads(lambda z: objective(z, LABELS), (LOGITS,), order=1, modes=["rev"])


OF_LOGITS = {name: of for name, of in OBJECTIVES.items() if of not in OF_EMBEDDINGS}


@pytest.mark.parametrize("objective", OF_LOGITS.values(), ids=list(OF_LOGITS))
def test_excluded_classes_and_huge_logits_stay_finite(objective):
    for logits in (LOGITS.at[:, 0].set(-jnp.inf), 1e4 * LOGITS):
        target = logits if objective is OBJECTIVES["kl"] else jnp.array([1, 2])
        values, gradient = objective(logits, target), jax.grad(lambda z, t=target: objective(z, t).sum())
        assert jnp.isfinite(values).all() and jnp.isfinite(gradient(logits)).all()


def test_distances_of_embeddings():
    stay = jnp.array([[3.0, 0.0, 4.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(cosine_distance(LOGITS, stay), [1 - 2 / 5 / np.sqrt(6), 1], rtol=1e-5)
    np.testing.assert_allclose(squared_distance(LOGITS, stay), [27, 38])
    for objective in OF_EMBEDDINGS:
        check_grads(lambda z, of=objective: of(z, stay), (LOGITS,), order=1, modes=["rev"], rtol=1e-2)
        assert jnp.isfinite(jax.grad(lambda z, of=objective: of(z, stay).sum())(0 * LOGITS)).all()
    np.testing.assert_allclose(cosine_distance(LOGITS, 1e4 * LOGITS), [0, 0], atol=1e-6)


def test_dlr():
    np.testing.assert_allclose(dlr(LOGITS, LABELS), [-1 / 3, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(dlr(7 * LOGITS - 3, LABELS), dlr(LOGITS, LABELS), rtol=1e-6)
    np.testing.assert_allclose(dlr(LOGITS, jnp.array([2, 0])), [1.0, 1.0])  # the label ranks third
    check_grads(lambda z: dlr(z, LABELS), (LOGITS,), order=1, modes=["rev"])
    assert jnp.isfinite(jax.grad(lambda z: dlr(z, LABELS).sum())(jnp.zeros((2, 3)))).all()


def test_targeted_dlr():
    logits = jnp.array([[4.0, 1.0, 2.0, 0.0, -9.0]] * 2)
    target = Targeted(jnp.array([0, 0]), jnp.array([2, 4]))
    np.testing.assert_allclose(dlr(logits, target), [-2 / 3.5, -13 / 3.5], rtol=1e-6)
    check_grads(lambda z: dlr(z, target), (logits,), order=1, modes=["rev"])


def test_dlr_needs_classes_to_compare():
    with pytest.raises(ValueError, match="dlr needs 3 classes, the model has 2"):
        dlr(LOGITS[:, :2], LABELS)
    with pytest.raises(ValueError, match="dlr_targeted needs 4 classes, the model has 3"):
        dlr(LOGITS, Targeted(LABELS, LABELS))


def test_fooled():
    np.testing.assert_array_equal(fooled(LOGITS, LABELS), [False, True])
    np.testing.assert_array_equal(fooled(LOGITS, Targeted(LABELS, jnp.array([1, 1]))), [False, True])


def test_embeddings_cannot_be_fooled():
    with pytest.raises(ValueError, match=r"float32\[2, 2\]: want int \[B\] or Targeted"):
        fooled(LOGITS, LOGITS[:, :2])


def test_probability_margin():
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
    np.testing.assert_allclose(
        probability_margin(LOGITS, LABELS), [1 + p[0, 1] - p[0, 0], 1 + p[1, 1] - p[1, 2]], rtol=1e-5
    )
    np.testing.assert_allclose(probability_margin(LOGITS - 7, LABELS), probability_margin(LOGITS, LABELS), rtol=1e-5)


def test_minimum_margin():
    goal = jnp.array([2, 0])
    np.testing.assert_allclose(minimum_margin(LOGITS, Targeted(LABELS, goal)), [-3.0, -2.0])  # whatever class leads
    np.testing.assert_array_equal(minimum_margin(LOGITS, LABELS), margin(LOGITS, LABELS))
    check_grads(lambda z: minimum_margin(z, Targeted(LABELS, goal)), (LOGITS,), order=1, modes=["rev"])


def two_rivals(x):
    """Two wrong classes, one twice as likely at x = 0 and half as steep, which it pulls in opposite directions."""
    return jnp.stack([jnp.full_like(x, 2.0), 3 * x + jnp.log(2.0), -6 * x], axis=-1)


def sure(x):
    """A right class so likely that float32 makes its probability 1."""
    return jnp.stack([25.0 - x, jnp.zeros_like(x), jnp.full_like(x, -30.0)], axis=-1)


@pytest.mark.parametrize(("model", "slope"), [(two_rivals, 3.0), (sure, 1.0)])
def test_the_probability_margin_has_a_gradient_where_cross_entropy_has_none(model, slope):
    x, labels = jnp.zeros(1), jnp.zeros(1, jnp.int32)
    gradient = {of: float(jax.grad(lambda x, of=of: of(model(x), labels)[0])(x)[0]) for of in (cross_entropy, margin)}
    assert abs(gradient[cross_entropy]) < 1e-6 and gradient[margin] == slope
    found = float(jax.grad(lambda x: probability_margin(model(x), labels)[0])(x)[0])
    rival = float(jax.nn.softmax(model(x), -1)[0, 1])
    expected = {two_rivals: 3 * rival, sure: 2 * rival}[model]  # p_label falls by what the rival gains
    assert found == pytest.approx(expected, rel=1e-4) and found > 0
