"""The training state: a pytree of numeric arrays and nothing else (no key, no function, no config).

A stage trains some of the network's parts ("backbone", "projector", "head"); the state holds those, `frozen` the rest,
and `variables` puts both together, so that a network never knows which of its parts are being trained.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from clead_jax.core.types import Array, Key, PyTree


class TrainState(flax.struct.PyTreeNode):
    """`step` counts updates; `extra` belongs to whoever adds it (averaged weights, a memory bank ...)."""

    step: Array
    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree
    extra: PyTree


class Frozen(flax.struct.PyTreeNode):
    """What a step reads and does not train. `reference` are the variables of another network (the clean baseline)."""

    images: Any  # uint8 [N, H, W, C], resident on the device
    labels: Any  # int32 [N]
    variables: PyTree  # the parts of the network this stage leaves alone
    reference: PyTree = None


def split(variables: PyTree, trained: tuple[str, ...]) -> tuple[PyTree, PyTree]:
    """(the `trained` parts, the rest), each {"params", "batch_stats"}."""
    mine: PyTree = {"params": {}, "batch_stats": {}}
    rest: PyTree = {"params": {}, "batch_stats": {}}
    for collection in mine:
        for part, leaves in variables.get(collection, {}).items():
            (mine if part in trained else rest)[collection][part] = leaves
    return mine, rest


def create(variables: PyTree, trained: tuple[str, ...], tx: optax.GradientTransformation) -> tuple[TrainState, PyTree]:
    """Step 0 of a stage: a state over the `trained` parts of `variables`, and the frozen rest."""
    mine, rest = split(variables, trained)
    state = TrainState(jnp.zeros((), jnp.int32), opt_state=tx.init(mine["params"]), extra={}, **mine)
    return state, rest


def variables(params: PyTree, batch_stats: PyTree, rest: PyTree) -> dict[str, Any]:
    """The whole network's variables again."""
    return {"params": {**rest["params"], **params}, "batch_stats": {**rest["batch_stats"], **batch_stats}}


def example_keys(key: Key, index: Array) -> Key:
    """One key per example [B], from its place in the data set: the same on any device count and in any batch."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)


def apply_gradients(
    state: TrainState, tx: optax.GradientTransformation, grads: PyTree, batch_stats: PyTree
) -> TrainState:
    """One optimizer update; `batch_stats` replace the old ones."""
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return state.replace(step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state)
