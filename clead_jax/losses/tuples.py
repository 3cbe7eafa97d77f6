"""Losses of an anchor, its positive and negatives without a softmax over similarities: triplet, and N-pair before it.

The anchor is view 0 of an image, the positive its view v, the negatives the views v of all other images, for each v:
C-LEAD's Eq. 2 with another loss in place of InfoNCE. With d the distance and f the embedding itself,

    triplet   mean over negatives of max(0, margin + d(a, p)^2 - d(a, n)^2), embeddings at length 1
              (FaceNet, arXiv 1503.03832, Sec. 3.1); `hardest` 1: the nearest negative alone, as in arXiv 1703.07737
    n_pair    log(1 + sum over negatives of exp(f_a f_n - f_a f_p)) + l2 / 4 (|f_a|^2 + |f_p|^2)
              (Sohn, NeurIPS 2016); at length 1 and with l2 = 0 it is InfoNCE of temperature 1
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from clead_jax.core import numerics, spec
from clead_jax.core.registry import LOSSES
from clead_jax.core.types import Array
from clead_jax.losses import contrastive, negatives


@dataclass(frozen=True)
class TripletConfig:
    """`margin`: in squared distance, [0, 4]; 0.2 in FaceNet. `hardest`: negatives that count, the nearest; 0: all."""

    margin: float = 0.2
    hardest: int = 0

    def __post_init__(self) -> None:
        spec.check_ranges(self, margin="[0, 4]", hardest="[0, inf)")


@dataclass(frozen=True)
class NPairConfig:
    """`l2`: weight of the squared lengths; the loss alone would let embeddings grow."""

    l2: float = 0.002

    def __post_init__(self) -> None:
        spec.check_ranges(self, l2="[0, inf)")


@LOSSES.register("triplet", TripletConfig, uses_labels=False)
@numerics.promotion()
def triplet(z: Array, labels: Array, cfg: TripletConfig, where: Array | None = None) -> Array:
    """Triplet loss of every pair with view 0: z [B, V, D] -> float32 [B, V], column 0 is 0; labels are not read.

    `where` bool [B]: False takes an image out. 0 where there is no negative. Raises ValueError for one view.
    """

    def of_view(anchors: Array, others: Array, own: Array, there: Array) -> Array:
        a, b = contrastive.on_sphere(anchors), contrastive.on_sphere(others)
        similar = contrastive.inner(a, b)  # d^2 = 2 - 2 cos
        counted = negatives.most_similar(similar, there & ~own, cfg.hardest)
        gap = cfg.margin + 2 * (similar - jnp.sum(jnp.where(own, similar, 0), axis=-1, keepdims=True))
        return contrastive.mean_over(counted, jnp.maximum(gap, 0))

    return _with_first("triplet", of_view, z, where)


@LOSSES.register("n_pair", NPairConfig, uses_labels=False)
@numerics.promotion()
def n_pair(z: Array, labels: Array, cfg: NPairConfig, where: Array | None = None) -> Array:
    """N-pair loss of every pair with view 0, shapes as `triplet`; embeddings of any length."""

    def of_view(anchors: Array, others: Array, own: Array, there: Array) -> Array:
        lengths = jnp.sum(anchors**2, axis=-1) + jnp.sum(others**2, axis=-1)
        return contrastive.masked_nce(contrastive.inner(anchors, others), own, there) + cfg.l2 / 4 * lengths

    return _with_first("n_pair", of_view, z, where)


def _with_first(name: str, of_view: Callable[..., Array], z: Array, where: Array | None) -> Array:
    """[B, V] of `of_view(anchors [B, D], others [B, D], own [B, B], there [B, B])`, the mean over views 1 to V - 1."""
    batch, views = z.shape[:2]
    if views < 2:
        raise ValueError(f"{name} needs at least 2 views, not {views}: write views=clean,pgd")
    where = jnp.ones(batch, bool) if where is None else where
    z = jnp.where(where[:, None, None], z.astype(jnp.float32), 0)
    there, own = where[:, None] & where, jnp.eye(batch, dtype=bool)
    columns = jax.vmap(lambda view: of_view(z[:, 0], view, own, there), in_axes=1, out_axes=1)(z[:, 1:])
    return jnp.pad(columns / (views - 1), ((0, 0), (1, 0)))
