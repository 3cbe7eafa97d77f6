"""Losses of two clean and two attacked views: ACL, DynACL and AIR.

    acl:   (1 - v)/2 NT-Xent(clean pair)  +  (1 + v)/2 NT-Xent(attacked pair),    v = shift * (1 - strength)
    air:   2 acl  +  standard * SIR  +  robust * AIR

ACL with two streams (Jiang et al. 2020, arXiv 2010.13337, Sec. 3): shift 0. DynACL (Luo et al. 2023, arXiv 2303.01289):
shift 2/3, the strength that of the augmentation, which falls from 1, and the keys of a momentum encoder. AIR (Xu et al.
2023, arXiv 2305.00374): the same weights, and two regularisers. With q(a, b) the softmax over the images k of a batch
of cosine(a_k, b_k) / temperature, clean views x1 and x2, attacked ones x1' and x2', and o, the image not augmented:

    SIR:  q1 = q(x1, o),               q2 = q(x2, o)
    AIR:  q1 = q(x1', x1) q(x1', o),   q2 = q(x2', x2) q(x2', o)

"paper": the divergence sum_k q2 (log q2 - log q1), where the products are made to sum to 1. "released": that of the
authors' code, sum_k q2 (log q2 - q1), a probability where a logarithm belongs, and products as they are; the published
number was reached with it.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from clead_jax.core import numerics, spec
from clead_jax.core.registry import LOSSES
from clead_jax.core.types import Array
from clead_jax.losses.contrastive import cosine, masked_nce, on_sphere
from clead_jax.losses.pairing import flat_pairs

FORMS = ("released", "paper")


@dataclass(frozen=True)
class ACLConfig:
    """Settings of `acl`. `shift` in [0, 1]: by how much weight moves from the clean to the attacked pair.

    `strength`: of the augmentation; a stage sets it in every step. `keys`: behind the views stand their keys, by a
    momentum encoder, that anchors are compared with. Numbers out of range raise ValueError.
    """

    temperature: float = 0.5
    shift: float = 0.0
    strength: float = 1.0
    keys: bool = False

    def __post_init__(self) -> None:
        spec.check_ranges(self, temperature="(0, inf)", shift="[0, 1]", strength="[0, 1]")


@dataclass(frozen=True)
class AIRConfig:
    """Settings of `air`: as `ACLConfig`, the form of the regularisers, their weights."""

    temperature: float = 0.5
    shift: float = 2 / 3
    strength: float = 1.0
    air_form: str = "released"  # or "paper"
    standard: float = 0.5
    robust: float = 0.5

    def __post_init__(self) -> None:
        self.acl()
        spec.check_ranges(self, standard="[0, inf)", robust="[0, inf)")
        if self.air_form not in FORMS:
            raise ValueError(f"unknown air_form {self.air_form!r}: known: {', '.join(FORMS)}")

    def acl(self) -> ACLConfig:
        """The settings of the part that is `acl`."""
        return ACLConfig(self.temperature, self.shift, self.strength)


@LOSSES.register("acl", ACLConfig, uses_labels=False, views=4)
@numerics.promotion()
def acl(z: Array, labels: Array, cfg: ACLConfig, where: Array | None = None) -> Array:
    """ACL and DynACL: z [B, V, D], two clean views first, two attacked ones last -> float32 [B, V]; no labels.

    Views between them have columns of 0. With `cfg.keys` z is [B, 2 V, D], and the keys' columns are 0. NT-Xent: every
    embedding is an anchor, the other one of its image the positive, all but itself candidates. `where` bool [B]: False
    takes an image out. Raises ValueError for fewer than four views.
    """
    views = z.shape[1] // (2 if cfg.keys else 1)
    if views < 4:
        raise ValueError(f"acl needs two clean and two attacked views, not {views}: write augmented,augmented,pgd,pgd")
    where = jnp.ones(len(z), bool) if where is None else where
    z = jnp.where(where[:, None, None], z.astype(jnp.float32), 0)
    moved = cfg.shift * (1 - cfg.strength)
    columns = jnp.zeros(z.shape[:2])
    for share, pair in (((1 - moved) / 2, slice(0, 2)), ((1 + moved) / 2, slice(views - 2, views))):
        keys = z[:, views:][:, pair] if cfg.keys else z[:, pair]
        columns = columns.at[:, pair].set(share * _nt_xent(z[:, pair], keys, where, cfg.temperature))
    return columns


@LOSSES.register("air", AIRConfig, uses_labels=False, views=5)
@numerics.promotion()
def air(z: Array, labels: Array, cfg: AIRConfig, where: Array | None = None) -> Array:
    """AIR: z [B, 5, D] of two clean views, the image not augmented, two attacked views -> float32 [B, 5]; no labels.

    Of the regularisers, sums over the batch as in the authors' code, image k has its share, in the middle column.
    `where` as in `acl`. Raises ValueError for another number of views.
    """
    if z.shape[1] != 5:
        write = "views=augmented,augmented,augmented(crop_padding=0,flip=false),pgd,pgd"
        raise ValueError(
            f"air needs two clean views, the plain image and two attacked views, not {z.shape[1]}: {write}"
        )
    where = jnp.ones(len(z), bool) if where is None else where
    z = jnp.where(where[:, None, None], z.astype(jnp.float32), 0)
    unit = on_sphere(z)

    def q(a: int, b: int) -> Array:
        """log q(a, b), [B]."""
        similar = jnp.sum(unit[:, a] * unit[:, b], axis=-1) / cfg.temperature
        return _log_softmax(similar, where)

    standard = _divergence(q(0, 2), q(1, 2), where, cfg.air_form)
    robust = _divergence(q(3, 0) + q(3, 2), q(4, 1) + q(4, 2), where, cfg.air_form)
    columns = 2 * acl(z, labels, cfg.acl(), where)
    return columns.at[:, 2].add(jnp.sum(where) * (cfg.standard * standard + cfg.robust * robust))


def _nt_xent(anchors: Array, keys: Array, where: Array, temperature: float) -> Array:
    """Both [B, 2, D] -> [B, 2], a row of which sums to the mean over the two anchors of an image."""
    flat, same, pairs = flat_pairs(anchors, jnp.arange(len(anchors)), where)
    similarity = cosine(flat, keys.reshape(flat.shape)) / temperature
    return masked_nce(similarity, same, pairs).reshape(anchors.shape[:2]) / 2


def _divergence(log_q1: Array, log_q2: Array, where: Array, form: str) -> Array:
    """The share of every image, [B], from logarithms [B]."""
    if form == "paper":
        log_q1, log_q2 = _log_softmax(log_q1, where), _log_softmax(log_q2, where)
    q2 = jnp.exp(log_q2)
    return jnp.where(where, q2 * (log_q2 - (log_q1 if form == "paper" else jnp.exp(log_q1))), 0)


def _log_softmax(values: Array, where: Array) -> Array:
    """Over the images that `where` [B] leaves; 0 for the others."""
    total = jax.nn.logsumexp(jnp.where(where, values, -1e30))
    return jnp.where(where, values - total, 0)
