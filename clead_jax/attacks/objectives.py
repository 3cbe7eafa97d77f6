"""What an attack ascends: functions (outputs [B, K], target) -> [B] that grow as the model does worse.

`target` says what the attacker wants. Labels int [B]: any class but this one. `Targeted(label, goal)`: this very class;
the objective of reaching `goal` is the objective of leaving it, negated (`dlr` has a form of its own). Attacks take any
function of this form, of any outputs and target: a contrastive loss of embeddings against anchor embeddings is one too.
"""

import functools

import jax
import jax.numpy as jnp

from clead_jax.core.types import Array, Forward, Objective, PyTree, Targeted

_TINY = 1e-12  # as the reference adds to the denominator: all logits may be equal


def _targetable(away_from: Objective) -> Objective:
    """Extends an objective of labels to `Targeted`."""

    @functools.wraps(away_from)
    def objective(outputs: Array, target: PyTree) -> Array:
        if isinstance(target, Targeted):
            return -away_from(outputs, target.goal)
        return away_from(outputs, target)

    return objective


@_targetable
def cross_entropy(outputs: Array, target: PyTree) -> Array:
    """-log softmax(outputs)[label], [B] from logits [B, K]; for `Targeted`, log softmax(outputs)[goal]."""
    return jax.nn.logsumexp(outputs, axis=-1) - _pick(outputs, target)


@_targetable
def margin(outputs: Array, target: PyTree) -> Array:
    """max_{j != label} z_j - z_label, [B] from logits [B, K]; positive where misclassified (Carlini & Wagner 2017, f6).

    For `Targeted`, z_goal - max_{j != goal} z_j: positive where the goal is reached.
    """
    # Masked with -inf: multiplying the label's logit by 0 would make 0 the maximum wherever the others are negative.
    others = jnp.where(_one_hot(outputs, target), -jnp.inf, outputs)
    return jnp.max(others, axis=-1) - _pick(outputs, target)


def dlr(outputs: Array, target: PyTree) -> Array:
    """The margin divided by how far the first and the third logit are apart, [B] from logits [B, K], at most 1.

    -(z_y - max_{j != y} z_j) / (z_pi1 - z_pi3), the difference of logits ratio (Croce & Hein 2020, arXiv 2003.01690,
    section 4): as blind to the scale of the logits as the decision is. Where the label ranks third it is flat at 1.
    For `Targeted` its own form, `dlr_targeted`, for the negated one would be flat until the goal ranks second.
    Raises ValueError for fewer than 3 classes, with `Targeted` 4.
    """
    if isinstance(target, Targeted):
        return dlr_targeted(outputs, target)
    first, _, third = _largest(outputs, 3, "dlr")
    return margin(outputs, target) / (first - third + _TINY)


def dlr_targeted(outputs: Array, target: Targeted) -> Array:
    """-(z_label - z_goal) / (z_pi1 - (z_pi3 + z_pi4) / 2), [B] from logits [B, K] (arXiv 2003.01690, section 4).

    Raises ValueError for fewer than 4 classes.
    """
    first, _, third, fourth = _largest(outputs, 4, "dlr_targeted")
    towards = _pick(outputs, target.goal) - _pick(outputs, target.label)
    return towards / (first - (third + fourth) / 2 + _TINY)


def kl(outputs: Array, target: Array) -> Array:
    """KL(softmax(target) || softmax(outputs)), [B] from logits [B, K] and the clean logits [B, K].

    What TRADES maximises (Zhang et al. 2019, arXiv 1901.08573, Eq. 5). 0, with gradient 0, at the clean image itself:
    start elsewhere.
    """
    clean, attacked = jax.nn.log_softmax(target, axis=-1), jax.nn.log_softmax(outputs, axis=-1)
    return jnp.sum(jnp.where(clean > -jnp.inf, jnp.exp(clean) * (clean - attacked), 0.0), axis=-1)


OBJECTIVES: dict[str, Objective] = {"cross_entropy": cross_entropy, "margin": margin, "dlr": dlr, "kl": kl}


def fooled(outputs: Array, target: PyTree) -> Array:
    """Whether the attacker got what `target` says, bool [B]: argmax is the goal, or is not the label.

    A float target [B, K] are clean logits: fooled where argmax no longer agrees. ValueError for any other target.
    """
    if isinstance(target, Targeted):
        return jnp.argmax(outputs, axis=-1) == target.goal
    if target.shape == outputs.shape and jnp.issubdtype(target.dtype, jnp.floating):
        return jnp.argmax(outputs, axis=-1) != jnp.argmax(target, axis=-1)
    if not (target.ndim == 1 and jnp.issubdtype(target.dtype, jnp.integer)):
        raise ValueError(
            f"cannot tell what fools a target {target.dtype}{list(target.shape)}: want int [B] or Targeted"
        )
    return jnp.argmax(outputs, axis=-1) != target


def ascent(forward: Forward, objective: Objective, x: Array, target: PyTree) -> tuple[Array, Array, Array]:
    """(gradient [B, ...] of the objective at x, its values [B], the outputs [B, ...]).

    It is the gradient of the SUM: an example's direction must not depend on how many others share its batch.
    """

    def total(x: Array) -> tuple[Array, tuple[Array, Array]]:
        outputs = forward(x)
        values = objective(outputs, target)
        return jnp.sum(values), (values, outputs)

    gradient, (values, outputs) = jax.grad(total, has_aux=True)(x)
    return gradient, values, outputs


def _largest(outputs: Array, n: int, objective: str) -> list[Array]:
    """The n largest logits, each [B]. Peeled off one by one: for so few that is cheaper than a sort."""
    if outputs.shape[-1] < n:
        raise ValueError(f"the objective {objective} needs {n} classes, the model has {outputs.shape[-1]}")
    largest = []
    rest = outputs
    for _ in range(n):
        now = jnp.argmax(rest, axis=-1)
        largest.append(_pick(outputs, now))
        rest = jnp.where(_one_hot(outputs, now), -jnp.inf, rest)
    return largest


def _one_hot(outputs: Array, labels: Array) -> Array:
    return labels[:, None] == jnp.arange(outputs.shape[-1])


def _pick(outputs: Array, labels: Array) -> Array:
    # A masked sum, not a gather: under any sharding of the batch it stays where the row is.
    return jnp.sum(jnp.where(_one_hot(outputs, labels), outputs, 0.0), axis=-1)
