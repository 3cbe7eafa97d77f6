"""Which embeddings are anchors, and which candidates each of them is compared with (see `contrastive`)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from clead_jax.core.types import Array

NCE = Callable[[Array, Array, Array, Array], Array]
"""(anchors [A, D], others [C, D], positives [A, C], candidates, broadcast to [A, C]) -> loss of every anchor [A]."""


def flat_pairs(z: Array, group: Array, where: Array) -> tuple[Array, Array, Array]:
    """All views [B, V, D] as one list of A = B * V: (z [A, D], same group [A, A], unmasked pairs [A, A])."""
    batch, views, dim = z.shape
    group, where = jnp.repeat(group, views), jnp.repeat(where, views)
    pairs = where[:, None] & where & ~jnp.eye(batch * views, dtype=bool)
    return z.reshape(-1, dim), group[:, None] == group, pairs


def with_first(z: Array, keys: Array | None, group: Array, where: Array, nce: NCE) -> Array:
    """View 0 against every view v, the v of other images being its negatives; column v of [B, V]."""
    positives = (group[:, None] == group) & where[:, None]
    return _each(z, keys, lambda anchors, own, others: nce(anchors, others, positives, where))


def with_first_simclr(z: Array, keys: Array | None, group: Array, where: Array, nce: NCE) -> Array:
    """As the authors' released losses: SimCLR's loss of two views, of which the clean one alone is the anchor."""
    same, there = group[:, None] == group, where[:, None] & where
    positives = jnp.concatenate([same & there, same & there], axis=1)
    candidates = jnp.concatenate([there & ~jnp.eye(len(z), dtype=bool), there], axis=1)
    two = lambda anchors, own, others: nce(anchors, jnp.concatenate([own, others]), positives, candidates)
    return _each(z, keys, two)


def of_all(z: Array, keys: Array | None, group: Array, where: Array, nce: NCE) -> Array:
    """Every view of every image against all other views of all images, [B, V]."""
    flat, same, pairs = flat_pairs(z, group, where)
    others = flat if keys is None else keys.reshape(flat.shape)
    return nce(flat, others, same, pairs).reshape(z.shape[:2])


def _each(z: Array, keys: Array | None, nce: Callable[[Array, Array, Array], Array]) -> Array:
    """[B, V] of `nce(anchors, keys of the anchors' view, keys of the other one)`; with keys the mean of both ways."""
    if keys is None:
        return jax.vmap(lambda view: nce(z[:, 0], z[:, 0], view), in_axes=1, out_axes=1)(z)
    both = lambda view, key: (nce(z[:, 0], keys[:, 0], key) + nce(view, key, keys[:, 0])) / 2
    return jax.vmap(both, in_axes=1, out_axes=1)(z, keys)


PAIRINGS = {"anchor": with_first, "simclr_anchor": with_first_simclr, "all": of_all}
"""Name -> (views [B, V, D], their keys or None, group int [B], where bool [B], `NCE`) -> [B, V]."""
