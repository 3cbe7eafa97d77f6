"""The supervised step: cross entropy on (perhaps attacked) augmented images.

With every part trained it is the clean baseline, or PGD adversarial training (arXiv 1706.06083); with only the head
trained it is phase 2 of C-LEAD (Sec. 3: the backbone is frozen, a linear layer is trained). One step serves all three.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from clead_jax.core.types import Array, Key, Metrics, PyTree, Step
from clead_jax.training.state import Frozen, TrainState, apply_gradients, example_keys, variables

Augment = Callable[[Key, Array], Array]
"""(keys [B], uint8 [B, H, W, C]) -> floats in [0, 1]."""

Perturb = Callable[[PyTree, Array, Array, Key], Array]
"""(variables, x, labels, keys) -> x_adv."""


def make_step(network: Any, tx: optax.GradientTransformation, augment: Augment, perturb: Perturb | None) -> Step:
    """A `Step` over the parts in the state. BatchNorm trains if the backbone does, and stays in eval mode if not."""

    def step(state: TrainState, frozen: Frozen, index: Array, key: Key) -> tuple[TrainState, Metrics]:
        labels = frozen.labels[index]
        keys = example_keys(key, index)
        x = augment(keys, frozen.images[index])
        if perturb is not None:
            x = perturb(variables(state.params, state.batch_stats, frozen.variables), x, labels, keys)
        train = "backbone" in state.params

        def loss_fn(params: PyTree) -> tuple[Array, tuple[Array, PyTree]]:
            merged = variables(params, state.batch_stats, frozen.variables)
            logits, new = network.apply(
                merged, x, train, method=network.logits, mutable=["batch_stats"] if train else []
            )
            losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), (logits, new.get("batch_stats", state.batch_stats))

        (loss, (logits, batch_stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        batch_stats = {part: batch_stats[part] for part in state.batch_stats}
        count = jnp.float32(labels.size)
        correct = (logits.argmax(-1) == labels).sum()
        return apply_gradients(state, tx, grads, batch_stats), {
            "loss": (loss * count, count),
            "train_accuracy": (correct, count),
        }

    return step
