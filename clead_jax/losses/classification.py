"""Cross entropy, per example and masked: what the supervised reference and the linear probe descend."""

import jax.numpy as jnp
import optax

from clead_jax.types import Array


def cross_entropy(logits: Array, labels: Array, where: Array | None = None) -> Array:
    """Logits [B, K] and labels int [B] -> [B], in nats; 0, with zero gradient, where `where` bool [B] is False."""
    where = jnp.ones(len(labels), bool) if where is None else where
    logits = jnp.where(where[:, None], logits, 0)  # what is masked may be NaN
    return jnp.where(where, optax.softmax_cross_entropy_with_integer_labels(logits, labels), 0)
