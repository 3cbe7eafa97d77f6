"""The training state: a pytree of numeric arrays and nothing else (no key, no function, no config).

A stage trains some of the network's parts ("backbone", "projector", "head"); the state holds those, `frozen` the rest,
and `variables` puts both together, so that a network never knows which of its parts are being trained.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from clead_jax.core.batches import example_keys
from clead_jax.core.types import Array, PyTree


class TrainState(flax.struct.PyTreeNode):
    """`step` counts updates; `extra` is what the stage owns besides (see `Extra`)."""

    step: Array
    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree
    extra: PyTree


class Frozen(flax.struct.PyTreeNode):
    """What a step reads and does not train: besides the parts that this stage leaves alone, other stages' variables."""

    variables: PyTree  # the parts of the network this stage leaves alone
    reference: PyTree = None  # what attacks are made on, or measured from
    teacher: PyTree = None  # what losses hold the embeddings against


class Batch(flax.struct.PyTreeNode):
    """Training examples; `index` [B] is their place in the data set and keys their randomness."""

    images: Array  # uint8 [B, H, W, C]
    labels: Array  # int32 [B]; below 0: not known, another number for each image
    index: Array  # int32 [B]
    stored: Array | None = None  # uint8 [B, S, H, W, C], versions of the images that were made before training
    neighbours: Array | None = None  # uint8 [B, H, W, C], for each image one that is near to it


class Resident(NamedTuple):
    """What a stage reads throughout, besides its state: all examples, row by row, on the devices (`supply`)."""

    frozen: Frozen
    images: Array | np.ndarray  # uint8 [N, H, W, C]; on the host perhaps `core.rows.Rows`
    labels: Array | np.ndarray  # int32 [N]
    stored: Array | np.ndarray | None = None  # uint8 [N, S, H, W, C]
    neighbours: Array | np.ndarray | None = None  # int32 [N, K], the rows of the nearest other images


class Extra(NamedTuple):
    """State that a stage owns beside weights and optimizer; it is saved, sharded and resumed like them."""

    init: Callable[[PyTree, PyTree], PyTree] = lambda params, batch_stats: {}  # (params, batch statistics) -> extra
    update: Callable[[PyTree, TrainState], PyTree] = lambda extra, new: {}  # (extra, state after the step) -> changes
    weights: Callable[[PyTree], dict[str, PyTree]] = lambda extra: {}  # extra -> {name: params to evaluate}
    statistics: Callable[[PyTree], dict[str, PyTree]] = lambda extra: {}  # extra -> their batch statistics, if kept


NOTHING = Extra()


def together(*parts: Extra) -> Extra:
    """Several of them as one; no two may have an entry of the same name."""
    joined = lambda values: {name: value for part in values for name, value in part.items()}
    return Extra(
        init=lambda params, batch_stats: joined(part.init(params, batch_stats) for part in parts),
        update=lambda extra, new: joined(part.update(extra, new) for part in parts),
        weights=lambda extra: joined(part.weights(extra) for part in parts),
        statistics=lambda extra: joined(part.statistics(extra) for part in parts),
    )


def split(variables: PyTree, trained: tuple[str, ...], moving: tuple[str, ...] = ()) -> tuple[PyTree, PyTree]:
    """(the `trained` parts, the rest), each {"params", "batch_stats"}; of `moving` parts the statistics alone move."""
    ours = {"params": trained, "batch_stats": trained + moving}
    of = lambda name, mine: {k: v for k, v in variables.get(name, {}).items() if (k in ours[name]) == mine}
    mine, rest = ({name: of(name, own) for name in ours} for own in (True, False))
    return mine, rest


def create(
    variables: PyTree,
    trained: tuple[str, ...],
    tx: optax.GradientTransformation,
    extra: Extra = NOTHING,
    moving: tuple[str, ...] = (),
) -> tuple[TrainState, PyTree]:
    """Step 0 of a stage: a state over the `trained` parts of `variables`, and the frozen rest (see `split`)."""
    (mine, rest), zero = split(variables, trained, moving), jnp.zeros((), jnp.int32)
    kept = extra.init(mine["params"], mine["batch_stats"])
    state = TrainState(zero, opt_state=tx.init(mine["params"]), extra=kept, **mine)
    return state, rest


def variables(params: PyTree, batch_stats: PyTree, rest: PyTree) -> dict[str, Any]:
    """The whole network's variables again."""
    return {"params": {**rest["params"], **params}, "batch_stats": {**rest["batch_stats"], **batch_stats}}


def apply_gradients(
    state: TrainState, tx: optax.GradientTransformation, grads: PyTree, batch_stats: PyTree, extra: Extra = NOTHING
) -> TrainState:
    """One optimizer update; `batch_stats` replace the old ones."""
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    new = state.replace(step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state)
    return new.replace(extra=state.extra | extra.update(state.extra, new))


def gathered(step: Callable) -> Callable:
    """`step(state, frozen, batch, key)` as (state, resident, index [B], key): rows of the fields of a `Resident`.

    The gathering is part of the compiled program; images and labels are arguments, closed over they would be constants.
    A neighbour is drawn anew in every step, by the key of its image.
    """

    def of_rows(state: TrainState, resident: tuple[Any, ...], index: Array, key: Array) -> Any:
        frozen, images, labels, stored, near = Resident(*resident)
        batch = Batch(images[index], labels[index], index, None if stored is None else stored[index])
        if near is not None:
            drawn = lambda key, among: jax.random.choice(jax.random.fold_in(key, 0), among)
            batch = batch.replace(neighbours=images[jax.vmap(drawn)(example_keys(key, index), near[index])])
        return step(state, frozen, batch, key)

    return of_rows
