"""Losses on logits against loops, and the limits in which they are simpler ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clead_jax.losses.classification import CrossEntropyConfig, TradesConfig, cross_entropy, trades

LOGITS = np.random.default_rng(0).normal(0, 2, (5, 3, 4)).astype(np.float32)
LABELS = np.array([0, 3, 1, 1, 2])


def softmax(z):
    return np.exp(z - z.max()) / np.exp(z - z.max()).sum()


def test_cross_entropy_with_smoothing_in_loops():
    expected = np.zeros((5, 3))
    for image, view in np.ndindex(5, 3):
        target = np.full(4, 0.1 / 4) + 0.9 * (np.arange(4) == LABELS[image])
        expected[image, view] = -(target * np.log(softmax(LOGITS[image, view]))).sum() / 3
    found = cross_entropy(jnp.asarray(LOGITS), jnp.asarray(LABELS), CrossEntropyConfig(0.1))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_trades_in_loops():
    expected = np.zeros((5, 3))
    for image in range(5):
        clean = softmax(LOGITS[image, 0])
        expected[image, 0] = -np.log(clean[LABELS[image]])
        for view in (1, 2):
            attacked = softmax(LOGITS[image, view])
            expected[image, view] = 6.0 * sum(p * np.log(p / q) for p, q in zip(clean, attacked, strict=True)) / 2
    found = trades(jnp.asarray(LOGITS), jnp.asarray(LABELS), TradesConfig())
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_trades_without_beta_is_plain_cross_entropy_on_the_clean_view():
    found = trades(jnp.asarray(LOGITS), jnp.asarray(LABELS), TradesConfig(beta=0.0)).sum(-1)
    plain = cross_entropy(jnp.asarray(LOGITS[:, :1]), jnp.asarray(LABELS), CrossEntropyConfig()).sum(-1)
    np.testing.assert_allclose(found, plain, rtol=1e-6)


def test_trades_moves_the_clean_branch_too():
    robust = lambda z: trades(z, jnp.asarray(LABELS), TradesConfig())[:, 1:].sum()
    gradient = jax.grad(robust)(jnp.asarray(LOGITS))
    assert (np.abs(gradient).max((0, 2)) > 1e-3).all()


def test_no_smoothing_is_the_limit_of_little():
    args = jnp.asarray(LOGITS), jnp.asarray(LABELS)
    little = cross_entropy(*args, CrossEntropyConfig(1e-7))
    np.testing.assert_allclose(cross_entropy(*args, CrossEntropyConfig()), little, rtol=1e-4)


def test_a_masked_image_does_not_count():
    where = jnp.array([True, False, True, True, True])
    for loss, cfg in ((cross_entropy, CrossEntropyConfig()), (trades, TradesConfig())):
        found = loss(jnp.asarray(LOGITS), jnp.asarray(LABELS), cfg, where)
        assert (found[1] == 0).all() and (found[0] != 0).any()


def test_what_cannot_be():
    with pytest.raises(ValueError, match="a clean and an attacked view"):
        trades(jnp.asarray(LOGITS[:, :1]), jnp.asarray(LABELS), TradesConfig())
    with pytest.raises(ValueError, match="beta"):
        TradesConfig(-1.0)
    with pytest.raises(ValueError, match="smoothing"):
        CrossEntropyConfig(1.0)
