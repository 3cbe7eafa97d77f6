"""Views: versions of one image, stacked [B, V, H, W, C] (batch first: in other orders XLA replicates the forward).

The paper does not say which loss attacks maximise; here it is a choice of classifier, for any attack and objective:
  contrastive  instance discrimination: "logits" are the similarities of a perturbed image to every clean image of the
               batch over the temperature, its "label" is its own row. Cross entropy of these logits is InfoNCE, and the
               C&W margin is the gap to the nearest other image.
  partner      NT-Xent with the image's second view: the wrong answers are the second views of all other images and the
               perturbed images themselves, as keys without gradient (RoCL, arXiv 2006.07589, as its authors ran it)
  pairs        NT-Xent between two attacked views, which are made at the same time from two others (ACL, arXiv
               2010.13337)
  online       the class head on the current encoder
  reference    the frozen network of another stage
  distance     no classifier: the embedding is to move away from one that stays, the student's own or a teacher's, by an
               objective of embeddings, as in `pgd(objective=cosine_distance)`

Attacks start from the first view that is not one, if there is none from the batch's own augmentation; of a pair the
first starts from the first and the second from the second. `starts` are views for attacks alone.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from clead_jax.core.types import Array, Forward, Key, PyTree
from clead_jax.training.encoding import Outputs, joined
from clead_jax.training.state import Batch, TrainState
from clead_jax.training.step import MakeViews

Attack = Callable[..., Array]
"""(forward, x, target [B], keys [B], **chosen) -> x_adv: an attack with its objective and settings filled in, but for
those that a strategy has chosen."""

Choose = Callable[[TrainState, Array, Key], dict[str, Any]]
"""(state, clean images [B, H, W, C], keys [B]) -> settings of the attacks of this batch, single ones or [B]."""

Whole = Callable[[Array], Array]
"""Embeddings [B, D] -> the same, whole on every device: `sharding.gathered_once`."""

Augment = Callable[[Key, Array], Array]
"""(keys [B], uint8 [B, H, W, C]) -> floats in [0, 1]."""

Strength = Callable[[Array], Array | float]
"""Number of the step -> strength of augmentations of their own, from 1 down to 0, none."""


class Draw(NamedTuple):
    """A view by an augmentation of its own: as `Augment`, with its strength behind; of the image, or its neighbour."""

    augment: Callable[[Key, Array, Array | float], Array]
    of_neighbour: bool = False


class Base(NamedTuple):
    """What attacks may look at: the batch's own augmentation and the unattacked views, each [B, H, W, C]."""

    plain: Array
    views: tuple[Array, ...] = ()

    @property
    def start(self) -> Array:
        """What is attacked."""
        return self.views[0] if self.views else self.plain


Target = Callable[[PyTree, PyTree, Base, Array], tuple[Forward, PyTree]]
"""(variables, reference, base, labels) -> what a view attacks: a function to outputs, and what is right for it."""

PLAIN = ("clean", "augmented")
UNATTACKED = (*PLAIN, "neighbour")


class Stored(NamedTuple):
    """A view that was made before training, at this place among the stored ones; augmented anew in every step."""

    place: int


def contrastive(
    network: Any,
    similarity: Callable[[Array, Array], Array],
    temperature: float,
    by_class: bool,
    whole: Whole = lambda anchors: anchors,
) -> Target:
    """Instance discrimination against the batch's clean images, in eval mode; no labels. Where these are `whole` on
    every device, no step of an attack needs anything of another one.

    With `by_class` (SupCon) the other images of the same class are no wrong answers: their logits are -inf.
    """

    def target(variables: PyTree, reference: PyTree, base: Base, labels: Array) -> tuple[Forward, Array]:
        embed = lambda images: network.apply(variables, images, False, method=network.embed)
        anchors = whole(jax.lax.stop_gradient(embed(base.start)))
        own = jnp.arange(len(anchors))
        excluded = (labels[:, None] == labels[None]) & (own[:, None] != own[None]) & by_class
        forward = lambda images: jnp.where(excluded, -jnp.inf, similarity(embed(images), anchors) / temperature)
        return forward, own

    return target


def partner(
    network: Any,
    similarity: Callable[[Array, Array], Array],
    temperature: float,
    whole: Whole = lambda anchors: anchors,
) -> Target:
    """NT-Xent of the perturbed images with the second views, in eval mode; no labels. ValueError if there is none."""

    def target(variables: PyTree, reference: PyTree, base: Base, labels: Array) -> tuple[Forward, Array]:
        if len(base.views) < 2:
            raise ValueError("an attack on NT-Xent with a partner needs two views that are not attacked")
        embed = lambda images: network.apply(variables, images, False, method=network.embed)
        others = whole(jax.lax.stop_gradient(embed(base.views[1])))
        own = jnp.arange(len(others))

        def forward(images: Array) -> Array:
            z = embed(images)
            among = jnp.where(own[:, None] == own, -jnp.inf, similarity(z, jax.lax.stop_gradient(z)))
            return jnp.concatenate([similarity(z, others), among], axis=1) / temperature

        return forward, own

    return target


def pairs(network: Any, similarity: Callable[[Array, Array], Array], temperature: float) -> Target:
    """NT-Xent of two attacked views of every image, row after row, in eval mode; gradient on both sides, no labels."""

    def target(variables: PyTree, reference: PyTree, base: Base, labels: Array) -> tuple[Forward, Array]:
        rows = jnp.arange(2 * len(labels))

        def forward(images: Array) -> Array:
            z = network.apply(variables, images, False, method=network.embed)
            return jnp.where(rows[:, None] == rows, -jnp.inf, similarity(z, z) / temperature)

        return forward, rows + 1 - 2 * (rows % 2)

    return target


