import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from clead_jax.attacks.objectives import OBJECTIVES, cross_entropy, fooled, margin
from clead_jax.types import Targeted

LOGITS = jnp.array([[2.0, 1.0, -1.0], [-5.0, -2.0, -3.0]])
LABELS = jnp.array([0, 2])


def test_known_values():
    np.testing.assert_allclose(margin(LOGITS, LABELS), [-1.0, 1.0])  # all logits negative: a mask of zeros would say 3
    np.testing.assert_allclose(
        cross_entropy(LOGITS, LABELS),
        -np.log([np.e**2 / (np.e**2 + np.e + 1 / np.e), 1 / (1 + np.e + np.e**-2)]),
        rtol=1e-6,
    )


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=list(OBJECTIVES))
def test_targeted_is_the_negated_objective_of_the_goal(objective):
    goal = jnp.array([1, 0])
    np.testing.assert_array_equal(objective(LOGITS, Targeted(LABELS, goal)), -objective(LOGITS, goal))
    check_grads(lambda z: objective(z, LABELS), (LOGITS,), order=1, modes=["rev"])


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=list(OBJECTIVES))
def test_excluded_classes_and_huge_logits_stay_finite(objective):
    for logits in (LOGITS.at[:, 0].set(-jnp.inf), 1e4 * LOGITS):
        values, gradient = (
            objective(logits, jnp.array([1, 2])),
            jax.grad(lambda z: objective(z, jnp.array([1, 2])).sum()),
        )
        assert jnp.isfinite(values).all() and jnp.isfinite(gradient(logits)).all()


def test_fooled():
    np.testing.assert_array_equal(fooled(LOGITS, LABELS), [False, True])
    np.testing.assert_array_equal(fooled(LOGITS, Targeted(LABELS, jnp.array([1, 1]))), [False, True])


def test_embeddings_cannot_be_fooled():
    with pytest.raises(ValueError, match=r"float32\[2, 3\]: want int \[B\] or Targeted"):
        fooled(LOGITS, LOGITS)
