"""Checks of the model: does it give an answer that attacks can trust?"""

from typing import Any

import jax
import numpy as np

from clead_jax.core import numerics
from clead_jax.evaluation.checks.context import CheckContext, check

SAME = 1e-3  # relative to the largest output: what rounding may change
LOGITS = "return logits, what goes into the softmax"
NUDGE, JUMP = 1e-6, 0.03  # a change of pixels that changes nothing, and more than what 16-bit floats make of it


def nan_outputs(context: CheckContext) -> dict[str, Any]:
    """All outputs are finite numbers, on clean images and on attacked ones.

    argmax of NaN is class 0, so broken models have passed for right on it; and where the loss is NaN no attack moves.
    """
    bad = lambda images: float((~np.isfinite(context.logits(images))).any(1).mean())
    value = {"clean": bad(context.images), "attacked": bad(context.attack("pgd").images)}
    status = "ok" if max(value.values()) == 0 else "fail"
    return check("nan_outputs", status, value, "non-finite outputs: overflow, log of 0, division by 0?")


def probabilities_output(context: CheckContext) -> dict[str, Any]:
    """Outputs are logits, not probabilities, where attacks look.

    A second softmax in the loss squeezes the gradient: a slow attack looks like robustness.
    """
    z = context.model.attacked_logits(context.images, context.key)
    value = {"min": float(z.min()), "max": float(z.max()), "sum": float(z.sum(1).mean())}
    if are_probabilities(z):
        return check("probabilities_output", "fail", value, f"outputs are probabilities: {LOGITS}")
    status = "warn" if z.min() >= 0 and z.max() <= 1 else "ok"
    return check("probabilities_output", status, value, "all outputs lie in [0, 1]: are these logits?")


def are_probabilities(outputs: np.ndarray) -> bool:
    """Whether outputs [n, K] are none below 0, and have one sum."""
    z = outputs.astype(np.float64)
    sums = z.sum(1)
    differ = np.ptp(z, axis=0).max() > SAME * np.abs(z).max()  # of one image, again and again, any sums are the same
    same_sum = np.ptp(sums) <= 1e-3 * abs(sums.mean()) and (differ or abs(sums[0] - 1) <= 1e-3)
    return bool(z.min() >= 0 and same_sum and sums.mean() > 0)


def deterministic(context: CheckContext) -> dict[str, Any]:
    """The same image gets the same answer, called again, compiled again, and but for the last bits of its pixels.
    Of a model that is announced as random two keys should give two.

    Attacks on noise that do not average over its draws follow another model at each step (Athalye et al. 2018, 4.2).
    """
    once = context.logits(context.images)
    if context.model.randomized:
        moved = _difference(once, context.logits(context.images, draw=1))
        said = "announced as random, " + ("and is" if moved > 0 else "but two keys give the same outputs")
        return check("deterministic", "ok" if moved > 0 else "warn", moved) | {"hint": said}
    again = context.logits(context.images), context.logits_compiled_anew(context.images)
    nudged = context.images + (NUDGE * np.sign(0.5 - context.images)).astype(np.float32)
    jump = _difference(once, context.logits(nudged))
    value = {"again": max(_difference(once, outputs) for outputs in again), "nudged": jump}
    if value["again"] > SAME:
        hint = "two calls differ: give `forward` a key as last argument and announce it by randomized=True"
        return check("deterministic", "fail", value, hint)
    hint = f"outputs jump as pixels move by {NUDGE}: noise seeded by the image?"
    return check("deterministic", "fail" if jump > JUMP else "ok", value, hint)


def batch_statistics(context: CheckContext) -> dict[str, Any]:
    """Evaluation leaves the model's variables as they were.

    BatchNorm in training mode averages over adversarial images: every attack then meets another model.
    """
    if not jax.tree.leaves(context.model.variables):
        return check("batch_statistics", "skipped", None, "`forward` keeps its variables to itself")
    copies = lambda: [np.array(numerics.plain(leaf)) for leaf in jax.tree.leaves(context.model.variables)]
    before = copies()
    context.gradient(context.images)
    changed = sum(not np.array_equal(a, b, equal_nan=True) for a, b in zip(before, copies(), strict=True))
    hint = f"{changed} variables have changed: use the evaluation mode"
    return check("batch_statistics", "fail" if changed else "ok", changed, hint)


def batch_composition(context: CheckContext) -> dict[str, Any]:
    """What an image is taken for does not depend on the images it comes with, nor on its place among them.

    BatchNorm in training mode looks at the whole batch; noise drawn from one key for all of it depends on the place.
    """
    if context.model.randomized:
        return check("batch_composition", "skipped", None, "a model that draws noise draws it for the whole batch")
    n = len(context.images)
    whole, few = context.logits(context.images), max(1, n // 4)
    turned = _difference(whole, context.logits(context.images[::-1])[::-1])
    apart = _difference(whole[:few], context.logits(context.images[:few]))  # the batch is filled up with its first
    alone = _difference(whole[:1], context.logits(context.images[:1]))
    value = {"turned": turned, "apart": max(apart, alone)}
    hint = "outputs depend on the rest of the batch: use BatchNorm's running averages, and no noise"
    return check("batch_composition", "ok" if max(value.values()) <= SAME else "fail", value, hint)


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference of two outputs, relative to the largest output; NaN in both is no difference."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    if not np.array_equal(np.isnan(a), np.isnan(b)):
        return float("inf")
    a, b = np.nan_to_num(a), np.nan_to_num(b)
    return float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30))
