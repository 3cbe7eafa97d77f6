"""Checks of the attack: is there an easy one that finds what it missed?

Where a weak attack finds what a strong one does not, the strong one was hindered: by masked gradients (Carlini et al.
2019, arXiv 1902.06705; Athalye et al. 2018, arXiv 1802.00420, section 3.1), or by its settings.
"""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from clead_jax.evaluation.checks.context import CheckContext, chance, check, margins, slack
from clead_jax.evaluation.runner import Finding

SQUARE = "square(queries=250,rescale=true)"
NOISE = "noise(points=50)"
FROM_IMAGE = "pgd(random_start=false)"  # where gradients are masked it stays at the image


def iterative_vs_one_step(context: CheckContext) -> dict[str, Any]:
    """PGD leaves no more images correct than FGSM does.

    Else the gradient is good at the image only: it is masked elsewhere (Athalye et al. 2018, section 3.1).
    """
    recorded = {"fgsm", "pgd"} <= set(context.records)
    once, often = (context.records[a] if recorded else context.attack(a).correct for a in ("fgsm", "pgd"))
    gap = int(often.sum()) - int(once.sum())
    hint = f"{gap} more images survive PGD than FGSM: masked gradients, or a step size that is off"
    return check("iterative_vs_one_step", "ok" if gap <= slack(len(once), 0.02) else "fail", gap, hint)


def steps_enough(context: CheckContext) -> dict[str, Any]:
    """Twice the steps find nothing new.

    So fell adversarial logit pairing, from 27.9 % on ImageNet to 0.6 % (Engstrom et al. 2018, arXiv 1807.10272).
    """
    hint = "with twice the steps: raise steps until nothing is gained"
    return _gain("steps_enough", context, hint, lambda: [context.attack(_longer(context))])


def restarts_enough(context: CheckContext) -> dict[str, Any]:
    """Two more random starts find nothing new.

    So fell clean logit pairing and logit squeezing (Mosbach et al. 2018, arXiv 1810.12042).
    """
    hint = "from two more random starts: raise restarts until nothing is gained"
    return _gain("restarts_enough", context, hint, lambda: [context.attack("pgd", draw=draw) for draw in (1, 2)])


def loss_still_rising(context: CheckContext) -> dict[str, Any]:
    """Twice the steps do not raise the loss of correct images.

    The value is the rise by as many steps again, relative to the rise so far, in the median image.
    """
    short = context.attack("pgd")
    if _hardly_any(right := short.correct):
        return check("loss_still_rising", "skipped", None, "hardly any image is still correct")
    long = context.attack(_longer(context))
    levels = [context.images, short.images, long.images]
    before, now, later = (margins(context.logits(images), context.labels)[right] for images in levels)
    with np.errstate(invalid="ignore", divide="ignore"):
        rise = float(np.median(np.nan_to_num((later - now) / (now - before), nan=0.0, posinf=1.0, neginf=0.0)))
    status = "ok" if rise <= 0.05 else "warn" if rise <= 0.25 else "fail"
    hint = f"{rise:.0%} more loss with twice the steps: more or longer steps, or a loss that does not saturate"
    return check("loss_still_rising", status, rise, hint)


def noise_vs_gradient(context: CheckContext) -> dict[str, Any]:
    """Fifty random points of the ball find nothing that PGD missed.

    Else gradients are worse than none (Carlini et al. 2019): so with rounding and shattering.
    """
    missed = context.attack("pgd").correct
    found = 0 if _hardly_any(missed) else int((missed & ~context.attack(NOISE).correct).sum())
    hint = f"random noise breaks {found} images that PGD did not break: its gradients are masked"
    return check("noise_vs_gradient", "ok" if found <= slack(len(missed)) else "fail", found, hint)


def blackbox_vs_whitebox(context: CheckContext) -> dict[str, Any]:
    """Square, and adversarial images of the undefended model, find nothing that PGD missed, by either loss.

    Defensive distillation withstood gradients, and fell to such images (Papernot et al. 2017, arXiv 1602.02697).
    """
    missed = context.attack("pgd").correct & context.attack("cw").correct
    square, transfer = _square_alone(context, missed), 0
    if context.undefended is not None:
        transferred = context.predict(context.attack("pgd", undefended=True).images) != context.labels
        transfer = int((missed & transferred).sum())
    value = {"square": square, "transfer": None if context.undefended is None else transfer}
    status = "ok" if square["found"] <= square["by_chance"] and transfer <= slack(len(missed)) else "fail"
    hint = f"{max(square['found'], transfer)} images fall only to an attack without gradients: they are masked"
    return check("blackbox_vs_whitebox", status, value, hint)