def online(network: Any, train: bool = False) -> Target:
    """The class head on the current encoder; uses the labels. BatchNorm in eval mode, or with `train` on the statistics
    of the attacked batch; the running ones, which the same switch moves in PyTorch, stay as they are.
    """

    def target(variables: PyTree, reference: PyTree, base: Base, labels: Array) -> tuple[Forward, Array]:
        apply = lambda images: network.apply(variables, images, train, method=network.logits, mutable=["batch_stats"])
        return lambda images: apply(images)[0], labels

    return target


def of_reference(network: Any) -> Target:
    """The frozen network of another stage, in eval mode; uses the labels."""
    return lambda variables, reference, base, labels: online(network)(reference, None, base, labels)


def distance(network: Any, outputs: Outputs, by_teacher: tuple[bool, ...]) -> Target:
    """Embeddings in eval mode, to be moved away from those of the frozen reference, or from the student's own.

    There is one choice for each of `outputs`. The student's own embedding is of what is attacked, the teacher's of the
    batch's own augmentation. No labels.
    """

    def target(variables: PyTree, reference: PyTree, base: Base, labels: Array) -> tuple[Forward, Array]:
        of = lambda whose, images: outputs(whose, network.apply(whose, images, False, method=network.features), False)[
            0
        ]
        own = of(variables, base.start)
        theirs = of(reference, base.plain) if any(by_teacher) else own
        stay = [b if teacher else a for a, b, teacher in zip(own, theirs, by_teacher, strict=True)]
        return lambda images: joined(of(variables, images)), jax.lax.stop_gradient(joined(stay))

    return target


def falling(every: int, epochs: int, steps_per_epoch: int) -> Strength:
    """1 - e / `epochs` in epoch e, in steps of `every` epochs (DynACL, arXiv 2303.01289, Eq. 5); with 0 it stays 1."""
    if not every:
        return lambda step: 1.0
    return lambda step: 1 - (step // (every * steps_per_epoch)) * (every / epochs)


def fixed(state: TrainState, x: Array, keys: Key) -> dict[str, Any]:
    """The `Choose` that leaves attacks as they are."""
    return {}


def make_views(
    views: tuple[Attack | Draw | Stored | str, ...],
    target: Target,
    augment: Augment,
    choose: Choose = fixed,
    attacked: float = 1.0,
    starts: tuple[Draw | str, ...] = (),
    strength: Strength = lambda step: 1.0,
    in_pairs: bool = False,
) -> MakeViews:
    """The function that makes the views. A view is "clean" (the batch's augmentation), "augmented" (a draw of its own),
    a `Draw` (of the neighbour perhaps), an attack with the settings that `choose` has chosen, or `Stored`. With
    `attacked` below 1 a batch is attacked with this probability, and clean otherwise. `in_pairs`: two attacks are one,
    of both images, for `pairs`. Raises ValueError for another name.
    """
    attacks = {n: view for n, view in enumerate(views) if not isinstance(view, Draw | str)}
    for view in views:
        if isinstance(view, str) and view not in PLAIN:
            raise ValueError(f"unknown view {view!r}: known: {', '.join(PLAIN)}, and attacks as functions")

    def make(state: TrainState, variables: PyTree, reference: PyTree, batch: Batch, keys: Key) -> Array:
        plain = augment(keys, batch.images)
        chosen = choose(state, plain, keys)
        of = lambda n: jax.vmap(lambda key: jax.random.fold_in(key, n))(keys)
        own = [of(n) for n in range(1, len(views) + 1)]

        def drawn(view: Draw | str, keys: Key) -> Array:
            if isinstance(view, Draw):
                images = jnp.asarray(batch.neighbours) if view.of_neighbour else batch.images
                return view.augment(keys, images, strength(state.step))
            return plain if view == "clean" else augment(keys, batch.images)

        def hostile(view: Attack | Stored, keys: Key) -> Array:
            if isinstance(view, Stored):
                made = augment(keys, jnp.asarray(batch.stored)[:, view.place])
            else:
                made = view(forward, base.start, wanted, keys, **chosen)
            return made if attacked == 1 else jnp.where(jax.random.bernoulli(keys[0], attacked), made, plain)

        def paired(view: Any) -> Array:
            x, both = jnp.stack(base.views[:2], axis=1), jnp.stack([own[n] for n in attacks], axis=1)
            made = view(forward, x.reshape(-1, *x.shape[2:]), wanted, both.reshape(-1), **chosen)
            return jnp.moveaxis(made.reshape(x.shape), 1, 0)

        found = {n: drawn(view, own[n]) for n, view in enumerate(views) if isinstance(view, Draw | str)}
        before = [drawn(view, of(len(views) + n)) for n, view in enumerate(starts, start=1)]
        base = Base(plain, (*before, *found.values()))
        forward, wanted = target(variables, reference, base, batch.labels)
        if in_pairs:
            found |= dict(zip(attacks, paired(next(iter(attacks.values()))), strict=True))
        else:
            found |= {n: hostile(view, own[n]) for n, view in attacks.items()}
        return jnp.stack([found[n] for n in range(len(views))], axis=1)

    return make
