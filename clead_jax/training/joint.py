"""Joint training in one stage: a weighted sum of losses moves the encoder and both of its heads (arXiv 2412.19747).

    loss = weight_ce * cross entropy(logits) + weight_supcon * supcon(projections) + weight_margin * margin(projections)

Every view is classified, and every view is an anchor whose positives are its class. Views are plain augmentations
("clean", "clean,augmented"), or perturbed versions of the image ("clean,pgd,cw"): then this is adversarial training in
which class and geometry are learnt together.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from clead_jax.core.types import Array, Key, Metrics, PyTree, Step
from clead_jax.training.state import Frozen, TrainState, apply_gradients, example_keys, variables

Term = Callable[[Array, Array, Array], Array]
"""(z [B, V, D], logits [B, V, K], labels [B]) -> scalar."""


def cross_entropy(z: Array, logits: Array, labels: Array) -> Array:
    """The mean over images and views: the term that trains the classifier."""
    labels = jnp.broadcast_to(labels[:, None], logits.shape[:2])
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def make_step(
    network: Any,
    tx: optax.GradientTransformation,
    make_views: Callable[[PyTree, PyTree, Array, Array, Key], Array],
    terms: Mapping[str, tuple[float, Term]],
) -> Step:
    """A `Step` on the sum of weight * term. The metric term_<name> is what a term adds to the loss, weight included."""

    def step(state: TrainState, frozen: Frozen, index: Array, key: Key) -> tuple[TrainState, Metrics]:
        labels = frozen.labels[index]
        now = variables(state.params, state.batch_stats, frozen.variables)
        views = make_views(now, frozen.reference, frozen.images[index], labels, example_keys(key, index))
        b, v = views.shape[:2]
        flat = views.reshape(b * v, *views.shape[2:])

        def loss_fn(params: PyTree) -> tuple[Array, tuple[dict[str, Array], Array, PyTree]]:
            merged = variables(params, state.batch_stats, frozen.variables)
            features, new = network.apply(merged, flat, True, method=network.features, mutable=["batch_stats"])
            z = network.apply(merged, features, method=network.project).reshape(b, v, -1)
            logits = network.apply(merged, features, method=network.classify).reshape(b, v, -1)
            added = {name: weight * term(z, logits, labels) for name, (weight, term) in terms.items()}
            return jnp.stack(list(added.values())).sum(), (added, logits, new["batch_stats"])

        (loss, (added, logits, stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        count = jnp.float32(b)
        metrics = {"loss": (loss * count, count)} | {f"term_{n}": (x * count, count) for n, x in added.items()}
        metrics["train_accuracy"] = ((logits.argmax(-1) == labels[:, None]).sum() / v, count)
        return apply_gradients(state, tx, grads, stats), metrics

    return step