def falls_to_chance(context: CheckContext) -> dict[str, Any]:
    """Accuracy falls as eps grows, and ends at chance where every image can be made grey.

    Curves that level off above it were in papers whose defences fell later (Athalye et al. 2018).
    """
    radii = [*(eps for eps in (context.eps, 2 * context.eps) if eps < _grey(context)), _grey(context)]
    accuracy = [_from_image(context, eps) for eps in radii]
    value = {"eps": radii, "accuracy": accuracy, "chance": chance(context.labels)}
    if accuracy[-1] > _limit(context):
        hint = f"{accuracy[-1]:.0%} accuracy where every image could be made grey: the attack does not work"
        return check("falls_to_chance", "fail", value, hint)
    risen = max((b - a for a, b in itertools.pairwise(accuracy)), default=0.0)
    status = "fail" if risen * len(context.labels) > slack(len(context.labels)) else "ok"
    return check("falls_to_chance", status, value, "accuracy rises with eps: the attack loses its way")


def undefended_falls(context: CheckContext) -> dict[str, Any]:
    """The undefended model of the same architecture falls far below its clean accuracy under the same attack.

    An attack that cannot break what is known to be weak proves nothing about the rest.
    """
    if context.undefended is None:
        return check("undefended_falls", "skipped", None, "no undefended model of this architecture")
    clean = float((context.undefended.predict(context.images) == context.labels).mean())
    robust = float(context.attack("pgd", undefended=True).correct.mean())
    value = {"clean": clean, "pgd": robust}
    if robust <= max(clean / 2, _limit(context)):
        return check("undefended_falls", "ok", value)
    if _from_image(context, _grey(context), undefended=True) > _limit(context):
        return check("undefended_falls", "fail", value, "the attack does not break an undefended model at any eps")
    hint = "the undefended model keeps over half its accuracy: a larger eps would tell more"
    return check("undefended_falls", "warn", value, hint)


def _longer(context: CheckContext) -> str:
    return f"pgd(steps={2 * context.named('pgd', context.eps).cfg.steps})"


def _gain(name: str, context: CheckContext, hint: str, more: Callable[[], list[Finding]]) -> dict[str, Any]:
    """The check that what is correct under PGD is correct under `more` too. Of a model that draws noise only what is
    correct in a few draws counts: another may err without any attack.
    """
    first, looks = context.attack("pgd"), (1, 2) if context.model.randomized else ()
    again = [context.predict(first.images, draw) == context.labels for draw in looks]
    before = np.logical_and.reduce([first.correct, *again])
    gain = 0 if _hardly_any(before) else int((before & ~np.logical_and.reduce([m.correct for m in more()])).sum())
    status = "ok" if gain <= slack(len(before)) else "warn" if gain <= slack(len(before), 0.1) else "fail"
    return check(name, status, gain, f"{gain} of {len(before)} images more fall {hint}")


def _square_alone(context: CheckContext, missed: np.ndarray) -> dict[str, float]:
    """How many images only Square breaks: of all that were recorded, where it ran after attacks with gradients."""
    names = list(context.records)  # in a suite each attack meets only what those before it left
    before = names[: names.index("square")] if "square" in names else []
    by_gradients = [context.records[name] for name in before if name.startswith(("apgd", "fab", "pgd", "cw"))]
    if by_gradients:
        found = np.logical_and.reduce(by_gradients) & ~context.records["square"]
        return {"found": int(found.sum()), "of": len(found), "by_chance": slack(len(found), 0.01)}
    found = 0 if _hardly_any(missed) else int((missed & ~context.attack(SQUARE).correct).sum())
    return {"found": found, "of": len(missed), "by_chance": slack(len(missed))}


def _hardly_any(correct: np.ndarray) -> bool:
    """Whether too few images are still correct for any attack to matter."""
    return correct.sum() <= slack(len(correct))


def _from_image(context: CheckContext, eps: float, undefended: bool = False) -> float:
    return float(context.attack(FROM_IMAGE, eps, undefended).correct.mean())


def _grey(context: CheckContext) -> float:
    """The radius within which every image becomes the same grey."""
    return 0.5 * context.white_from_black


def _limit(context: CheckContext) -> float:
    """The accuracy that chance explains."""
    return chance(context.labels) + slack(len(context.labels)) / len(context.labels)
