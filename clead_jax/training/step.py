"""The one training step: make views of a batch, run the network once on all of them, follow a weighted sum of losses.

    loss = sum over terms of weight * term(projections [B, V, D], logits [B, V, K], labels [B])

What a stage trains differs in views, terms and trained parts only:

    plain training              one clean view, cross entropy
    PGD adversarial training    one attacked view, cross entropy (arXiv 1706.06083)
    a probe                     the same, the head alone is trained and BatchNorm stays in eval mode (C-LEAD, Sec. 3)
    TRADES                      a clean and an attacked view, `trades` (arXiv 1901.08573)
    C-LEAD, phase 1             a clean and several attacked views, InfoNCE; a class head learns beside it (Eq. 2)
    Margin SupCon               two views, cross entropy + SupCon + margin loss (arXiv 2412.19747)
    RoCL                        two clean views and an attacked one, InfoNCE over all pairs (arXiv 2006.07589)
    distillation                clean and attacked views held against a frozen teacher's embedding (arXiv 2207.10899)
    AWP                         any of them, its gradient taken at perturbed weights (`perturbation`)
    ACL                         two clean and two attacked views, InfoNCE of either pair, two BatchNorms (2010.13337)
    DynACL                      the same against the keys of a momentum encoder, weights by the step (arXiv 2303.01289)
    FAT, LAS-AT                 an attacked view, whose settings a strategy chooses (`strategies`)
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from clead_jax.core.batches import example_keys
from clead_jax.core.types import Array, Key, Metrics, PyTree, Step
from clead_jax.training.encoding import Encode, Outputs, outputs, together
from clead_jax.training.perturbation import Perturb
from clead_jax.training.state import NOTHING, Batch, Extra, Frozen, TrainState, apply_gradients, variables

cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels

Term = Callable[[Array, Array, Array], Array]
"""(z [B, V, D], logits [B, V, K], labels [B]) -> scalar."""

MakeViews = Callable[[TrainState, PyTree, PyTree, Batch, Key], Array]
"""(state, variables, reference, batch, keys [B]) -> views [B, V, H, W, C] in [0, 1]."""

Teacher = Callable[[PyTree, Array, Key], Array]
"""(the teacher's variables, images uint8 [B, H, W, C], keys [B]) -> its embeddings [B, D]."""


Keys = Callable[[PyTree, PyTree, Array], tuple[Array, PyTree]]
"""(extra, the untrained parts, views [B, V, H, W, C]) -> (keys [B, V, D] without gradient, extra afterwards)."""

Terms = Mapping[str, tuple[float, Term]]


class Seen(NamedTuple):
    """What a step has seen and made: what else learns from it may read this."""

    frozen: Frozen
    batch: Batch
    keys: Key  # [B]
    logits: Array  # [B, V, K], before the update
    z: Array  # [B, V, D], what losses compare: the keys of a momentum encoder where there is one, else the views' own
    grads: PyTree  # of the loss


After = Callable[[TrainState, TrainState, Seen], tuple[TrainState, Metrics]]
"""(state before a step, state after it, `Seen`) -> the state after it with what else has changed, and metrics of it."""


def nothing_more(before: TrainState, new: TrainState, seen: Seen) -> tuple[TrainState, Metrics]:
    """The `After` of a step after which nothing follows."""
    return new, {}


def in_turn(*afters: After) -> After:
    """One after the other; their metrics together."""

    def run(before: TrainState, new: TrainState, seen: Seen) -> tuple[TrainState, Metrics]:
        metrics: Metrics = {}
        for after in afters:
            new, more = after(before, new, seen)
            metrics |= more
        return new, metrics

    return run


def make_step(
    network: Any,
    tx: optax.GradientTransformation,
    make_views: MakeViews,
    terms: Terms | Callable[[TrainState], Terms],
    *,
    online: bool = False,
    extra: Extra = NOTHING,
    encode: Encode = together,
    compared: Outputs | None = None,
    teacher: Teacher | None = None,
    keys_of: Keys | None = None,
    perturb: Perturb | None = None,
    after: After = nothing_more,
) -> Step:
    """A `Step` over the parts in the state. BatchNorm uses and moves batch statistics if the backbone's weights, or its
    statistics alone, are in the state; else it stays in eval mode.

    With `online` the logits are gradient-stopped: the class head learns by a cross entropy of its own (reported as
    online_loss) from the images whose label is known, 0 or above, so it watches the encoder and never moves it. The
    metric term_<name> is what a term adds to the loss, weight included; a term called "loss" is the whole of it.
    `perturb` says at which weights the gradient is taken.

    z are the `compared` outputs, if not said the projections. Behind them, without gradient, stand a `teacher`'s
    embedding, z is [B, V + 1, D] then, and the keys that `keys_of` gives, one for each view. `terms` may depend on the
    state, as on the number of its step.
    """
    compared = compared or outputs(network, ("projector",))

    def step(state: TrainState, frozen: Frozen, batch: Batch, key: Key) -> tuple[TrainState, Metrics]:
        now = variables(state.params, state.batch_stats, frozen.variables)
        keys = example_keys(key, batch.index)
        views = make_views(state, now, frozen.reference, batch, keys)
        b, v = views.shape[:2]
        view_labels = jnp.repeat(batch.labels, v)
        known = view_labels >= 0
        labelled = jnp.maximum(known.sum(), 1)
        train = "backbone" in state.params or "backbone" in state.batch_stats
        behind = [jax.lax.stop_gradient(teacher(frozen.teacher, batch.images, keys))[:, None]] if teacher else []
        found, kept = terms(state) if callable(terms) else terms, state.extra
        if keys_of:
            of_views, kept = keys_of(state.extra, frozen.variables, views)
            behind.append(of_views)

        def loss_fn(params: PyTree) -> tuple[Array, tuple[Array, Array, dict[str, Array], Array, Array, PyTree]]:
            merged = variables(params, state.batch_stats, frozen.variables)
            features, z, new = encode(network, merged, views, train, compared)
            own = z.reshape(b, v, -1)
            z = jnp.concatenate([own, *behind], axis=1)
            seen = jax.lax.stop_gradient(features) if online else features
            logits = network.apply(merged, seen, method=network.classify)
            added = {n: w * term(z, logits.reshape(b, v, -1), batch.labels) for n, (w, term) in found.items()}
            loss = jnp.stack(list(added.values())).sum()
            each = jnp.where(known, cross_entropy(logits, jnp.maximum(view_labels, 0)), 0) if online else jnp.zeros(1)
            beside = each.sum() / labelled
            stats = {part: new[part] for part in state.batch_stats}
            return loss + beside, (loss, beside, added, logits, own, stats)

        at = state.params
        if perturb:
            at = perturb(lambda params: jax.grad(loss_fn, has_aux=True)(params)[0], at, state.step)
        (_, (loss, beside, added, logits, z, stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(at)
        metrics = _losses(loss, added, {"online_loss": beside} if online else {}, jnp.float32(b))
        hits = (logits.argmax(-1) == view_labels).sum() / v
        metrics["online_accuracy" if online else "train_accuracy"] = hits, jnp.float32(labelled / v)
        new, more = after(
            state,
            apply_gradients(state.replace(extra=kept), tx, grads, stats, extra),
            Seen(frozen, batch, keys, logits.reshape(b, v, -1), behind[-1] if keys_of else z, grads),
        )
        return new, metrics | more

    return step


def _losses(loss: Array, added: dict[str, Array], beside: dict[str, Array], count: Array) -> Metrics:
    """The loss, its terms and what is learned beside it, as sums over `count` images."""
    terms = {f"term_{name}": share for name, share in added.items() if name != "loss"}
    return {name: (value * count, count) for name, value in ({"loss": loss} | terms | beside).items()}
