"""Margin losses over class labels: an embedding should be near its own class and a margin away from the others.

Embeddings lie on the unit sphere; every view of every image is an anchor, compared with all other embeddings of the
global batch. With d the distance of two embeddings, cos their cosine and m the margin:

    margin_pairwise   mean over the own class of d^2  +  mean over other classes of max(0, m - d)^2
    margin_cosine     SupCon with m subtracted from the positives' cosines                         (`contrastive`)
    margin_hinge      mean over the other classes k of max(0, m - cos(own class) + cos(class k))

The first is Hadsell et al. (CVPR 2006), `y d^2 + (1 - y) max(0, m - d)^2`, except that the two kinds of pairs are
averaged separately: in a mean over all pairs, pairs of one class (1 in 100 on CIFAR-100) would have little weight, and
the balance would depend on the data set. arXiv 2412.19747 does not print which form it uses.
"""

from dataclasses import dataclass

import jax.numpy as jnp

from clead_jax.core import numerics
from clead_jax.core.registry import LOSSES
from clead_jax.core.types import Array
from clead_jax.losses import contrastive
from clead_jax.losses.pairing import flat_pairs


@dataclass(frozen=True)
class PairwiseConfig:
    """`margin`: the distance in [0, 2] beyond which other classes have no loss; 1 is an angle of 60 degrees."""

    margin: float = 1.0

    def __post_init__(self) -> None:
        contrastive.check_margin(self.margin)


@dataclass(frozen=True)
class HingeConfig:
    """`margin`: by how much, in [0, 2], the mean cosine with the own class must exceed that with any other class."""

    margin: float = 0.5

    def __post_init__(self) -> None:
        contrastive.check_margin(self.margin)


@dataclass(frozen=True)
class CosineConfig:
    """`margin`: in cosine units, [0, 2], before division by the temperature; 0 is SupCon."""

    temperature: float = 0.1
    margin: float = 0.2

    def __post_init__(self) -> None:
        contrastive.SupConConfig(self.temperature, margin=self.margin)


@LOSSES.register("margin_pairwise", PairwiseConfig, uses_labels=True)
@numerics.promotion()
def margin_pairwise(z: Array, labels: Array, cfg: PairwiseConfig, where: Array | None = None) -> Array:
    """Pulls a class together and pushes the others beyond `cfg.margin`.

    z [B, V, D] of any length, labels int [B], where bool [B] (False removes an image) -> float32 [B, V]; a row sums
    to the loss of its image. Finite, with finite gradients, for equal and for zero embeddings. An anchor without
    pairs of one kind has no term of that kind.
    """
    flat, own, other = _prepare(z, labels, where)
    sphere = contrastive.on_sphere(flat)
    distance = -contrastive.negative_euclidean(sphere, sphere)  # at least 0.001, for a finite gradient
    pull = contrastive.mean_over(own, distance**2)
    push = contrastive.mean_over(other, jnp.maximum(cfg.margin - distance, 0) ** 2)
    return _per_view(pull + push, z)


@LOSSES.register("margin_cosine", CosineConfig, uses_labels=True)
@numerics.promotion()
def margin_cosine(z: Array, labels: Array, cfg: CosineConfig, where: Array | None = None) -> Array:
    """SupCon with `cfg.margin` subtracted from the cosines of positives; shapes as there."""
    return contrastive.supcon(z, labels, contrastive.SupConConfig(cfg.temperature, margin=cfg.margin), where)


@LOSSES.register("margin_hinge", HingeConfig, uses_labels=True)
@numerics.promotion()
def margin_hinge(z: Array, labels: Array, cfg: HingeConfig, where: Array | None = None) -> Array:
    """An anchor's mean cosine with its class exceeds that with each other class of the batch by `cfg.margin`.

    Shapes as `margin_pairwise`. Every other class has the same weight, for any number of images. 0 for an anchor
    without another of its class, and if there is no other class.
    """
    flat, own, other = _prepare(z, labels, where)
    cosines, same = contrastive.cosine(flat, flat), (own | jnp.eye(len(flat), dtype=bool)).astype(jnp.float32)
    size = contrastive.inner(other.astype(jnp.float32), same)  # of each column's class, if it is not the row's
    to_class = contrastive.inner(jnp.where(other, cosines, 0), same) / jnp.maximum(size, 1)
    gap = jnp.maximum(cfg.margin - contrastive.mean_over(own, cosines)[:, None] + to_class, 0)
    share = jnp.where(other, 1 / jnp.maximum(size, 1), 0)  # these sum to the number of other classes
    hinge = jnp.sum(share * gap, axis=-1) / jnp.maximum(jnp.sum(share, axis=-1), 1)
    return _per_view(jnp.where(jnp.any(own, axis=-1), hinge, 0), z)


def _prepare(z: Array, labels: Array, where: Array | None) -> tuple[Array, Array, Array]:
    """z [B, V, D] -> (float32 [A, D], pairs of one class [A, A], pairs of two classes [A, A]), A = B * V."""
    where = jnp.ones(len(z), bool) if where is None else where
    z = jnp.where(where[:, None, None], z.astype(jnp.float32), 0)  # what is masked may be NaN
    flat, same, pairs = flat_pairs(z, labels, where)
    return flat, pairs & same, pairs & ~same


def _per_view(losses: Array, z: Array) -> Array:
    """[B * V] -> [B, V], so that a row sums to the mean over its views."""
    batch, views, _ = z.shape
    return losses.reshape(batch, views) / views
