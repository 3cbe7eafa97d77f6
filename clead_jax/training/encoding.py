"""How a step gets from views to embeddings: who shares BatchNorm's statistics, and which outputs are compared.

An `Encode` runs the network over all views of a batch. With "together" they are one batch to BatchNorm, with "apart"
every view is a batch of its own, one after the other, as where clean and attacked images are forwarded separately. With
"dual" (ACL, arXiv 2010.13337, Sec. 3) attacked and other views are two batches, and every BatchNorm has a second copy
of scale, bias and statistics for the others: a part of the variables beside the backbone, `NORMS`. The network's own
copies are those of attacked images, so that attacks and evaluation, which know of no second copy, use them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from clead_jax.core import numerics
from clead_jax.core.sharding import AXIS, REPLICATED, SPLIT
from clead_jax.core.types import Array, PyTree

Outputs = Callable[[PyTree, Array, bool], tuple[list[Array], PyTree]]
"""(variables, features [N, F], train) -> (what losses of embeddings compare, each [N, D]; batch statistics of the
projector afterwards, if it has any). `joined` makes one of the list."""

Encode = Callable[[Any, PyTree, Array, bool, Outputs], tuple[Array, Array, PyTree]]
"""(network, variables, views [B, V, H, W, C], train, outputs) -> (features [B * V, F], joined outputs [B * V, D], batch
statistics afterwards)."""

PARTS = ("backbone", "projector")
NORMS = "clean_norms"  # the part that holds the second copies, under the names of the parts that they belong to


def together(
    network: Any, variables: PyTree, views: Array, train: bool, compared: Outputs
) -> tuple[Array, Array, PyTree]:
    """All views in one batch."""
    flat = views.reshape(-1, *views.shape[2:])
    mutable = ["batch_stats"] if train else []
    features, new = network.apply(variables, flat, train, method=network.features, mutable=mutable)
    found, more = compared(variables, features, train)
    stats = {**variables["batch_stats"], **new.get("batch_stats", {}), **more} if train else variables["batch_stats"]
    return features, joined(found), stats


def apart(network: Any, variables: PyTree, views: Array, train: bool, compared: Outputs) -> tuple[Array, Array, PyTree]:
    """Every view is a batch of its own; the running statistics move once for each, in their order."""
    columns, stats = [], variables["batch_stats"]
    for number in range(views.shape[1]):
        now = {**variables, "batch_stats": stats}
        *of_one, stats = together(network, now, views[:, number : number + 1], train, compared)
        columns.append(of_one)
    features, z = (jnp.stack(of, axis=1) for of in zip(*columns, strict=True))
    return _flat(features), _flat(z), stats


def dual(attacked: tuple[bool, ...]) -> Encode:
    """Attacked views in one batch, by the network's own BatchNorm, the others in one by the second copies (`NORMS`)."""
    own, others = np.flatnonzero(attacked), np.flatnonzero(~np.asarray(attacked))
    back = np.argsort(np.concatenate([own, others]))

    def encode(
        network: Any, variables: PyTree, views: Array, train: bool, compared: Outputs
    ) -> tuple[Array, Array, PyTree]:
        *of_own, stats = together(network, variables, views[:, own], train, compared)
        *of_others, second = together(network, clean_route(variables), views[:, others], train, compared)
        cut = lambda of, places: of.reshape(-1, len(places), of.shape[-1])
        pairs = zip(of_own, of_others, strict=True)
        features, z = (jnp.concatenate([cut(a, own), cut(b, others)], axis=1)[:, back] for a, b in pairs)
        return _flat(features), _flat(z), {**stats, NORMS: second} if train else stats

    return encode


def per_device(encode: Encode, mesh: jax.sharding.Mesh | None) -> Encode:
    """The same with BatchNorm's batch statistics of every device's own share; running ones are the mean over devices.

    No layer waits for other devices then. None, or one device: `encode` as it is.
    """
    if mesh is None or mesh.size == 1:
        return encode

    def encoded(
        network: Any, variables: PyTree, views: Array, train: bool, compared: Outputs
    ) -> tuple[Array, Array, PyTree]:
        if not train:
            return encode(network, variables, views, train, compared)

        def of_share(variables: PyTree, views: Array) -> tuple[Array, Array, PyTree]:
            features, z, stats = encode(network, variables, views, train, compared)
            return features, z, jax.lax.pmean(stats, AXIS)

        lying = (SPLIT, SPLIT, REPLICATED)
        return jax.shard_map(of_share, mesh=mesh, in_specs=(REPLICATED, SPLIT), out_specs=lying)(variables, views)

    return encoded


