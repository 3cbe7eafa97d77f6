"""Phase 1 of C-LEAD (Sec. 3, Eq. 2): an image and its perturbed versions share a representation.

The step makes the views with the current network in eval mode, runs the network once on all B * V images, and follows
the gradient of the contrastive loss. A class head learns on the side from gradient-stopped features: it watches (and is
the target of the views under `ascend=online`) and never moves the encoder by its own loss.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from clead_jax.core.types import Array, Key, Metrics, PyTree, Step
from clead_jax.training.state import Frozen, TrainState, apply_gradients, example_keys, variables


def make_step(
    network: Any,
    tx: optax.GradientTransformation,
    make_views: Callable[[PyTree, PyTree, Array, Array, Key], Array],
    contrastive_loss: Callable[[Array, Array], Array],
) -> Step:
    """A `Step` for phase 1. `contrastive_loss`: (z [B, V, D], labels [B]) -> scalar."""

    def step(state: TrainState, frozen: Frozen, index: Array, key: Key) -> tuple[TrainState, Metrics]:
        labels = frozen.labels[index]
        now = variables(state.params, state.batch_stats, frozen.variables)
        views = make_views(now, frozen.reference, frozen.images[index], labels, example_keys(key, index))
        b, v = views.shape[:2]
        flat = views.reshape(b * v, *views.shape[2:])
        view_labels = jnp.repeat(labels, v)

        def loss_fn(params: PyTree) -> tuple[Array, tuple[Array, Array, Array, PyTree]]:
            merged = variables(params, state.batch_stats, frozen.variables)
            features, new = network.apply(merged, flat, True, method=network.features, mutable=["batch_stats"])
            z = network.apply(merged, features, method=network.project)
            logits = network.apply(merged, jax.lax.stop_gradient(features), method=network.classify)
            contrastive = contrastive_loss(z.reshape(b, v, -1), labels)
            online = optax.losses.softmax_cross_entropy_with_integer_labels(logits, view_labels).mean()
            return contrastive + online, (contrastive, online, logits, new["batch_stats"])

        (_, (loss, online, logits, stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        count = jnp.float32(b)
        hits = (logits.argmax(-1) == view_labels).sum() / v
        metrics = {
            "loss": (loss * count, count),
            "online_loss": (online * count, count),
            "online_accuracy": (hits, count),
        }
        return apply_gradients(state, tx, grads, stats), metrics

    return step
