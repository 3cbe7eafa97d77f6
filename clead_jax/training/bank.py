"""A memory bank: the embeddings of past batches, further negatives of a contrastive loss (arXiv 1805.01978).

A ring of `size` rows: every step writes those of its batch over the oldest. It starts empty, and rows that nothing was
written to are masked. With a momentum encoder it holds its keys, and is the queue of MoCo (arXiv 1911.05722); else the
network's own embeddings as they were. It belongs to the stage's state, `Extra`, and is saved and resumed like it.
"""

import jax.numpy as jnp

from clead_jax.core.types import Array, Metrics, PyTree
from clead_jax.training.state import NOTHING, Extra, TrainState
from clead_jax.training.step import After, Seen, nothing_more

NAME = "bank"


def extra(size: int, dim: int) -> Extra:
    """An empty bank of `size` embeddings [dim]; with a size of 0 there is none."""
    if not size:
        return NOTHING

    def init(params: PyTree, batch_stats: PyTree) -> PyTree:
        whole = lambda *shape: jnp.zeros(shape, jnp.int32)
        return {NAME: {"z": jnp.zeros((size, dim)), "labels": whole(size), "written": whole()}}

    return Extra(init)


def after(size: int) -> After:
    """Writes the embeddings of a step, of all views, after it: the next step is the first that sees them."""
    if not size:
        return nothing_more

    def write(before: TrainState, new: TrainState, seen: Seen) -> tuple[TrainState, Metrics]:
        return new.replace(extra=new.extra | {NAME: written(new.extra[NAME], seen.z, seen.batch.labels)}), {}

    return write


def written(bank: PyTree, z: Array, labels: Array) -> PyTree:
    """The bank with z [B, V, D] and their labels [B] written over its oldest rows; of too many the last stay."""
    size, (batch, views, dim) = len(bank["z"]), z.shape
    rows = min(size, batch * views)
    places = (bank["written"] + jnp.arange(rows)) % size
    return {
        "z": bank["z"].at[places].set(z.reshape(-1, dim)[-rows:]),
        "labels": bank["labels"].at[places].set(jnp.repeat(labels, views)[-rows:]),
        "written": bank["written"] + rows,
    }


def rows(extra: PyTree) -> tuple[Array, Array, Array] | None:
    """(embeddings [M, D], labels [M], which rows hold any, bool [M]) of a state's `extra`; None without a bank."""
    if NAME not in extra:
        return None
    kept = extra[NAME]
    return kept["z"], kept["labels"], jnp.arange(len(kept["z"])) < kept["written"]
