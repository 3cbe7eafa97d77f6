"""Losses on the logits of every view: cross entropy with label smoothing, and TRADES.

Like the contrastive losses they map [B, V, ...] and labels [B] to [B, V], a row of which sums to the loss of its image.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from clead_jax.core import spec
from clead_jax.core.registry import LOSSES
from clead_jax.core.types import Array


@dataclass(frozen=True)
class CrossEntropyConfig:
    """`smoothing`: the probability in [0, 1) that is spread over all classes (arXiv 1512.00567, Sec. 7)."""

    smoothing: float = 0.0

    def __post_init__(self) -> None:
        spec.check_ranges(self, smoothing="[0, 1)")


@dataclass(frozen=True)
class TradesConfig:
    """`beta`: weight of the robust term; 6 on CIFAR-10 (arXiv 1901.08573, Sec. 5.3)."""

    beta: float = 6.0

    def __post_init__(self) -> None:
        spec.check_ranges(self, beta="[0, inf)")


@LOSSES.register("cross_entropy", CrossEntropyConfig, uses_labels=True, of="logits")
def cross_entropy(logits: Array, labels: Array, cfg: CrossEntropyConfig, where: Array | None = None) -> Array:
    """Cross entropy of every view, its mean over views: logits [B, V, K], labels int [B] -> float32 [B, V].

    `where` bool [B]: False takes an image out.
    """
    logits, classes = _masked(logits, where), logits.shape[-1]
    targets = optax.smooth_labels(jax.nn.one_hot(labels, classes), cfg.smoothing)[:, None]
    if cfg.smoothing:
        losses = optax.losses.softmax_cross_entropy(logits, jnp.broadcast_to(targets, logits.shape))
    else:
        labels = jnp.broadcast_to(labels[:, None], logits.shape[:2])
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
    return _masked(losses / logits.shape[1], where)


@LOSSES.register("trades", TradesConfig, uses_labels=True, of="logits")
def trades(logits: Array, labels: Array, cfg: TradesConfig, where: Array | None = None) -> Array:
    """TRADES (Zhang et al. 2019, arXiv 1901.08573, Eq. 5): logits [B, V, K] of a clean view and V - 1 attacked ones.

        cross entropy(clean)  +  beta * mean over attacked views of KL(p(clean) || p(attacked))

    Column 0 is the first part. The attacked views are made with `pgd(objective=kl)`, which maximises the same KL.
    Gradients flow through both sides of it. Raises ValueError for fewer than two views.
    """
    if logits.shape[1] < 2:
        write = "views=clean,pgd(objective=kl)"
        raise ValueError(f"trades needs a clean and an attacked view, not {logits.shape[1]}: {write}")
    logits = _masked(logits, where)
    clean, attacked = jax.nn.log_softmax(logits[:, :1]), jax.nn.log_softmax(logits[:, 1:])
    divergence = jnp.sum(jnp.exp(clean) * (clean - attacked), axis=-1)
    natural = optax.losses.softmax_cross_entropy_with_integer_labels(logits[:, 0], labels)
    return _masked(jnp.concatenate([natural[:, None], cfg.beta * divergence / divergence.shape[1]], axis=1), where)


def _masked(values: Array, where: Array | None) -> Array:
    """`values` [B, ...] without the images that `where` takes out, which may be NaN."""
    return values if where is None else jnp.where(jnp.expand_dims(where, range(1, values.ndim)), values, 0)
