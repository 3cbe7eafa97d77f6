"""Answers known without an oracle, and margins that cannot be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clead_jax.losses import SupConConfig, info_nce, supcon
from clead_jax.losses.contrastive import ContrastiveConfig
from clead_jax.losses.margin import (
    CosineConfig,
    HingeConfig,
    PairwiseConfig,
    margin_cosine,
    margin_hinge,
    margin_pairwise,
)

LABELS = jnp.array([0, 0, 1, 1])
ON_AXES = jnp.eye(2)[LABELS][:, None]  # [4, 1, 2]: a class to an axis, so others are at distance sqrt(2) and cosine 0
AT_ONE_POINT = jnp.ones((4, 1, 2))


def mean(losses):
    return float(losses.sum() / 4)


@pytest.mark.parametrize(("margin", "expected"), [(1.0, 0.0), (2.0, (2 - np.sqrt(2)) ** 2)])
def test_pairwise_asks_for_a_distance(margin, expected):
    assert mean(margin_pairwise(ON_AXES, LABELS, PairwiseConfig(margin))) == pytest.approx(expected, abs=1e-5)
    assert mean(margin_pairwise(AT_ONE_POINT, LABELS, PairwiseConfig(margin))) == pytest.approx(margin**2, abs=5e-3)


@pytest.mark.parametrize(("margin", "expected"), [(1.0, 0.0), (1.5, 0.5)])
def test_hinge_asks_for_a_gap_of_cosines(margin, expected):
    assert mean(margin_hinge(ON_AXES, LABELS, HingeConfig(margin))) == pytest.approx(expected, abs=1e-6)
    assert mean(margin_hinge(AT_ONE_POINT, LABELS, HingeConfig(margin))) == pytest.approx(margin, abs=1e-6)


def test_cosine_margin_of_a_perfect_embedding():
    perfect = np.log(1 + 2 * np.exp((0 - (1 - 0.5)) / 0.2))  # one positive, two negatives
    assert mean(margin_cosine(ON_AXES, LABELS, CosineConfig(0.2, 0.5))) == pytest.approx(perfect, rel=1e-5)


def test_a_cosine_margin_of_0_is_supcon_and_supcon_is_a_case_of_the_one_core():
    z = jax.random.normal(jax.random.key(0), (4, 2, 3))
    plain = supcon(z, LABELS, SupConConfig(0.3))
    np.testing.assert_array_equal(margin_cosine(z, LABELS, CosineConfig(0.3, 0.0)), plain)
    general = ContrastiveConfig(0.3, pairing="all", positives="class")
    np.testing.assert_array_equal(info_nce(z, LABELS, general), plain)


def test_supcon_averages_outside_the_log():
    """Of two positives, one near and one far, the far one counts in full; a log of the mean would forget it."""
    z = jnp.array([[1.0, 0], [1, 0], [-1, 0], [0, 1]])[:, None]
    first = float(supcon(z, jnp.array([0, 0, 0, 1]), SupConConfig(1.0))[0, 0])
    partition = np.log(np.exp(1) + np.exp(-1) + 1)
    assert first == pytest.approx(partition - (1 - 1) / 2, rel=1e-5)
    assert first > partition - np.log((np.exp(1) + np.exp(-1)) / 2)


def test_a_larger_class_counts_once_in_the_hinge():
    z = jnp.array([[1.0, 0], [1, 0], [0, 1], [0, 1], [0, 1], [0, 1], [1, 0]])[:, None]
    labels = jnp.array([0, 0, 1, 1, 1, 1, 2])  # class 1 is far from class 0, class 2 on top of it
    assert float(margin_hinge(z, labels, HingeConfig(0.5))[0, 0]) == pytest.approx((0 + 0.5) / 2)


def test_equal_embeddings_of_two_classes_are_not_stuck_in_nan():
    gradient = jax.grad(lambda z: margin_pairwise(z, LABELS, PairwiseConfig()).sum())
    assert np.isfinite(gradient(AT_ONE_POINT)).all() and np.isfinite(gradient(0 * AT_ONE_POINT)).all()


@pytest.mark.parametrize("config", [PairwiseConfig, HingeConfig, CosineConfig, SupConConfig, ContrastiveConfig])
@pytest.mark.parametrize("margin", [-0.1, 2.1, float("nan"), float("inf")])
def test_a_margin_the_form_cannot_have(config, margin):
    with pytest.raises(ValueError, match=rf"^margin must lie in \[0, 2\], not {margin}$"):
        config(margin=margin)


def test_distances_without_a_sphere_have_no_largest_margin():
    assert SupConConfig(similarity="euclidean", margin=3.0).margin == 3
