"""Contrastive losses: one masked InfoNCE, and the masks that make it C-LEAD's, SimCLR's or SupCon's.

For an anchor a, candidates C and positives P among them, and similarities s divided by the temperature:

    nce(a) = -1/|P| sum_{p in P} log( exp s_ap / sum_{c in C} exp s_ac )      (SupCon, arXiv 2004.11362, Eq. 2)

`pairing` chooses anchors and candidates:

    "anchor"   anchor: view 0 (clean) of an image; candidates: the views v of all images, for each v    (C-LEAD Eq. 2)
    "simclr_anchor"   the same, and among the candidates also view 0 of all other images: 2 B - 1 terms  (C-LEAD's code)
    "all"      anchors: all views of all images; candidates: all other views of all images              (SimCLR)

and `positives` the positives: views of the same "instance", or of the same "class". SupCon is "all" by "class". A
`margin` m replaces the similarity s of a positive by s - m (as in CosFace, arXiv 1801.09414, Eq. 4). Under a jit
sharded over devices the negatives come from the global batch.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from clead_jax.core import numerics, spec
from clead_jax.core.registry import LOSSES
from clead_jax.core.types import Array


@dataclass(frozen=True)
class ContrastiveConfig:
    """Settings of `info_nce`. Unknown names and numbers out of range raise ValueError.

    `margin`: subtracted from the positives' similarity; at most 2, the range of a cosine, if that is the similarity.
    `weights`: one number >= 0 per anchoring column of [B, V]: all V with "all", else views 1 .. V-1. They are divided
    by their sum; () means equal weights.
    `stop_keys`: candidates get no gradient, anchors alone do, as RoCL's authors ran it.
    """

    temperature: float = 0.1
    similarity: str = "cosine"
    pairing: str = "anchor"
    positives: str = "instance"
    weights: tuple[float, ...] = ()
    margin: float = 0.0
    stop_keys: bool = False

    def __post_init__(self) -> None:
        for field, known in (("similarity", SIMILARITIES), ("pairing", PAIRINGS), ("positives", POSITIVES)):
            if (value := getattr(self, field)) not in known:
                raise ValueError(f"unknown {field} {value!r}: known: {', '.join(known)}")
        if not 0 < self.temperature < np.inf:
            raise ValueError(f"temperature must be positive, not {self.temperature}")
        check_margin(self.margin, 2.0 if self.similarity == "cosine" else np.inf)


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


@LOSSES.register("info_nce", ContrastiveConfig)
@numerics.promotion()
def info_nce(z: Array, labels: Array, cfg: ContrastiveConfig, where: Array | None = None) -> Array:
    """Weighted NCE of every anchor: row i sums to the loss of image i, and sum(result) / B is the batch's.

    With "anchor" and two perturbed views that is C-LEAD's Eq. 2, L(x) = 1/2 [NCE(x, x_1) + NCE(x, x_2)]; column 0 is 0.
    With "all" it is the mean over the B * V anchors.

    Args:
        z: embeddings [B, V, D], of any length.
        labels: int [B]; read only if `cfg.positives` is "class".
        cfg: a wrong number of `weights`, weights without a positive sum, and too few views to form a positive raise
            ValueError.
        where: bool [B]; False removes an image as anchor, positive and negative: divide by sum(where), not by B.

    Returns:
        float32 [B, V], finite for any labels; 0 where there is no anchor or no positive.
    """
    batch, views, _ = z.shape
    shares = _shares(cfg, views)
    where = jnp.ones(batch, bool) if where is None else where
    z = jnp.where(where[:, None, None], z.astype(jnp.float32), 0)  # what is masked may be NaN
    group = labels if cfg.positives == "class" else jnp.arange(batch)
    return PAIRINGS[cfg.pairing](z, group, where, cfg) * shares


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
    if not 0 <= margin <= most or margin == np.inf:
        raise ValueError(f"margin must lie in [0, {most:g}], not {margin}")


def masked_nce(similarity: Array, positives: Array, candidates: Array) -> Array:
    """NCE of each row, averaged over its positives.

    `similarity` float [A, C], temperature included; `positives` and `candidates` bool, broadcast to [A, C]; a positive
    that is no candidate does not count. Returns [A], always finite: 0, with zero gradient, for a row without positives.
    """
    positives = positives & candidates
    partition = jax.nn.logsumexp(jnp.where(candidates, similarity, -jnp.inf), axis=-1)  # -inf if there are none
    return jnp.where(jnp.any(positives, axis=-1), partition - mean_over(positives, similarity), 0)


def mean_over(mask: Array, values: Array) -> Array:
    """Mean of `values` [A, C] over the columns that bool `mask` [A, C] allows -> [A]; 0 where it allows none."""
    return jnp.sum(jnp.where(mask, values, 0), axis=-1) / jnp.maximum(jnp.sum(mask, axis=-1), 1)


def flat_pairs(z: Array, group: Array, where: Array) -> tuple[Array, Array, Array]:
    """All views [B, V, D] as one list of A = B * V: (z [A, D], same group [A, A], unmasked pairs [A, A])."""
    batch, views, dim = z.shape
    group, where = jnp.repeat(group, views), jnp.repeat(where, views)
    pairs = where[:, None] & where & ~jnp.eye(batch * views, dtype=bool)
    return z.reshape(-1, dim), group[:, None] == group, pairs


def _anchor_pairs(z: Array, group: Array, where: Array, cfg: ContrastiveConfig) -> Array:
    positives = (group[:, None] == group) & where[:, None]
    return jax.vmap(lambda view: _nce(z[:, 0], view, positives, where, cfg), in_axes=1, out_axes=1)(z)


def _anchor_pairs_simclr(z: Array, group: Array, where: Array, cfg: ContrastiveConfig) -> Array:
    """As the authors' released losses: SimCLR's loss of two views, of which the clean one alone is the anchor."""
    same, there = group[:, None] == group, where[:, None] & where
    positives = jnp.concatenate([same & there, same & there], axis=1)
    candidates = jnp.concatenate([there & ~jnp.eye(len(z), dtype=bool), there], axis=1)
    nce = lambda view: _nce(z[:, 0], jnp.concatenate([z[:, 0], view]), positives, candidates, cfg)
    return jax.vmap(nce, in_axes=1, out_axes=1)(z)


def _all_pairs(z: Array, group: Array, where: Array, cfg: ContrastiveConfig) -> Array:
    flat, same, pairs = flat_pairs(z, group, where)
    return _nce(flat, flat, same, pairs, cfg).reshape(z.shape[:2])


def _nce(anchors: Array, others: Array, positives: Array, candidates: Array, cfg: ContrastiveConfig) -> Array:
    others = jax.lax.stop_gradient(others) if cfg.stop_keys else others
    similarity = SIMILARITIES[cfg.similarity](anchors, others)
    if cfg.margin:
        similarity = similarity - cfg.margin * positives
    return masked_nce(similarity / cfg.temperature, positives, candidates)


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
PAIRINGS = {"anchor": _anchor_pairs, "simclr_anchor": _anchor_pairs_simclr, "all": _all_pairs}
POSITIVES = ("instance", "class")
