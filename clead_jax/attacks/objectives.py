"""What an attack maximises: functions (outputs [B, K], target) -> [B], larger where the model does worse.

`target` is what the attacker wants. Labels int [B]: any other class. `Targeted(label, goal)`: the class `goal`; its
objective is that of leaving `goal`, negated (`dlr` has a targeted form). Clean logits float [B, K], or `CleanLogits`,
which has the label beside them: another output (`kl`). Embeddings float [B, D]: far from them (`cosine_distance`,
`squared_distance`; outputs are embeddings as well). Attacks take any function of this form: a contrastive loss of
embeddings against anchor embeddings is one too.
"""

import functools

import jax
import jax.numpy as jnp

from clead_jax.core.types import Array, CleanLogits, Forward, Objective, PyTree, Targeted

_TINY = 1e-12  # in the denominator, as in the reference: all logits may be equal


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
    # Masked with -inf: with the label's logit multiplied by 0, 0 would be the maximum where the others are negative.
    others = jnp.where(one_hot(outputs, target), -jnp.inf, outputs)
    return jnp.max(others, axis=-1) - _pick(outputs, target)


@_targetable
def probability_margin(outputs: Array, target: PyTree) -> Array:
    """1 + max_{j != label} p_j - p_label in [0, 2], [B] from logits [B, K], p their softmax (PMA, arXiv 2411.15210).

    Its gradient keeps to one rival class, where that of cross entropy is a sum over all of them that may cancel. It is
    computed from the wrong classes alone: where the model is sure p_label is 1 in float32, of gradient 0.
    """
    wrong = jnp.where(one_hot(outputs, target), 0.0, jax.nn.softmax(outputs, axis=-1))
    return jnp.max(wrong, axis=-1) + jnp.sum(wrong, axis=-1)


def minimum_margin(outputs: Array, target: PyTree) -> Array:
    """For `Targeted`, z_goal - z_label, [B] from logits [B, K]: positive where the goal has overtaken the label.

    What the MM attack maximises for one goal after the other (Gao et al., ICML 2022). For labels it is the margin.
    """
    if isinstance(target, Targeted):
        return _pick(outputs, target.goal) - _pick(outputs, target.label)
    return margin(outputs, target)


def dlr(outputs: Array, target: PyTree) -> Array:
    """The margin divided by the gap between the first and the third logit, [B] from logits [B, K], at most 1.

    The difference of logits ratio (Croce & Hein 2020, arXiv 2003.01690, section 4), invariant to shift and scale of the
    logits, and constant where the label ranks third; for `Targeted` see `dlr_targeted`. Raises ValueError for fewer
    than 3 classes, with `Targeted` 4.
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
    gap = _pick(outputs, target.goal) - _pick(outputs, target.label)
    return gap / (first - (third + fourth) / 2 + _TINY)


def kl(outputs: Array, target: Array | CleanLogits) -> Array:
    """KL(softmax(target) || softmax(outputs)), [B] from logits [B, K] and the clean logits [B, K].

    What TRADES maximises (Zhang et al. 2019, arXiv 1901.08573, Eq. 5). Its gradient at the clean image is 0: use a
    random start.
    """
    logits = target.logits if isinstance(target, CleanLogits) else target
    clean, attacked = jax.nn.log_softmax(logits, axis=-1), jax.nn.log_softmax(outputs, axis=-1)
    return jnp.sum(jnp.where(clean > -jnp.inf, jnp.exp(clean) * (clean - attacked), 0.0), axis=-1)


def cosine_distance(outputs: Array, target: Array) -> Array:
    """1 - cosine, in [0, 2], [B] from embeddings [B, D] and [B, D]; a zero vector is at distance 1 from all others.

    What DeACL maximises (Zhang et al. 2022, arXiv 2207.10899). Where both are equal its gradient is 0.
    """
    lengths = jnp.sum(outputs**2, axis=-1) * jnp.sum(target**2, axis=-1)
    return 1 - jnp.sum(outputs * target, axis=-1) * jax.lax.rsqrt(lengths + _TINY)


def squared_distance(outputs: Array, target: Array) -> Array:
    """|outputs - target|^2, [B] from embeddings [B, D] and [B, D].

    What FARE maximises (Schlarmann et al. 2024, arXiv 2402.12336, Eq. 3). Where both are equal its gradient is 0.
    """
    return jnp.sum((outputs - target) ** 2, axis=-1)


OF_EMBEDDINGS = (cosine_distance, squared_distance)
OBJECTIVES: dict[str, Objective] = {
    of.__name__: of for of in (cross_entropy, margin, dlr, kl, probability_margin, minimum_margin, *OF_EMBEDDINGS)
}


def fooled(outputs: Array, target: PyTree) -> Array:
    """Whether the attack succeeded, bool [B]: argmax is the goal, or is not the label.

    A float target [B, K] is clean logits: fooled where argmax differs; `CleanLogits` have a label. ValueError for any
    other target.
    """
    if isinstance(target, CleanLogits):
        target = target.label
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

    It is the gradient of the sum: an example's direction must not depend on the batch size.
    """

    def total(x: Array) -> tuple[Array, tuple[Array, Array]]:
        outputs = forward(x)
        values = objective(outputs, target)
        return jnp.sum(values), (values, outputs)

    gradient, (values, outputs) = jax.grad(total, has_aux=True)(x)
    return gradient, values, outputs


def _largest(outputs: Array, n: int, objective: str) -> list[Array]:
    """The n largest logits, each [B], found one by one: for small n that is cheaper than a sort."""
    if outputs.shape[-1] < n:
        raise ValueError(f"the objective {objective} needs {n} classes, the model has {outputs.shape[-1]}")
    largest, rest = [], outputs
    for _ in range(n):
        now = jnp.argmax(rest, axis=-1)
        largest.append(_pick(outputs, now))
        rest = jnp.where(one_hot(outputs, now), -jnp.inf, rest)
    return largest


def one_hot(outputs: Array, labels: Array) -> Array:
    """Where the labels [B] are among the outputs [B, K], bool [B, K]."""
    return labels[:, None] == jnp.arange(outputs.shape[-1])


def _pick(outputs: Array, labels: Array) -> Array:
    """outputs[label], [B] from [B, K]: a masked sum, which unlike a gather never needs communication."""
    return jnp.sum(jnp.where(one_hot(outputs, labels), outputs, 0.0), axis=-1)


def likeliest_others(outputs: Array, labels: Array, n: int) -> Array:
    """The n likeliest classes other than the labels [B], int32 [B, n] (at most K - 1), from logits [B, K]."""
    others = jnp.where(one_hot(outputs, labels), -jnp.inf, outputs)
    return jnp.argsort(-others, axis=-1)[:, : min(n, outputs.shape[-1] - 1)].astype(jnp.int32)


def in_turn(goals: Array, run: Array) -> Array:
    """The class [B] of run number `run` [B], where runs take the classes goals [B, R] in turn."""
    return jnp.sum(jnp.where(one_hot(goals, run % goals.shape[1]), goals, 0), axis=-1)
