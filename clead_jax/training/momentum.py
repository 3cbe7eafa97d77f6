"""A momentum encoder: a copy of the network that follows it slowly and gives the keys of a contrastive loss.

    copy <- decay * copy + (1 - decay) * weights, after every step                (MoCo, arXiv 1911.05722, Eq. 2)

It sees the same views, in train mode with batch statistics of its own, and gets no gradient. It belongs to the stage's
state (`Extra`) and lies in the checkpoint beside the last weights as "momentum". It is what DynACL (arXiv 2303.01289)
evaluates.
"""

from typing import Any

import jax
import jax.numpy as jnp

from clead_jax.core.types import Array, PyTree
from clead_jax.training.encoding import Encode, Outputs
from clead_jax.training.state import NOTHING, Extra, TrainState, variables
from clead_jax.training.step import Keys

NAME = "momentum"


def extra(decay: float) -> Extra:
    """The weights and batch statistics of a momentum encoder; with a decay of 0 there is none."""
    if not decay:
        return NOTHING

    def update(old: PyTree, new: TrainState) -> PyTree:
        follow = lambda kept, now: (decay * kept + (1 - decay) * now).astype(now.dtype)
        return {NAME: old[NAME] | {"params": jax.tree.map(follow, old[NAME]["params"], new.params)}}

    copied = lambda params, stats: jax.tree.map(jnp.array, {"params": params, "batch_stats": stats})
    return Extra(
        init=lambda params, batch_stats: {NAME: copied(params, batch_stats)},
        update=update,
        weights=lambda kept: {NAME: kept[NAME]["params"]},
        statistics=lambda kept: {NAME: kept[NAME]["batch_stats"]},
    )


def keys(network: Any, encode: Encode, compared: Outputs) -> Keys:
    """The keys that it gives, and its statistics after them; views are encoded as those of the network itself."""

    def keys_of(extra: PyTree, rest: PyTree, views: Array) -> tuple[Array, PyTree]:
        kept = extra[NAME]
        merged = variables(kept["params"], kept["batch_stats"], rest)
        _, z, new = encode(network, merged, views, True, compared)
        stats = {part: new[part] for part in kept["batch_stats"]}
        return jax.lax.stop_gradient(z).reshape(*views.shape[:2], -1), extra | {NAME: kept | {"batch_stats": stats}}

    return keys_of
