"""Averaged weights: an exponential moving average of every step, or the mean of the last epochs (SWA).

They belong to the stage's state (`Extra`), cost no pass, and lie in the checkpoint beside the last weights, under their
name. Batch statistics do not average: those of averaged weights are estimated anew (`reestimated`).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from clead_jax.core import spec
from clead_jax.core.types import PyTree
from clead_jax.training.state import NOTHING, Extra, TrainState


@dataclass(frozen=True)
class EMA:
    """average <- decay * average + (1 - decay) * weights, after every step (Polyak and Juditsky 1992).

    Early on the decay is (1 + step) / (10 + step) where that is less, so that the initial weights are soon forgotten.
    """

    decay: float = 0.999
    start: ClassVar[float] = 0.0

    def share(self, step: jax.Array, due: jax.Array, taken: jax.Array) -> jax.Array:
        """How much of the new weights goes into the average after `step` steps."""
        return 1 - jnp.minimum(self.decay, (1 + step) / (10 + step))


@dataclass(frozen=True)
class SWA:
    """The mean of the weights at the ends of the epochs from `start` on, a share of the training (arXiv 1803.05407)."""

    start: float = 0.75

    def share(self, step: jax.Array, due: jax.Array, taken: jax.Array) -> jax.Array:
        """1/n for the n-th weights that are taken, else 0; before the first the average follows the weights."""
        return jnp.where(due, 1 / (taken + 1), jnp.where(taken == 0, 1.0, 0.0))


AVERAGES = {"ema": EMA, "swa": SWA}
IMAGES = 2048  # training images that batch statistics are estimated on, at most; ours


def extra(text: str, total_steps: int, steps_per_epoch: int) -> Extra:
    """'ema(decay=0.99)' -> the state that keeps this average; '' -> none. ValueError for another name or setting."""
    if not text:
        return NOTHING
    name, _ = spec.parse(text)
    if name not in AVERAGES:
        raise ValueError(f"unknown average {name!r}; known: {', '.join(AVERAGES)}")
    rule: Any = spec.settings(text, "average", AVERAGES[name], {})
    for setting, value in vars(rule).items():
        if not 0 <= value < 1:
            raise ValueError(f"{text}: {setting} must lie in [0, 1), got {value}")

    def update(old: PyTree, new: TrainState) -> PyTree:
        due = (new.step >= rule.start * total_steps) & (new.step % steps_per_epoch == 0)
        share = rule.share(new.step, due, old["taken"])
        mean = jax.tree.map(lambda a, p: ((1 - share) * a + share * p).astype(p.dtype), old["mean"], new.params)
        return {"mean": mean, "taken": old["taken"] + due}

    return Extra(
        init=lambda params, batch_stats: {"mean": jax.tree.map(jnp.array, params), "taken": jnp.zeros((), jnp.int32)},
        update=update,
        weights=lambda kept: {name: kept["mean"]},
    )


def reestimated(apply: Callable[[PyTree, Any], PyTree], batch_stats: PyTree, batches: Iterable[Any]) -> PyTree:
    """Batch statistics of other weights: the mean of those of some batches, as SWA needs (arXiv 1803.05407, Sec. 3.2).

    `apply(batch_stats, batch)` gives the running statistics after one batch in training mode. They move by a share
    that BatchNorm keeps to itself, linear in old and new, so that two runs, from 0 and from 1, tell the batch's own.
    """
    zeros, ones = jax.tree.map(jnp.zeros_like, batch_stats), jax.tree.map(jnp.ones_like, batch_stats)

    @jax.jit
    def of_batch(batch: Any) -> PyTree:
        from_zero, from_one = apply(zeros, batch), apply(ones, batch)
        return jax.tree.map(lambda low, high: low / (1 - (high - low)), from_zero, from_one)

    total, count = zeros, 0
    for batch in batches:
        total, count = jax.tree.map(jnp.add, total, of_batch(batch)), count + 1
    return jax.tree.map(lambda leaf: leaf / count, total) if count else batch_stats
