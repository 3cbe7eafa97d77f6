"""Contrastive losses: one masked InfoNCE, and the masks that make it C-LEAD's, SimCLR's or SupCon's.

For an anchor a, candidates C and positives P among them, and similarities s divided by the temperature:

    nce(a) = -1/|P| sum_{p in P} log( exp s_ap / sum_{c in C} exp s_ac )      (SupCon, arXiv 2004.11362, Eq. 2)

`pairing` chooses anchors and candidates:

    "anchor"   anchor: view 0 (clean) of an image; candidates: the views v of all images, for each v    (C-LEAD Eq. 2)
    "simclr_anchor"   the same, and among the candidates also view 0 of all other images: 2 B - 1 terms  (C-LEAD's code)
    "all"      anchors: all views of all images; candidates: all other views of all images              (SimCLR)

and `positives` the positives: views of the same "instance", or of the same "class". SupCon is "all" by "class". A
`margin` m replaces the similarity s of a positive by s - m (as in CosFace, arXiv 1801.09414, Eq. 4). Negatives count
alike, or as in `negatives`. Under a jit sharded over devices they come from the global batch, and from a `Bank` of past
batches where a stage keeps one.

With `keys` (MoCo, arXiv 1911.05722) candidates are a momentum encoder's embeddings of the same views, without gradient.
In pairs with view 0 the other view is then an anchor too, at half the weight: else nothing would move its embedding.
"""

import numbers
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clead_jax.core import numerics, spec
from clead_jax.core.registry import LOSSES
from clead_jax.core.types import Array
from clead_jax.losses import negatives, pairing


class Bank(NamedTuple):
    """Embeddings of past batches: further candidates of every anchor. Those of its class are positives by "class"."""

    z: Array  # [M, D]
    labels: Array  # int [M]
    filled: Array  # bool [M]


@dataclass(frozen=True)
class ContrastiveConfig:
    """Settings of `info_nce`. Unknown names and numbers out of range raise ValueError.

    `margin`: subtracted from the positives' similarity; at most 2, the range of a cosine, if that is the similarity.
    `weights`: one number >= 0 per anchoring column of [B, V]: all V with "all", else views 1 .. V-1. They are divided
    by their sum; () means equal weights.
    `stop_keys`: candidates get no gradient, anchors alone do, as RoCL's authors ran it.
    `keys`: behind the views stand their keys, by a momentum encoder.
    `hardest`, `beta` and `tau_plus`, in [0, 1): how negatives count, see `negatives`; 0, 0, 0 is plain InfoNCE.
    """

    temperature: float = 0.1
    similarity: str = "cosine"
    pairing: str = "anchor"
    positives: str = "instance"
    weights: tuple[float, ...] = ()
    margin: float = 0.0
    stop_keys: bool = False
    keys: bool = False
    hardest: int = 0
    beta: float = 0.0
    tau_plus: float = 0.0

    def __post_init__(self) -> None:
        for field, known in (("similarity", SIMILARITIES), ("pairing", pairing.PAIRINGS), ("positives", POSITIVES)):
            if (value := getattr(self, field)) not in known:
                raise ValueError(f"unknown {field} {value!r}: known: {', '.join(known)}")
        spec.check_ranges(self, temperature="(0, inf)", hardest="[0, inf)", beta="[0, inf)", tau_plus="[0, 1)")
        check_margin(self.margin, 2.0 if self.similarity == "cosine" else np.inf)

    @property
    def log_partition(self) -> negatives.LogPartition:
        """How negatives count."""
        if not self.hardest and is_zero(self.beta) and is_zero(self.tau_plus):
            return negatives.plain
        least = -1 / self.temperature if self.similarity == "cosine" else -np.inf
        return negatives.weighted(self.hardest, self.beta, self.tau_plus, least)


@dataclass(frozen=True)
class SupConConfig:
    """Settings of `supcon`: `ContrastiveConfig` with pairing "all" and positives by class."""

    temperature: float = 0.1
    similarity: str = "cosine"
    margin: float = 0.0

    def __post_init__(self) -> None:
        self.contrastive()

    def contrastive(self) -> ContrastiveConfig:
        """The settings of the general loss."""
        return ContrastiveConfig(self.temperature, self.similarity, "all", "class", margin=self.margin)


