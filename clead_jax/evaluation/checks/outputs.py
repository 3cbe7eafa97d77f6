"""Doubts about the model: does it give an answer that attacks can trust, and a gradient that they can follow?"""

from typing import Any

import jax
import numpy as np

from clead_jax.evaluation.checks.context import Subject
from clead_jax.evaluation.checks.verdicts import check, margins, percent

SAME = 1e-3  # relative to the largest output: what rounding may change
NUDGE, JUMP = 1e-6, 0.03  # a change of pixels that changes nothing, and more than what 16-bit floats make of it
DRAWS = 4  # looks at a model that draws noise
UNDERFLOW = float(np.log(np.finfo(np.float32).tiny))  # a margin at which exp is 0
FEWEST = 8  # examples classified right, for a share of them to mean anything


def nan_outputs(subject: Subject) -> dict[str, Any]:
    """All outputs are finite numbers, on clean images and on attacked ones.

    argmax of NaN is class 0, so broken models have passed for right on it; and where the loss is NaN no attack moves.
    """
    bad = lambda images: float((~np.isfinite(subject.logits(images))).any(1).mean())
    value = {"clean": bad(subject.images), "attacked": bad(subject.attack("pgd").adversarial)}
    if max(value.values()) == 0:
        return check("nan_outputs", "ok", value)
    return check("nan_outputs", "fail", value, "outputs that are no finite numbers: overflow, log of 0, division by 0?")


def probabilities_output(subject: Subject) -> dict[str, Any]:
    """Outputs are logits, not probabilities.

    A second softmax in the loss squeezes the gradient: the attack crawls, and accuracy under it looks like robustness.
    """
    z = subject.logits(subject.images).astype(np.float64)
    sums = z.sum(1)
    value = {"min": float(z.min()), "max": float(z.max()), "sum": float(sums.mean())}
    same_sum = np.ptp(sums) <= 1e-3 * abs(sums.mean()) and (len(sums) > 1 or abs(sums[0] - 1) <= 1e-3)
    if z.min() >= 0 and same_sum and sums.mean() > 0:
        hint = "outputs are probabilities: return logits, what goes into the softmax"
        return check("probabilities_output", "fail", value, hint)
    if z.min() >= 0 and z.max() <= 1:
        return check("probabilities_output", "warn", value, "all outputs lie in [0, 1]: are these logits?")
    return check("probabilities_output", "ok", value)


def deterministic(subject: Subject) -> dict[str, Any]:
    """The same image gets the same answer, called again, compiled again, and but for the last bits of its pixels.

    Unless the model is announced as random: then two keys should give two answers.

    Attacks on random resizing, cropping or dropout that do not average over the draws climb another model at every
    step (Athalye et al. 2018, section 4.2): what is left standing then says nothing.
    """
    once = subject.logits(subject.images)
    if subject.evaluator.programs.randomized:
        moved = _difference(once, subject.logits(subject.images, draw=1))
        if moved > 0:
            return check("deterministic", "ok", moved, "announced as random, and is")
        return check("deterministic", "warn", moved, "announced as random, but two keys give the same outputs")
    again = subject.logits(subject.images), subject.logits_compiled_anew(subject.images)
    nudged = subject.images + (NUDGE * np.sign(0.5 - subject.images)).astype(np.float32)
    jump = _difference(once, subject.logits(nudged))
    value = {"again": max(_difference(once, outputs) for outputs in again), "nudged": jump}
    if value["again"] > SAME:
        hint = "two calls differ: give `forward` a key as last argument and announce it by randomized=True"
        return check("deterministic", "fail", value, hint)
    if jump > JUMP:
        return check(
            "deterministic", "fail", value, f"outputs jump as pixels move by {NUDGE}: noise seeded by the image?"
        )
    return check("deterministic", "ok", value)


