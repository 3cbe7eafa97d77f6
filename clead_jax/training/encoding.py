"""How a step gets from views to embeddings: who shares BatchNorm's statistics, and which outputs are compared.

An `Encode` runs the backbone over all views of a batch. With "together" they are one batch to BatchNorm, with "apart"
every view is a batch of its own, one after the other, as where clean and attacked images are forwarded separately. A
network with several sets of statistics is one more `Encode`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from clead_jax.core.types import Array, PyTree

Encode = Callable[[Any, PyTree, Array, bool], tuple[Array, PyTree]]
"""(network, variables, views [B, V, H, W, C], train) -> (features [B * V, F], batch statistics afterwards)."""

Outputs = Callable[[PyTree, Array], list[Array]]
"""(variables, features [N, F]) -> what losses of embeddings compare, each [N, D]; `joined` makes one of them."""

PARTS = ("backbone", "projector")


def together(network: Any, variables: PyTree, views: Array, train: bool) -> tuple[Array, PyTree]:
    """All views in one batch."""
    flat = views.reshape(-1, *views.shape[2:])
    mutable = ["batch_stats"] if train else []
    features, new = network.apply(variables, flat, train, method=network.features, mutable=mutable)
    return features, new.get("batch_stats", variables["batch_stats"])


def apart(network: Any, variables: PyTree, views: Array, train: bool) -> tuple[Array, PyTree]:
    """Every view is a batch of its own; the running statistics move once for each, in their order."""
    columns, stats = [], variables["batch_stats"]
    for number in range(views.shape[1]):
        of_one, stats = together(network, {**variables, "batch_stats": stats}, views[:, number : number + 1], train)
        columns.append(of_one)
    return jnp.stack(columns, axis=1).reshape(-1, columns[0].shape[-1]), stats


ENCODERS: dict[str, Encode] = {"together": together, "apart": apart}


def outputs(network: Any, parts: tuple[str, ...]) -> Outputs:
    """The outputs of these parts: of the backbone the features themselves, of the projector its projections."""
    of_part = {
        "backbone": lambda variables, features: features,
        "projector": lambda variables, features: network.apply(variables, features, method=network.project),
    }
    return lambda variables, features: [of_part[part](variables, features) for part in parts]


def joined(embeddings: list[Array]) -> Array:
    """Embeddings [N, D] side by side, so that a cosine of the whole is the mean of their cosines; one alone stays."""
    if len(embeddings) == 1:
        return embeddings[0]
    return jnp.concatenate([z * jax.lax.rsqrt(jnp.sum(z * z, -1, keepdims=True) + 1e-12) for z in embeddings], axis=-1)