@dataclass(frozen=True)
class RoCLConfig:
    """Settings of `rocl`. `weight`: of the second part; 1/256 by the authors. `stop_keys` as in `ContrastiveConfig`."""

    temperature: float = 0.5
    weight: float = 1 / 256
    stop_keys: bool = False

    def __post_init__(self) -> None:
        self.pairs()
        spec.check_ranges(self, weight="[0, inf)")

    def pairs(self) -> ContrastiveConfig:
        """The settings of the general loss."""
        return ContrastiveConfig(self.temperature, pairing="all", stop_keys=self.stop_keys)


@LOSSES.register("info_nce", ContrastiveConfig, uses_labels="positives", bank=True)
@numerics.promotion()
def info_nce(
    z: Array, labels: Array, cfg: ContrastiveConfig, where: Array | None = None, bank: Bank | None = None
) -> Array:
    """Weighted NCE of every anchor: row i sums to the loss of image i, and sum(result) / B is the batch's.

    With "anchor" and two perturbed views that is C-LEAD's Eq. 2, L(x) = 1/2 [NCE(x, x_1) + NCE(x, x_2)]; column 0 is 0.
    With "all" it is the mean over the B * V anchors.

    Args:
        z: embeddings [B, V, D], of any length; with `cfg.keys` [B, 2 V, D], the keys' columns of the result are 0.
        labels: int [B]; read only if `cfg.positives` is "class".
        cfg: a wrong number of `weights`, weights without a positive sum, and too few views to form a positive raise
            ValueError.
        where: bool [B]; False removes an image as anchor, positive and negative: divide by sum(where), not by B.
        bank: further candidates of every anchor.

    Returns:
        float32 [B, V], finite for any labels; 0 where there is no anchor or no positive.
    """
    batch, views = len(z), z.shape[1] // (2 if cfg.keys else 1)
    if cfg.keys and z.shape[1] % 2:
        raise ValueError(f"info_nce needs a key for every view, not {z.shape[1]} of both: leave the teacher out")
    shares = _shares(cfg, views)
    where = jnp.ones(batch, bool) if where is None else where
    z = jnp.where(where[:, None, None], z.astype(jnp.float32), 0)  # what is masked may be NaN
    group = labels if cfg.positives == "class" else jnp.arange(batch)

    def nce(anchors: Array, others: Array, positives: Array, candidates: Array) -> Array:
        if bank is not None:
            same = where[:, None] & (labels[:, None] == bank.labels) & (cfg.positives == "class")
            same = jnp.repeat(same, len(anchors) // batch, axis=0)  # of an image one anchor, or one for every view
            beside = lambda mask, more: jnp.concatenate([jnp.broadcast_to(mask, positives.shape), more], axis=1)
            candidates = beside(candidates, jnp.broadcast_to(bank.filled, same.shape))
            positives, others = beside(positives, same), jnp.concatenate([others, bank.z])
        return _nce(anchors, others, positives, candidates, cfg)

    keys = z[:, views:] if cfg.keys else None
    losses = pairing.PAIRINGS[cfg.pairing](z[:, :views], keys, group, where, nce) * shares
    return jnp.pad(losses, ((0, 0), (0, z.shape[1] - views))) if cfg.keys else losses


@LOSSES.register("supcon", SupConConfig, uses_labels=True)
def supcon(z: Array, labels: Array, cfg: SupConConfig, where: Array | None = None) -> Array:
    """Supervised contrastive loss (arXiv 2004.11362, Eq. 2: 1/|P| outside the log): `info_nce`, all, by class.

    z [B, V, D] and labels [B] -> [B, V]; one view suffices.
    """
    return info_nce(z, labels, cfg.contrastive(), where)


@LOSSES.register("rocl", RoCLConfig, uses_labels=False)
def rocl(z: Array, labels: Array, cfg: RoCLConfig, where: Array | None = None) -> Array:
    """RoCL (Kim et al. 2020, arXiv 2006.07589): z [B, 3, D] of two clean views and an attacked one -> [B, 3].

        sum over both positives of NT-Xent(all three views)  +  weight * NT-Xent(second view, attacked view)

    The authors' code sums over the two positives of an anchor where `info_nce` takes the mean, hence a factor of 2.
    Labels are not read. Raises ValueError for another number of views.
    """
    if z.shape[1] != 3:
        write = "views=augmented,augmented,pgd"
        raise ValueError(f"rocl needs two clean views and an attacked one, not {z.shape[1]} views: {write}")
    beside = info_nce(z[:, 1:], labels, cfg.pairs(), where)
    return 2 * info_nce(z, labels, cfg.pairs(), where) + cfg.weight * jnp.pad(beside, ((0, 0), (1, 0)))


def check_margin(margin: float, most: float = 2.0) -> None:
    """Raises ValueError for a margin outside [0, most]. On the unit sphere nothing differs by more than 2."""
    if isinstance(margin, numbers.Real) and not (0 <= margin <= most and margin < np.inf):
        raise ValueError(f"margin must lie in [0, {most:g}], not {margin}")


def masked_nce(
    similarity: Array,
    positives: Array,
    candidates: Array,
    log_partition: negatives.LogPartition = negatives.plain,
) -> Array:
    """NCE of each row, averaged over its positives; `log_partition` says how its negatives count.

    `similarity` float [A, C], temperature included; `positives` and `candidates` bool, broadcast to [A, C]; a positive
    that is no candidate does not count. Returns [A], always finite: 0, with zero gradient, for a row without positives.
    """
    positives = positives & candidates
    partition = log_partition(similarity, positives, candidates & ~positives)
    return jnp.where(jnp.any(positives, axis=-1), partition - mean_over(positives, similarity), 0)


def mean_over(mask: Array, values: Array) -> Array:
    """Mean of `values` [A, C] over the columns that bool `mask` [A, C] allows -> [A]; 0 where it allows none."""
    return jnp.sum(jnp.where(mask, values, 0), axis=-1) / jnp.maximum(jnp.sum(mask, axis=-1), 1)


def _nce(anchors: Array, others: Array, positives: Array, candidates: Array, cfg: ContrastiveConfig) -> Array:
    others = jax.lax.stop_gradient(others) if cfg.stop_keys else others
    similarity = SIMILARITIES[cfg.similarity](anchors, others)
    if not is_zero(cfg.margin):
        similarity = similarity - cfg.margin * positives
    return masked_nce(similarity / cfg.temperature, positives, candidates, cfg.log_partition)


def is_zero(setting: float | Array) -> bool:
    """Whether a setting is the number 0; a traced one may become another."""
    return isinstance(setting, numbers.Real) and setting == 0


def _shares(cfg: ContrastiveConfig, views: int) -> np.ndarray:
    """The weight of each column of [B, V], summing to 1."""
    if views < 2 and (cfg.pairing, cfg.positives) != ("all", "class"):
        raise ValueError(f"{cfg.pairing!r} pairs with positives by {cfg.positives} need at least 2 views, not {views}")
    skipped = 0 if cfg.pairing == "all" else 1
    weights = np.array(cfg.weights or (1.0,) * (views - skipped), np.float32)
    if len(weights) != views - skipped or not (weights.min() >= 0 and 0 < weights.sum() < np.inf):
        raise ValueError(f"weights must be {views - skipped} numbers >= 0, not all 0, not {cfg.weights}")
    return np.pad(weights / weights.sum(), (skipped, 0))


def cosine(a: Array, b: Array) -> Array:
    """Cosines of a [A, D] with b [C, D] -> [A, C] in [-1, 1]. A zero vector gives 0 and a finite gradient."""
    return inner(on_sphere(a), on_sphere(b))


def on_sphere(z: Array) -> Array:
    """z [A, D] at length 1; a zero vector stays one, with a finite gradient."""
    return z * jax.lax.rsqrt(jnp.sum(z * z, axis=-1, keepdims=True) + 1e-12)


def negative_euclidean(a: Array, b: Array) -> Array:
    """Minus the distances of a [A, D] to b [C, D] -> [A, C]. Equal vectors give about -0.001 and a finite gradient.

    By |a|^2 + |b|^2 - 2ab, without an array [A, C, D]; distances below 0.001 |a| are lost in rounding.
    """
    squared = jnp.sum(a * a, axis=-1)[:, None] + jnp.sum(b * b, axis=-1) - 2 * inner(a, b)
    return -jnp.sqrt(jnp.maximum(squared, 0) + 1e-6)


def inner(a: Array, b: Array) -> Array:
    """a b^T in full float32: TF32, a GPU's default, has errors of 0.01 after division by the temperature."""
    return jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)


SIMILARITIES = {"cosine": cosine, "euclidean": negative_euclidean}
POSITIVES = ("instance", "class")
