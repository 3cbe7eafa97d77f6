"""Checks of the gradient: does it exist, does it lead uphill, and does it say what the model does?"""

from typing import Any

import numpy as np

from clead_jax.evaluation.checks.context import CheckContext, check, margins

DRAWS = 4  # looks at a model that draws noise
UNDERFLOW = float(np.log(np.finfo(np.float32).tiny))  # a margin at which exp is 0
FEWEST = 8  # examples classified right, for a share of them to mean anything


def gradient_zero_or_nan(context: CheckContext) -> dict[str, Any]:
    """The share of images with a gradient that is 0 everywhere, or NaN: attacks that follow it do not move.

    So with rounding and saturation (Athalye et al. 2018); where float32 leaves one class only it counts as zero too.
    """
    right = context.predict(context.images) == context.labels
    if not right.any():
        return check("gradient_zero_or_nan", "skipped", None, "no image is classified right to begin with")
    share = max(float(_useless(context, x)[right].mean()) for x in (context.images, _nearby(context)))
    status = "ok" if share <= 0.02 else "warn" if share <= 0.1 else "fail"
    hint = "gradients are masked, by rounding or saturation: attack a smooth stand-in, or return unscaled logits"
    return check("gradient_zero_or_nan", status, share, hint)


def gradient_direction(context: CheckContext) -> dict[str, Any]:
    """The share of images for which a short step up the gradient hurts more than three random steps of that length.

    Of an honest model nearly all; of a gradient that is shattered, stopped or another function's, as few as a quarter.
    """
    right = context.predict(context.images) == context.labels
    if right.sum() < FEWEST:
        return check("gradient_direction", "skipped", None, f"fewer than {FEWEST} images are classified right")
    share = min(float(_uphill(context, x)[right].mean()) for x in (context.images, _nearby(context)))
    hint = f"only {share:.0%} of the gradients lead uphill: they are shattered, or not those of this model"
    status = "ok" if share >= 0.9 else "warn" if share >= 0.75 else "fail"
    return check("gradient_direction", status, share, hint)


def gradient_foretells(context: CheckContext) -> dict[str, Any]:
    """Along short random steps the margin changes as the gradient says: it may belong to a part of the model only.

    The value is the correlation of what the gradient foretells of 24 steps with what they do, in the median image, at
    that of two lengths where it is higher: a 16th of eps, or 1/32 a pixel for models that compute in 16 bits.
    """
    right = context.predict(context.images) == context.labels
    if right.sum() < FEWEST or not context.eps:
        return check(
            "gradient_foretells", "skipped", None, f"fewer than {FEWEST} images are classified right, or eps 0"
        )
    draws = range(2 * DRAWS if context.model.randomized else 1)
    lengths = 1 / 16, 1 / 32 * context.white_from_black / context.eps
    found = max(float(np.median(_foretold(context, share, draws)[right])) for share in lengths)
    status = "ok" if found >= 0.95 else "warn" if found >= 0.88 else "fail"
    hint = "steps do other than their gradient says: part of it is masked; attack with a smooth stand-in for that part"
    return check("gradient_foretells", status, found, hint)


def _foretold(context: CheckContext, share: float, draws: range) -> np.ndarray:
    """For every image [n] the correlation of foretold and real changes of the margin, over random steps of share * eps.
    It is the margin to the class that leads at the image. 0 where either does not change at all.
    """
    x, rng, steps, each = context.images, np.random.default_rng(2), 24, np.arange(len(context.images))
    leader = lambda z: np.where(context.labels[:, None] == np.arange(z.shape[1]), -np.inf, z).argmax(1)
    rivals = [leader(context.logits_of_gradient(x, d)) for d in draws]

    def margin(images: np.ndarray) -> np.ndarray:
        logits = [context.logits_of_gradient(images, d).astype(np.float64) for d in draws]
        return np.mean([z[each, r] - z[each, context.labels] for z, r in zip(logits, rivals, strict=True)], 0)

    gradient, here = np.mean([context.gradient(x, d, "cw") for d in draws], 0), margin(x)
    moved = [_step(context, x, rng.normal(size=x.shape), share) for _ in range(steps)]
    foretold = np.array([((y - x) * gradient).sum((1, 2, 3), dtype=np.float64) for y in moved])
    real = np.array([margin(y) - here for y in moved])
    foretold, real = foretold - foretold.mean(0), real - real.mean(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nan_to_num((foretold * real).mean(0) / (foretold.std(0) * real.std(0)), posinf=0.0, neginf=0.0)


def _uphill(context: CheckContext, x: np.ndarray) -> np.ndarray:
    """Which images [n] lose more by a step up the gradient than by any of three random steps of the same length."""
    draws, rng = range(DRAWS if context.model.randomized else 1), np.random.default_rng(0)
    here = lambda image: np.mean([margins(context.logits(image, d), context.labels) for d in draws], 0)
    along = here(_step(context, x, np.mean([context.gradient(x, d) for d in draws], 0)))
    return along > np.max([here(_step(context, x, rng.normal(size=x.shape))) for _ in range(3)], 0)


def _step(context: CheckContext, x: np.ndarray, direction: np.ndarray, share: float = 1 / 4) -> np.ndarray:
    """x moved by a share of eps; in L1 by what is as far in L2 if all pixels move alike."""
    if context.norm == "linf":
        move = share * context.eps * np.sign(direction)
    else:
        size = np.sqrt((direction.astype(np.float64) ** 2).sum((1, 2, 3), keepdims=True))
        radius = context.eps if context.norm == "l2" else context.eps / np.sqrt(x[0].size)
        move = share * radius * direction / np.maximum(size, 1e-300)
    return np.clip(x + move, 0, 1).astype(np.float32)


def _nearby(context: CheckContext) -> np.ndarray:
    """Points next to the images, for defences that know the grid the images lie on."""
    return _step(context, context.images, np.random.default_rng(1).normal(size=context.images.shape))


def _useless(context: CheckContext, x: np.ndarray) -> np.ndarray:
    """Which images [n] have no gradient to follow."""
    flat = context.gradient(x).reshape(len(x), -1)
    saturated = margins(context.logits(x), context.labels) < UNDERFLOW
    return ~np.isfinite(flat).all(1) | (flat == 0).all(1) | saturated
