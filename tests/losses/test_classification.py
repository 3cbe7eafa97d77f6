"""Cross entropy against its definition, and its mask."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_grads

from clead_jax.losses import cross_entropy

LOGITS = jnp.array([[0.0, 0.0, 0.0, 0.0], [1.0, -2.0, 0.5, 3.0]])
LABELS = jnp.array([2, 1])


def test_known_answers():
    surprise = -np.log(np.exp(-2) / np.exp([1, -2, 0.5, 3]).sum())
    np.testing.assert_allclose(cross_entropy(LOGITS, LABELS), [np.log(4), surprise], rtol=1e-6)
    check_grads(lambda z: cross_entropy(z, LABELS), (LOGITS,), order=1, modes="rev", rtol=1e-2)


def test_a_masked_example_has_neither_loss_nor_gradient():
    logits, where = LOGITS.at[1].set(jnp.nan), jnp.array([True, False])
    losses, pull = jax.vjp(lambda z: cross_entropy(z, LABELS, where), logits)
    np.testing.assert_allclose(losses, [np.log(4), 0], rtol=1e-6)
    np.testing.assert_allclose(pull(jnp.ones(2))[0], [[0.25, 0.25, -0.75, 0.25], [0, 0, 0, 0]], rtol=1e-6)
