"""Checks of the images: are they what the threat model says, before and after the attack?"""

from typing import Any

import numpy as np

from clead_jax.evaluation.checks.context import CheckContext, check, slack
from clead_jax.evaluation.verify import norm_of, rounded_up

GREY = 1 / 255  # one grey level


def images_range(context: CheckContext) -> dict[str, Any]:
    """Pixels lie in [0, 1] and use it: otherwise eps is not what it is said to be.

    Images in 0..255, or divided by 255 twice, turn 8/255 into next to nothing, or into everything.
    """
    low, high = float(context.images.min()), float(context.images.max())
    value = {"min": low, "max": high}
    if not (low >= -1e-6 and high <= 1 + 1e-6):  # NaN too
        return check("images_range", "fail", value, "give images in [0, 1], and let the model do the rest")
    status = "fail" if high <= 2 * GREY else "ok"
    return check("images_range", status, value, "all pixels below two grey levels: divided by 255 twice?")


def looks_normalised(context: CheckContext) -> dict[str, Any]:
    """Mean and standard deviation were not taken out before the images came here.

    The commonest error of this field: of pixels divided by 0.25, an eps of 8/255 is 2/255 of the image.
    """
    mean, std, low = (float(f(context.images)) for f in (np.mean, np.std, np.min))
    value = {"mean": mean, "std": std}
    status = "fail" if low < 0 and abs(mean) < 1 and std < 3 else "ok"
    return check("looks_normalised", status, value, "normalise inside `forward`, so that eps is in pixels")


def ball(context: CheckContext) -> dict[str, Any]:
    """What attacks made lies in the ball and in [0, 1], measured on what they returned.

    Attacks that clip the wrong thing report successes, or failures, at another eps than they were given.
    """
    image = context.attack("pgd").images
    distance = norm_of(image - context.images, context.norm)
    value = {"largest": float(distance.max()), "eps": context.eps}
    inside = (distance <= rounded_up(context.eps)).all() and image.min() >= 0 and image.max() <= 1  # false for NaN
    hint = "adversarial images leave the ball or [0, 1]: see images_range and nan_outputs"
    return check("ball", "ok" if inside else "fail", value, hint)


def ball_uint8(context: CheckContext) -> dict[str, Any]:
    """Saved with 8 bits the adversarial images are still within eps, up to the rounding, and still fool the model.

    Perturbations smaller than a grey level vanish in a file: images handed on would not show what was claimed.
    """
    outcome = context.attack("pgd")
    stored = np.round(outcome.images * 255) / 255
    rounding = float(norm_of(np.full_like(stored[:1], GREY / 2), context.norm)[0])
    excess = float(norm_of(stored - context.images, context.norm).max() - context.eps)
    fooling = outcome.prediction != context.labels
    lost = int((fooling & (context.predict(stored) == context.labels)).sum())
    value = {"excess": max(0.0, excess), "fooling": int(fooling.sum()), "lost": lost}
    if not excess <= rounding * 1.001 + 1e-6:
        return check("ball_uint8", "fail", value, "outside the ball by more than rounding explains")
    if lost > slack(int(fooling.sum())):
        hint = f"{lost / fooling.sum():.0%} of the successes vanish when saved with 8 bits: save them as floats"
        return check("ball_uint8", "warn", value, hint)
    return check("ball_uint8", "ok", value)
