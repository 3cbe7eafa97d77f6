"""The ring of past embeddings, and what a step writes into it; parts of a batch; on one device and on eight."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_step_terms import IMAGES, INDEX, LABELS, NETWORK, PARTS, VARIABLES, two_views

from clead_jax.core import sharding
from clead_jax.losses import ContrastiveConfig, info_nce
from clead_jax.losses.contrastive import Bank
from clead_jax.training import bank, encoding, state
from clead_jax.training.step import make_step

BATCH = state.Batch(jnp.asarray(IMAGES)[INDEX], jnp.asarray(LABELS)[INDEX], INDEX)


def test_a_ring_forgets_the_oldest_and_begins_empty():
    kept = bank.extra(5, 1).init(None, None)
    assert bank.rows({}) is None and not bank.rows(kept)[2].any()
    write = lambda kept, *values: {
        "bank": bank.written(kept["bank"], jnp.array(values).reshape(-1, 2, 1), jnp.array([7]))
    }
    once = write(kept, 1.0, 2.0)
    assert bank.rows(once)[0].ravel().tolist() == [1, 2, 0, 0, 0] and bank.rows(once)[1].tolist() == [7, 7, 0, 0, 0]
    assert bank.rows(once)[2].tolist() == [True, True, False, False, False]
    round_again = write(write(once, 3.0, 4.0), 5.0, 6.0)
    assert bank.rows(round_again)[0].ravel().tolist() == [6, 2, 3, 4, 5] and bank.rows(round_again)[2].all()


def test_of_more_rows_than_it_has_the_last_stay():
    kept = bank.extra(3, 1).init(None, None)["bank"]
    full = bank.written(kept, jnp.arange(8.0).reshape(4, 2, 1), jnp.arange(4))
    assert sorted(full["z"].ravel().tolist()) == [5, 6, 7] and sorted(full["labels"].tolist()) == [2, 3, 3]


def steps(count, size=12, parts=1, batch=BATCH, **settings):
    """The states after each of some steps of InfoNCE over all pairs, with a bank."""
    extra, cfg, tx = bank.extra(size, 4), ContrastiveConfig(0.5, pairing="all", **settings), optax.sgd(0.1)

    def terms(now):
        kept = bank.rows(now.extra)
        return {"loss": (1.0, lambda z, _, y: info_nce(z, y, cfg, bank=Bank(*kept) if kept else None).sum(1).mean())}

    encode = encoding.in_chunks(encoding.together, parts)
    step = jax.jit(make_step(NETWORK, tx, two_views, terms, extra=extra, after=bank.after(size), encode=encode))
    now, rest = state.create(VARIABLES, PARTS, tx, extra)
    found = []
    for number in range(count):
        now, _ = step(now, state.Frozen(rest), batch, jax.random.key(number))
        found.append(now)
    return found


def close(a, b, atol=1e-6):
    return jax.tree.all(jax.tree.map(lambda x, y: bool(np.allclose(x, y, atol=atol)), a.params, b.params))


def test_the_first_step_sees_an_empty_bank_and_the_second_a_full_one():
    with_bank, without = steps(2), steps(2, size=0)
    assert close(with_bank[0], without[0]) and not close(with_bank[1], without[1], 1e-5)
    z, labels, filled = bank.rows(with_bank[0].extra)
    views = two_views(None, None, None, BATCH, None).reshape(16, 2, 2, 1)
    embedded = NETWORK.apply(VARIABLES, views, False)[0]
    np.testing.assert_allclose(np.sort(z.ravel()), np.sort(embedded[-12:].ravel()), atol=1e-6)
    assert filled.all() and sorted(labels.tolist()) == sorted(np.repeat(LABELS[:8], 2)[-12:].tolist())


def test_with_keys_it_is_the_queue_of_keys():
    keys_of = lambda extra, rest, views: (jnp.full((8, 2, 4), 7.0), extra)
    term = {"loss": (1.0, lambda z, logits, labels: (z[:, 0] * z[:, 2]).sum())}
    extra, tx = bank.extra(4, 4), optax.sgd(0.1)
    step = make_step(NETWORK, tx, two_views, term, extra=extra, after=bank.after(4), keys_of=keys_of)
    begun, rest = state.create(VARIABLES, PARTS, tx, extra)
    new, _ = jax.jit(step)(begun, state.Frozen(rest), BATCH, jax.random.key(0))
    assert (new.extra["bank"]["z"] == 7).all()


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_of_a_batch_give_the_loss_and_gradient_of_the_whole(parts):
    """On a network without BatchNorm: one step of SGD, and what the bank keeps, row by row."""
    whole, cut = steps(2), steps(2, parts=parts)
    assert close(whole[1], cut[1]) and not close(whole[1], whole[0], 1e-4)
    np.testing.assert_allclose(whole[1].extra["bank"]["z"], cut[1].extra["bank"]["z"], atol=1e-6)


def test_eight_devices_give_the_bank_and_the_gradient_of_one():
    two = state.Batch(*(jnp.concatenate([of, of]) for of in (BATCH.images, BATCH.labels)), jnp.arange(16))
    shared = sharding.put(two, sharding.split(sharding.data_mesh()))
    one, eight = (steps(2, parts=2, batch=batch, beta=1.0, hardest=5)[1] for batch in (two, shared))
    assert len(eight.params["head"]["kernel"].sharding.device_set) == 8 and close(one, eight)
    np.testing.assert_allclose(one.extra["bank"]["z"], eight.extra["bank"]["z"], atol=1e-6)
