"""Losses on the logits of every view: cross entropy with label smoothing, TRADES and MART.

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


@dataclass(frozen=True)
class MartConfig:
    """`beta`: weight of the divergence; 5 on CIFAR-10 (Wang et al., ICLR 2020, Sec. 4.1)."""

    beta: float = 5.0

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


@LOSSES.register("mart", MartConfig, uses_labels=True, of="logits")
def mart(logits: Array, labels: Array, cfg: MartConfig, where: Array | None = None) -> Array:
    """MART (Wang et al., ICLR 2020, Eq. 10-11): logits [B, V, K] of a clean view and V - 1 attacked ones.

        mean over attacked views of  -log p'_y - log(1 - max_{k != y} p'_k) + beta * KL(p || p') * (1 - p_y)

    with p of the clean view, p' of the attacked one; column 0 is 0. The attack maximises cross entropy. The small
    numbers in logarithms are those of the authors' code, and gradients flow through both sides, as there. Raises
    ValueError for fewer than two views.
    """
    if logits.shape[1] < 2:
        raise ValueError(f"mart needs a clean and an attacked view, not {logits.shape[1]}: write views=clean,pgd")
    logits = _masked(logits, where)
    is_label = labels[:, None, None] == jnp.arange(logits.shape[-1])[None, None]
    log_p, log_attacked = jax.nn.log_softmax(logits[:, :1]), jax.nn.log_softmax(logits[:, 1:])
    p, attacked = jnp.exp(log_p), jnp.exp(log_attacked)
    rival = jnp.max(jnp.where(is_label, 0.0, attacked), axis=-1)
    boosted = -jnp.sum(jnp.where(is_label, log_attacked, 0.0), axis=-1) - jnp.log(1.0001 - rival + 1e-12)
    divergence = jnp.sum(p * (log_p - jnp.log(attacked + 1e-12)), axis=-1)
    unsure = 1.0000001 - jnp.sum(jnp.where(is_label, p, 0.0), axis=-1)
    losses = (boosted + cfg.beta * divergence * unsure) / boosted.shape[1]
    return _masked(jnp.concatenate([jnp.zeros_like(unsure), losses], axis=1), where)


def _masked(values: Array, where: Array | None) -> Array:
    """`values` [B, ...] without the images that `where` takes out, which may be NaN."""
    return values if where is None else jnp.where(jnp.expand_dims(where, range(1, values.ndim)), values, 0)