def in_chunks(encode: Encode, count: int, platform: str = "") -> Encode:
    """The same in `count` parts of the batch, one after the other; the gradient computes their activations again.

    Losses see the embeddings of the whole batch, and gradients are those of the whole batch (GradCache, arXiv
    2101.06983: embeddings first, the gradient by them, then that of one part after the other), with the activations of
    one part in memory. BatchNorm alone differs: each part has its own statistics. `count` divides B; every device has
    its share of every part. `platform`: what the program is compiled for (see `numerics.unrolls`).
    """

    def encoded(
        network: Any, variables: PyTree, views: Array, train: bool, compared: Outputs
    ) -> tuple[Array, Array, PyTree]:
        @jax.checkpoint
        def of_part(params: PyTree, stats: PyTree, part: Array) -> tuple[PyTree, tuple[Array, Array]]:
            features, z, new = encode(network, {"params": params, "batch_stats": stats}, part, train, compared)
            return new, (features, z)

        b, v = views.shape[:2]
        parts = jnp.moveaxis(views.reshape(b // count, count, *views.shape[1:]), 1, 0)
        body = lambda stats, part: of_part(variables["params"], stats, part)
        stats, columns = jax.lax.scan(body, variables["batch_stats"], parts, unroll=numerics.unrolls(platform))
        back = lambda of: _flat(jnp.moveaxis(of.reshape(count, b // count, v, -1), 0, 1).reshape(b, v, -1))
        return *map(back, columns), stats

    return encoded if count > 1 else encode


def _flat(columns: Array) -> Array:
    """[B, V, F] -> [B * V, F]."""
    return columns.reshape(-1, columns.shape[-1])


ENCODERS: dict[str, Callable[[tuple[bool, ...]], Encode]] = {
    "together": lambda attacked: together,
    "apart": lambda attacked: apart,
    "dual": dual,
}
"""By their name: (which views are attacked, [V]) -> `Encode`."""


def with_norms(variables: PyTree) -> PyTree:
    """The variables with a second copy of every BatchNorm, equal to the first; those that have one stay as they are."""
    if NORMS in variables["params"]:
        return variables
    stats = variables["batch_stats"]
    layers = {path[:-1] for path in flatten_dict(stats)}
    params = {path: leaf for path, leaf in flatten_dict(variables["params"]).items() if path[:-1] in layers}
    copies = {"params": unflatten_dict(params), "batch_stats": stats}
    return {name: {**variables[name], NORMS: jax.tree.map(jnp.array, copies[name])} for name in copies}


def clean_route(variables: PyTree) -> PyTree:
    """The network by its second copies; one that has none stays as it is."""
    if NORMS not in variables["params"]:
        return variables
    params = {part: leaves for part, leaves in variables["params"].items() if part != NORMS}
    swapped = flatten_dict(params) | flatten_dict(variables["params"][NORMS])
    return {"params": unflatten_dict(swapped), "batch_stats": variables["batch_stats"][NORMS]}


def outputs(network: Any, parts: tuple[str, ...]) -> Outputs:
    """The outputs of these parts: of the backbone the features themselves, of the projector its projections."""

    def projected(variables: PyTree, features: Array, train: bool) -> tuple[Array, PyTree]:
        if not train or "projector" not in variables["batch_stats"]:
            return network.apply(variables, features, method=network.project), {}
        z, new = network.apply(variables, features, True, method=network.project, mutable=["batch_stats"])
        return z, {"projector": new["batch_stats"]["projector"]}

    of_part = {"backbone": lambda variables, features, train: (features, {}), "projector": projected}

    def of(variables: PyTree, features: Array, train: bool) -> tuple[list[Array], PyTree]:
        found = [of_part[part](variables, features, train) for part in parts]
        return [z for z, _ in found], {name: stats for _, more in found for name, stats in more.items()}

    return of


def joined(embeddings: list[Array]) -> Array:
    """Embeddings [N, D] side by side, so that a cosine of the whole is the mean of their cosines; one alone stays."""
    if len(embeddings) == 1:
        return embeddings[0]
    return jnp.concatenate([z * jax.lax.rsqrt(jnp.sum(z * z, -1, keepdims=True) + 1e-12) for z in embeddings], axis=-1)
