"""SCAN: neighbours are to fall into one cluster, and all clusters are to be used (arXiv 2005.12320)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from clead_jax.core import spec
from clead_jax.core.registry import LOSSES
from clead_jax.core.types import Array

_LEAST = 1e-8  # of a probability inside the logarithm of the entropy, as in the authors' code


@dataclass(frozen=True)
class ScanConfig:
    """`entropy`: weight of the entropy of the clusters' sizes; 5 in the paper (Sec. 3.1)."""

    entropy: float = 5.0

    def __post_init__(self) -> None:
        spec.check_ranges(self, entropy="[0, inf)")


@LOSSES.register("scan", ScanConfig, uses_labels=False, of="logits")
def scan(logits: Array, labels: Array, cfg: ScanConfig, where: Array | None = None) -> Array:
    """SCAN (Van Gansbeke et al. 2020, arXiv 2005.12320, Eq. 2): logits [B, V, K] of an image and V - 1 neighbours.

        mean over neighbours of -log <p, p'>  -  entropy * H(mean over images of p)

    with p, p' the softmax of both over the K clusters and H(q) = -sum_k q_k log q_k. The second part is column 0, the
    same for every image. Labels are not read. `where` bool [B]: False takes an image out. Raises ValueError for fewer
    than two views.
    """
    if logits.shape[1] < 2:
        raise ValueError(f"scan needs an image and its neighbour, not {logits.shape[1]} view: write clean,neighbour")
    there = jnp.ones(len(logits), bool) if where is None else where
    log_p = jax.nn.log_softmax(jnp.where(there[:, None, None], logits.astype(jnp.float32), 0))
    apart = -jax.nn.logsumexp(log_p[:, :1] + log_p[:, 1:], axis=-1)
    share = jnp.where(there[:, None], jnp.exp(log_p[:, 0]), 0).sum(0) / jnp.maximum(there.sum(dtype=jnp.float32), 1)
    entropy = -(share * jnp.log(jnp.maximum(share, _LEAST))).sum()
    even = jnp.broadcast_to(-cfg.entropy * entropy, (len(logits), 1))
    return jnp.where(there[:, None], jnp.concatenate([even, apart / apart.shape[1]], axis=1), 0)
