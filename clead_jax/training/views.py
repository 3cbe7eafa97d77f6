"""Perturbation views: versions of one image, stacked [B, V, H, W, C] (batch first: other orders get replicated).

What the attacks climb is a switch the paper leaves open, and it is nothing but a choice of classifier:
  contrastive  instance discrimination: "logits" are the similarities of a perturbed image to every clean image of the
               batch over the temperature, its "label" is its own row. No class label is used. Cross entropy of these
               logits is InfoNCE, and the C&W margin is the gap to the nearest other image.
  online       the class head that is trained on the current encoder beside it (gradient-stopped into it)
  baseline     the frozen, cleanly trained network
so that every registered attack and objective serves all three unchanged.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from clead_jax.core.types import Array, Forward, Key, PyTree

Attack = Callable[[Forward, Array, Array, Key], Array]
"""(forward, x, target [B], keys [B]) -> x_adv: an attack with its objective and settings filled in."""

Classifier = tuple[Forward, Array]
"""What a view attacks: a function to logits and the labels that are right for it."""

Target = Callable[[PyTree, PyTree, Array, Array], Classifier]
"""(variables, reference, x, labels) -> Classifier."""


def contrastive(
    network: Any, similarity: Callable[[Array, Array], Array], temperature: float, by_class: bool
) -> Target:
    """Instance discrimination against the batch's clean images, in eval mode; no labels.

    With `by_class` (SupCon) the other images of the same class are no wrong answers: their logits are -inf.
    """

    def target(variables: PyTree, reference: PyTree, x: Array, labels: Array) -> Classifier:
        embed = lambda images: network.apply(variables, images, False, method=network.embed)
        anchors = jax.lax.stop_gradient(embed(x))
        own = jnp.arange(len(x))
        excluded = (labels[:, None] == labels[None]) & (own[:, None] != own[None]) & by_class
        forward = lambda images: jnp.where(excluded, -jnp.inf, similarity(embed(images), anchors) / temperature)
        return forward, own

    return target


def online(network: Any) -> Target:
    """The class head on the current encoder, in eval mode; uses the labels."""
    return lambda variables, reference, x, labels: (
        lambda images: network.apply(variables, images, False, method=network.logits),
        labels,
    )


def baseline(network: Any) -> Target:
    """The frozen clean baseline, in eval mode; uses the labels."""
    return lambda variables, reference, x, labels: (
        lambda images: network.apply(reference, images, False, method=network.logits),
        labels,
    )


def make_views(
    views: tuple[Attack | str, ...], target: Target, augment: Callable[[Key, Array], Array]
) -> Callable[[PyTree, PyTree, Array, Array, Key], Array]:
    """(variables, reference, images uint8 [B, H, W, C], labels, keys) -> views [B, V, H, W, C] in [0, 1].

    A view is "clean" (the batch's crop and flip), "augmented" (a draw of its own) or an attack on the clean one.
    """

    def make(variables: PyTree, reference: PyTree, images: Array, labels: Array, keys: Key) -> Array:
        x = augment(keys, images)
        forward, wanted = target(variables, reference, x, labels)
        stack = []
        for number, view in enumerate(views):
            view_keys = jax.vmap(lambda k, n=number: jax.random.fold_in(k, n + 1))(keys)
            if view == "clean":
                stack.append(x)
            elif view == "augmented":
                stack.append(augment(view_keys, images))
            elif not isinstance(view, str):
                stack.append(view(forward, x, wanted, view_keys))
            else:
                raise ValueError(f"unknown view {view!r}: known: clean, augmented, and attacks as functions")
        return jnp.stack(stack, axis=1)

    return make
