"""How negatives count in InfoNCE: all alike, the hardest alone, by their hardness, or corrected for false ones.

For an anchor with similarities s (over the temperature) to its positives p and its N negatives n, InfoNCE has the
denominator  sum_p exp s_p + N g  with g the mean of exp s_n. Each setting changes g:

    hardest    the mean over the `hardest` most similar negatives alone, which are then the N
    beta       the mean with weights in proportion to exp(beta s_n)             (Robinson et al. 2021, arXiv 2010.04592)
    tau_plus   with this probability a negative is of the anchor's own class, unseen: that share is subtracted,
               max( (g - tau_plus * mean of exp s_p) / (1 - tau_plus), exp(least) ),  `least` the lowest similarity
               there is                                                         (Chuang et al. 2020, arXiv 2007.00224)

With 0 each is off. Together they apply in this order; beta with tau_plus is the loss of Robinson et al. Gradients flow
through the weights, as in the authors' code.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from clead_jax.core.types import Array

LogPartition = Callable[[Array, Array, Array], Array]
"""(similarity [A, C], positives [A, C], negatives [A, C]) -> logarithm of the denominator [A]."""


def weighted(hardest: int, beta: float | Array, tau_plus: float | Array, least: float | Array) -> LogPartition:
    """The `LogPartition` of these settings; `least` is a lower bound of all similarities, -inf if there is none.

    Finite, with finite gradients, for a row without positives or negatives, and in float32 for any similarities.
    """

    def log_partition(similarity: Array, positives: Array, negatives: Array) -> Array:
        negatives = most_similar(similarity, negatives, hardest)
        highest = jnp.max(similarity, axis=-1, initial=-1e30, where=positives | negatives)
        highest = jax.lax.stop_gradient(jnp.maximum(highest, -1e30))[:, None]
        of = lambda mask: jnp.where(mask, jnp.exp(jnp.where(mask, similarity - highest, 0)), 0)
        count = jnp.sum(negatives, axis=-1)
        weights = jax.nn.softmax(jnp.where(negatives, beta * similarity, -1e30), axis=-1)
        mean = jnp.sum(weights * of(negatives), axis=-1)
        pulled = jnp.sum(of(positives), axis=-1)
        own = pulled / jnp.maximum(jnp.sum(positives, axis=-1), 1)
        corrected = jnp.maximum((mean - tau_plus * own) / (1 - tau_plus), jnp.exp(least - highest[:, 0]))
        total = pulled + count * corrected
        return highest[:, 0] + jnp.log(jnp.where(total > 0, total, 1))

    return log_partition


def plain(similarity: Array, positives: Array, negatives: Array) -> Array:
    """The `LogPartition` of InfoNCE: every candidate counts once; -inf if there are none."""
    return jax.nn.logsumexp(jnp.where(positives | negatives, similarity, -jnp.inf), axis=-1)


def most_similar(similarity: Array, negatives: Array, count: int) -> Array:
    """bool [A, C]: those of the `negatives` [A, C] that are no less similar than the `count`-th; with 0 all of them."""
    if not count:
        return negatives
    among = jax.lax.stop_gradient(jnp.where(negatives, similarity, -jnp.inf))
    last = jax.lax.top_k(among, min(count, among.shape[-1]))[0][:, -1:]
    return negatives & (among >= last)