def batch_statistics(subject: Subject) -> dict[str, Any]:
    """Evaluation leaves the model's variables as they were.

    BatchNorm left in training mode updates its averages from adversarial images: every attack then meets another model.
    """
    if not jax.tree.leaves(subject.variables):
        return check("batch_statistics", "skipped", None, "`forward` keeps its variables to itself")
    copies = lambda: [np.array(leaf) for leaf in jax.tree.leaves(subject.variables)]
    before = copies()
    subject.gradient(subject.images)
    changed = sum(not np.array_equal(a, b, equal_nan=True) for a, b in zip(before, copies(), strict=True))
    if not changed:
        return check("batch_statistics", "ok", 0)
    return check("batch_statistics", "fail", changed, f"{changed} variables have changed: use the evaluation mode")


def batch_composition(subject: Subject) -> dict[str, Any]:
    """What an image is taken for does not depend on the images it comes with, nor on its place among them.

    BatchNorm in training mode looks at the whole batch: adversarial images are recognised by their company, and
    accuracy depends on the batch size. Noise drawn from a fixed key for a whole batch depends on the place.
    """
    if subject.evaluator.programs.randomized:
        return check("batch_composition", "skipped", None, "a model that draws noise draws it for the whole batch")
    n = len(subject.images)
    whole, few = subject.logits(subject.images), max(1, n // 4)
    turned = _difference(whole, subject.logits(subject.images[::-1])[::-1])
    apart = _difference(whole[:few], subject.logits(subject.images[:few]))  # the batch is filled up with its first
    alone = _difference(whole[:1], subject.logits(subject.images[:1]))
    value = {"turned": turned, "apart": max(apart, alone)}
    if max(value.values()) <= SAME:
        return check("batch_composition", "ok", value)
    hint = "outputs depend on the rest of the batch: use BatchNorm's running averages, and no noise"
    return check("batch_composition", "fail", value, hint)


def gradient_zero_or_nan(subject: Subject) -> dict[str, Any]:
    """The share of images with a gradient that is 0 everywhere, or NaN: attacks that climb it stand still.

    Rounding, one-hot encodings and saturated softmaxes do that. Of nine defences at ICLR 2018 seven relied on it or
    its relatives (Athalye et al. 2018). Where all other classes have probability 0 in float32 the gradient counts as
    zero too: whatever is left of it is rounding.
    """
    right = subject.predict(subject.images) == subject.labels
    if not right.any():
        return check("gradient_zero_or_nan", "skipped", None, "no image is classified right to begin with")
    share = max(float(_useless(subject, x)[right].mean()) for x in (subject.images, _nearby(subject)))
    status = "ok" if share <= 0.02 else "warn" if share <= 0.1 else "fail"
    hint = "gradients are masked, by rounding or saturation: attack a smooth stand-in, or return unscaled logits"
    return check("gradient_zero_or_nan", status, share, "" if status == "ok" else hint)


def gradient_direction(subject: Subject) -> dict[str, Any]:
    """The share of images for which a short step up the gradient hurts more than three random steps of that length.

    A gradient may be no zero and still be useless: shattered, stopped on the path that matters, or another function's.
    Of an honest model it is the share of nearly all images; of a random direction a quarter.
    """
    right = subject.predict(subject.images) == subject.labels
    if right.sum() < FEWEST:
        return check("gradient_direction", "skipped", None, f"fewer than {FEWEST} images are classified right")
    share = min(float(_uphill(subject, x)[right].mean()) for x in (subject.images, _nearby(subject)))
    hint = f"only {percent(share)} of the gradients lead uphill: they are shattered, or not those of this model"
    status = "ok" if share >= 0.9 else "warn" if share >= 0.75 else "fail"
    return check("gradient_direction", status, share, "" if status == "ok" else hint)


def gradient_foretells(subject: Subject) -> dict[str, Any]:
    """Along short random steps the margin changes as the gradient says.

    A gradient may lead uphill and still belong to a part of the model only, while the rest was rounded or jumps about:
    attacks then break that part. Of such a kind are defences that leave a way for gradients beside the one that counts.

    The value is the correlation of what the gradient foretells of 24 steps with what they do, in the median image, at
    that of two lengths where it is higher: a 16th of eps, or 1/32 a pixel for models that compute in 16 bits.
    """
    right = subject.predict(subject.images) == subject.labels
    if right.sum() < FEWEST or not subject.eps:
        return check(
            "gradient_foretells", "skipped", None, f"fewer than {FEWEST} images are classified right, or eps 0"
        )
    draws = range(2 * DRAWS if subject.evaluator.programs.randomized else 1)
    lengths = 1 / 16, 1 / 32 * subject.white_from_black / subject.eps
    found = max(float(np.median(_foretold(subject, share, draws)[right])) for share in lengths)
    status = "ok" if found >= 0.95 else "warn" if found >= 0.88 else "fail"
    hint = "steps do other than their gradient says: part of it is masked; attack with a smooth stand-in for that part"
    return check("gradient_foretells", status, found, "" if status == "ok" else hint)


def _foretold(subject: Subject, share: float, draws: range) -> np.ndarray:
    """For every image [n] the correlation of foretold and real changes of the margin, over random steps of share * eps.

    It is the margin to the class that leads at the image: which one leads may change on the way, and no gradient says
    so. 0 where either does not change at all.
    """
    x, rng, steps, each = subject.images, np.random.default_rng(2), 24, np.arange(len(subject.images))
    own = subject.labels[:, None] == np.arange(subject.num_classes)
    rivals = [np.where(own, -np.inf, subject.logits_of_gradient(x, d)).argmax(1) for d in draws]

    def margin(images: np.ndarray) -> np.ndarray:
        logits = [subject.logits_of_gradient(images, d).astype(np.float64) for d in draws]
        return np.mean([z[each, r] - z[each, subject.labels] for z, r in zip(logits, rivals, strict=True)], 0)

    gradient, here = np.mean([subject.gradient(x, d, "cw") for d in draws], 0), margin(x)
    moved = [_step(subject, x, rng.normal(size=x.shape), share) for _ in range(steps)]
    foretold = np.array([((y - x) * gradient).sum((1, 2, 3), dtype=np.float64) for y in moved])
    real = np.array([margin(y) - here for y in moved])
    foretold, real = foretold - foretold.mean(0), real - real.mean(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nan_to_num((foretold * real).mean(0) / (foretold.std(0) * real.std(0)), posinf=0.0, neginf=0.0)


def _uphill(subject: Subject, x: np.ndarray) -> np.ndarray:
    """Which images [n] lose more by a step up the gradient than by any of three random steps of the same length."""
    draws = range(DRAWS if subject.evaluator.programs.randomized else 1)
    rng = np.random.default_rng(0)
    here = lambda image: np.mean([margins(subject.logits(image, d), subject.labels) for d in draws], 0)
    slope = np.mean([subject.gradient(x, d) for d in draws], 0)
    along = here(_step(subject, x, slope))
    return along > np.max([here(_step(subject, x, rng.normal(size=x.shape))) for _ in range(3)], 0)


def _step(subject: Subject, x: np.ndarray, direction: np.ndarray, share: float = 1 / 4) -> np.ndarray:
    """x moved by a share of eps; in L1 by what is as far in L2 if all pixels move alike."""
    if subject.norm == "linf":
        move = share * subject.eps * np.sign(direction)
    else:
        size = np.sqrt((direction.astype(np.float64) ** 2).sum((1, 2, 3), keepdims=True))
        radius = subject.eps if subject.norm == "l2" else subject.eps / np.sqrt(x[0].size)
        move = share * radius * direction / np.maximum(size, 1e-300)
    return np.clip(x + move, 0, 1).astype(np.float32)


def _nearby(subject: Subject) -> np.ndarray:
    """Points next to the images, for defences that know the grid the images lie on."""
    return _step(subject, subject.images, np.random.default_rng(1).normal(size=subject.images.shape))


def _useless(subject: Subject, x: np.ndarray) -> np.ndarray:
    """Which images [n] have no gradient to follow."""
    flat = subject.gradient(x).reshape(len(x), -1)
    saturated = margins(subject.logits(x), subject.labels) < UNDERFLOW
    return ~np.isfinite(flat).all(1) | (flat == 0).all(1) | saturated


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference of two outputs, relative to the largest output; NaN in both is no difference."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    if not np.array_equal(np.isnan(a), np.isnan(b)):
        return float("inf")
    a, b = np.nan_to_num(a), np.nan_to_num(b)
    return float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30))
