"""Views: versions of one image, stacked [B, V, H, W, C] (batch first: in other orders XLA replicates the forward).

The paper does not say which loss attacks maximise; here it is a choice of classifier, for any attack and objective:
  contrastive  instance discrimination: "logits" are the similarities of a perturbed image to every clean image of the
               batch over the temperature, its "label" is its own row. Cross entropy of these logits is InfoNCE, and the
               C&W margin is the gap to the nearest other image.
  online       the class head on the current encoder
  reference    the frozen network of another stage
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from clead_jax.core.types import Array, Forward, Key, PyTree
from clead_jax.training.state import TrainState
from clead_jax.training.step import MakeViews

Attack = Callable[..., Array]
"""(forward, x, target [B], keys [B], **chosen) -> x_adv: an attack with its objective and settings filled in, but for
those that a strategy has chosen."""

Choose = Callable[[TrainState, Array, Key], dict[str, Any]]
"""(state, clean images [B, H, W, C], keys [B]) -> settings of the attacks of this batch, single ones or [B]."""

Augment = Callable[[Key, Array], Array]
"""(keys [B], uint8 [B, H, W, C]) -> floats in [0, 1]."""

Target = Callable[[PyTree, PyTree, Array, Array], tuple[Forward, Array]]
"""(variables, reference, x, labels) -> what a view attacks: a function to logits, and the labels right for it."""

UNATTACKED = ("clean", "augmented")


def contrastive(
    network: Any, similarity: Callable[[Array, Array], Array], temperature: float, by_class: bool
) -> Target:
    """Instance discrimination against the batch's clean images, in eval mode; no labels.

    With `by_class` (SupCon) the other images of the same class are no wrong answers: their logits are -inf.
    """

    def target(variables: PyTree, reference: PyTree, x: Array, labels: Array) -> tuple[Forward, Array]:
        embed = lambda images: network.apply(variables, images, False, method=network.embed)
        anchors = jax.lax.stop_gradient(embed(x))
        own = jnp.arange(len(x))
        excluded = (labels[:, None] == labels[None]) & (own[:, None] != own[None]) & by_class
        forward = lambda images: jnp.where(excluded, -jnp.inf, similarity(embed(images), anchors) / temperature)
        return forward, own

    return target


def online(network: Any, train: bool = False) -> Target:
    """The class head on the current encoder; uses the labels. BatchNorm in eval mode, or with `train` on the statistics
    of the attacked batch; the running ones, which the same switch moves in PyTorch, stay as they are.
    """

    def target(variables: PyTree, reference: PyTree, x: Array, labels: Array) -> tuple[Forward, Array]:
        apply = lambda images: network.apply(variables, images, train, method=network.logits, mutable=["batch_stats"])
        return lambda images: apply(images)[0], labels

    return target


def of_reference(network: Any) -> Target:
    """The frozen network of another stage, in eval mode; uses the labels."""
    return lambda variables, reference, x, labels: online(network)(reference, None, x, labels)


def make_views(
    views: tuple[Attack | str, ...], target: Target, augment: Augment, choose: Choose = lambda state, x, keys: {}
) -> MakeViews:
    """The function that makes the views. A view is "clean" (the batch's augmentation), "augmented" (a draw of its own)
    or an attack on the clean one, with the settings that `choose` has chosen. Raises ValueError for another name.
    """
    for view in views:
        if isinstance(view, str) and view not in UNATTACKED:
            raise ValueError(f"unknown view {view!r}: known: {', '.join(UNATTACKED)}, and attacks as functions")

    def make(variables: PyTree, reference: PyTree, images: Array, labels: Array, keys: Key, state: TrainState) -> Array:
        x = augment(keys, images)
        chosen = choose(state, x, keys)
        forward, wanted = target(variables, reference, x, labels)

        def one(number: int, view: Attack | str) -> Array:
            own = jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
            if callable(view):
                return view(forward, x, wanted, own, **chosen)
            return x if view == "clean" else augment(own, images)

        return jnp.stack([one(number, view) for number, view in enumerate(views, start=1)], axis=1)

    return make
