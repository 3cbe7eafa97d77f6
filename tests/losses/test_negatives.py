"""How negatives count, further ones from a bank, and the losses without a softmax: answers known without an oracle."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clead_jax.core.registry import LOSSES
from clead_jax.losses import ContrastiveConfig, info_nce, negatives
from clead_jax.losses.contrastive import Bank
from clead_jax.losses.tuples import NPairConfig, TripletConfig, n_pair, triplet

Z, LABELS = jax.random.normal(jax.random.key(0), (6, 3, 4)), jnp.array([0, 1, 0, 1, 2, 2])
UNIT = Z / jnp.linalg.norm(Z, axis=-1, keepdims=True)
PAST = Bank(jax.random.normal(jax.random.key(1), (5, 4)), jnp.array([0, 0, 1, 3, 3]), jnp.arange(5) < 3)


@functools.cache
def compiled(**settings):
    """(z, bank, moving settings) -> mean loss, its gradient by z, and the losses."""

    def value(z, bank, moving):
        losses = info_nce(z, LABELS, dataclasses.replace(ContrastiveConfig(**settings), **moving), bank=bank)
        return losses.sum() / len(z), losses

    return jax.jit(jax.value_and_grad(value, has_aux=True))


def loss(bank=None, z=Z, moving=(), **settings):
    return float(compiled(**settings)(z, bank, dict(moving))[0][0])


@pytest.mark.parametrize("pairing", ["anchor", "all"])
def test_in_its_limit_every_setting_is_plain_info_nce(pairing):
    plain, weighed = loss(pairing=pairing), lambda **moving: loss(moving=moving, pairing=pairing)
    assert loss(pairing=pairing, hardest=100) == pytest.approx(plain, rel=1e-4)
    assert weighed(beta=0.0, tau_plus=0.0) == pytest.approx(plain, rel=1e-4)
    fewer, harder, fair = (
        loss(pairing=pairing, hardest=1),
        weighed(beta=1.0, tau_plus=0.0),
        weighed(beta=0.0, tau_plus=0.3),
    )
    assert fewer < plain < harder and abs(fair - plain) > 0.01


def test_the_weight_of_hard_negatives_and_the_share_of_false_ones_by_hand():
    """One positive and two negatives, whose exponentials are 4, 1 and 3."""
    similarity, positives = jnp.log(jnp.array([[4.0, 1.0, 3.0]])), jnp.array([[True, False, False]])
    of = lambda *given: float(jnp.exp(negatives.weighted(*given)(similarity, positives, ~positives)[0]))
    assert of(0, 0.0, 0.0, -jnp.inf) == pytest.approx(4 + 2 * 2)
    assert of(1, 0.0, 0.0, -jnp.inf) == pytest.approx(4 + 3)
    assert of(0, 1.0, 0.0, -jnp.inf) == pytest.approx(4 + 2 * (1 * 1 + 3 * 3) / 4)
    assert of(0, 0.0, 0.25, -jnp.inf) == pytest.approx(4 + 2 * (2 - 0.25 * 4) / 0.75)
    assert of(0, 0.0, 0.5, jnp.log(0.5)) == pytest.approx(4 + 2 * 0.5)  # 2 - 2 is below the lowest there is


def test_rows_of_a_bank_are_negatives_and_those_that_are_not_filled_are_nothing():
    assert loss(PAST._replace(filled=jnp.zeros(5, bool))) == pytest.approx(loss(), rel=1e-6)
    past = PAST.z[:3] / jnp.linalg.norm(PAST.z[:3], axis=-1, keepdims=True)
    there = jnp.einsum("id,jvd->vij", UNIT[:, 0], UNIT[:, 1:]) / 0.1
    before = jnp.broadcast_to(UNIT[:, 0] @ past.T / 0.1, (2, 6, 3))
    own = jnp.diagonal(there, axis1=1, axis2=2)
    expected = jax.nn.logsumexp(jnp.concatenate([there, before], axis=-1), axis=-1) - own
    assert loss(PAST) == pytest.approx(float(expected.mean()), rel=1e-5)


@pytest.mark.parametrize("pairing", ["anchor", "all"])
def test_by_class_rows_of_a_bank_are_positives_too(pairing):
    one = Bank(UNIT[:1, 0], LABELS[:1], jnp.ones(1, bool))  # as near to an image of its class as can be
    other = one._replace(labels=LABELS[:1] + 7)
    own, others = (compiled(pairing=pairing, positives="class")(Z, bank, {})[0][1] for bank in (one, other))
    assert own[0].sum() < others[0].sum()
    np.testing.assert_allclose(own[1], others[1], rtol=1e-5)  # of another class, to which it is no positive


def test_keys_alone_are_compared_with_and_every_view_is_an_anchor():
    both = jnp.concatenate([Z, jax.random.normal(jax.random.key(2), Z.shape)], axis=1)
    _, gradient = compiled(keys=True)(both, None, {})
    assert (jnp.abs(gradient[:, :3]).sum((0, 2)) > 1e-3).all()  # of attacked views too
    same = jnp.concatenate([Z, Z], axis=1)
    assert loss(z=same, keys=True, pairing="all") == pytest.approx(loss(pairing="all"), rel=1e-6)
    with pytest.raises(ValueError, match="needs a key for every view, not 5 of both: leave the teacher out"):
        info_nce(both[:, 1:], LABELS, ContrastiveConfig(keys=True))


def test_n_pair_of_unit_vectors_is_info_nce_of_temperature_1():
    value = n_pair(3 * UNIT, LABELS, NPairConfig(l2=0.0)).sum() / 6
    assert float(n_pair(UNIT, LABELS, NPairConfig(l2=0.0)).sum() / 6) == pytest.approx(loss(temperature=1.0), rel=1e-5)
    assert float(n_pair(3 * UNIT, LABELS, NPairConfig(l2=2.0)).sum() / 6) == pytest.approx(float(value) + 9.0, rel=1e-5)


def test_triplet_is_0_beyond_the_margin_and_the_hardest_is_the_worst():
    apart = jnp.repeat(jnp.eye(6)[:, None], 2, axis=1)  # squared distances 0 and 2
    of = lambda **settings: float(triplet(apart, LABELS, TripletConfig(**settings)).sum() / 6)
    assert of(margin=2.0) == 0 and of(margin=3.0) == pytest.approx(1.0)
    every, hardest = (triplet(Z, LABELS, TripletConfig(1.0, k)).sum(1) for k in (0, 1))
    assert (hardest >= every - 1e-6).all() and float(hardest.sum()) > float(every.sum()) + 0.1


def test_a_loss_says_whether_it_reads_a_bank():
    assert [name for name in LOSSES if LOSSES[name].info.get("bank")] == ["info_nce"]
    with pytest.raises(ValueError, match=r"tau_plus must lie in \[0, 1\), got 1.0"):
        ContrastiveConfig(tau_plus=1.0)
