"""Answers known without an oracle, and what a config may say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clead_jax.losses import ContrastiveConfig, info_nce, masked_nce
from clead_jax.losses.contrastive import RoCLConfig, rocl

ALL = ContrastiveConfig(pairing="all")


def batch_loss(z, cfg):
    return float(info_nce(z, jnp.arange(len(z)), cfg).sum() / len(z))


@pytest.mark.parametrize("cfg, candidates", [(ContrastiveConfig(), 8), (ALL, 8 * 3 - 1)])
def test_equal_embeddings_leave_a_guess_among_the_candidates(cfg, candidates):
    assert batch_loss(jnp.ones((8, 3, 4)), cfg) == pytest.approx(np.log(candidates), rel=1e-5)


def test_perfect_embeddings_leave_the_negatives_only():
    z = jnp.repeat(jnp.eye(8)[:, None], 3, axis=1)  # the views of an image agree, images are orthogonal
    assert batch_loss(z, ContrastiveConfig(temperature=0.5)) == pytest.approx(np.log(1 + 7 * np.exp(-2)), rel=1e-5)


def test_equation_2_is_the_mean_over_the_perturbed_views():
    z = jax.random.normal(jax.random.key(0), (8, 3, 4))
    pgd, cw = batch_loss(z[:, :2], ContrastiveConfig()), batch_loss(z[:, ::2], ContrastiveConfig())
    assert batch_loss(z, ContrastiveConfig()) == pytest.approx((pgd + cw) / 2, rel=1e-5)
    assert batch_loss(z, ContrastiveConfig(weights=(3.0, 1.0))) == pytest.approx((3 * pgd + cw) / 4, rel=1e-5)


def test_cosine_ignores_length_and_euclidean_position():
    z = jax.random.normal(jax.random.key(0), (8, 3, 4))
    assert batch_loss(3 * z, ALL) == pytest.approx(batch_loss(z, ALL), rel=1e-5)
    euclidean = ContrastiveConfig(similarity="euclidean")
    assert batch_loss(z + 2, euclidean) == pytest.approx(batch_loss(z, euclidean), rel=1e-4)


def test_a_row_without_positives_costs_nothing():
    similarity, positives = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([[True, False], [False, False]])
    losses, pull = jax.vjp(lambda s: masked_nce(s, positives, jnp.array([True, False])), similarity)
    np.testing.assert_array_equal(losses, 0)
    np.testing.assert_array_equal(pull(jnp.ones(2))[0], 0)


@pytest.mark.parametrize(
    "field, message",
    [
        ({"similarity": "dot"}, "unknown similarity 'dot': known: cosine, euclidean"),
        ({"pairing": "some"}, "unknown pairing 'some': known: anchor, simclr_anchor, all"),
        ({"positives": "none"}, "unknown positives 'none': known: instance, class"),
        ({"temperature": 0.0}, "temperature must lie in \\(0, inf\\), got 0.0"),
        ({"temperature": float("nan")}, "temperature must lie in \\(0, inf\\), got nan"),
    ],
)
def test_a_config_refuses_what_it_does_not_know(field, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        ContrastiveConfig(**field)


@pytest.mark.parametrize("weights", [(1.0,), (0.0, 0.0), (2.0, -1.0), (1.0, float("nan"))])
def test_weights_must_fit_the_views(weights):
    with pytest.raises(ValueError, match="weights must be 2 numbers >= 0, not all 0"):
        batch_loss(jnp.ones((8, 3, 4)), ContrastiveConfig(weights=weights))


@pytest.mark.parametrize("cfg", [ContrastiveConfig(), ALL, ContrastiveConfig(positives="class")])
def test_one_view_holds_no_positive(cfg):
    with pytest.raises(ValueError, match="need at least 2 views, not 1"):
        batch_loss(jnp.ones((8, 1, 4)), cfg)


def test_keys_that_are_stopped_leave_the_gradient_to_the_anchors():
    """The value stays; the gradient is that of rows of similarities whose columns are constants."""
    z = jax.random.normal(jax.random.key(0), (6, 2, 4))
    stopped = ContrastiveConfig(0.5, pairing="all", stop_keys=True)
    free = ContrastiveConfig(0.5, pairing="all")
    assert batch_loss(z, stopped) == batch_loss(z, free)

    def rows(z, keys):
        unit = lambda z: (z / jnp.linalg.norm(z, axis=-1, keepdims=True)).reshape(12, 4)
        similarity = jnp.where(jnp.eye(12, dtype=bool), -jnp.inf, unit(z) @ unit(keys).T / 0.5)
        own = jnp.arange(12) ^ 1  # the other view of the same image
        return -jnp.take_along_axis(jax.nn.log_softmax(similarity), own[:, None], 1).sum() / 12

    gradient = jax.grad(lambda z: info_nce(z, jnp.arange(6), stopped).sum() / 6)(z)
    np.testing.assert_allclose(gradient, jax.grad(rows)(z, z), atol=1e-6)
    assert np.abs(gradient - jax.grad(lambda z: info_nce(z, jnp.arange(6), free).sum() / 6)(z)).max() > 1e-3


def test_rocl_without_its_second_part_is_nt_xent_of_three_views():
    z = jax.random.normal(jax.random.key(0), (6, 3, 4))
    value = lambda **settings: float(rocl(z, jnp.arange(6), RoCLConfig(**settings)).sum() / 6)
    assert value(weight=0.0) == pytest.approx(2 * batch_loss(z, ContrastiveConfig(0.5, pairing="all")), rel=1e-6)
    assert value(weight=1.0) > value(weight=0.0) + 0.1
    with pytest.raises(ValueError, match="two clean views and an attacked one, not 2"):
        rocl(z[:, :2], jnp.arange(6), RoCLConfig())
