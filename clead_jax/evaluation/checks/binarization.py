"""The binarization test: does the attack find an adversarial point that is known to be there?

Zimmermann et al., NeurIPS 2022 (arXiv 2206.13991), section 4. Each image becomes a problem of its own. Its features
stay, and a linear head of two classes replaces what follows them: one class for the image and for random points close
to it, the other for one point at the edge of the ball. That point is adversarial by construction, so an attack that
finds none was weak. Points drawn at random are the control: a problem that they solve too says nothing.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from clead_jax.core.types import Array, Classifier, Examples, PyTree
from clead_jax.evaluation.checks.context import CheckContext, check
from clead_jax.evaluation.classifier import Compiled, compiled
from clead_jax.evaluation.runner import run_attacks
from clead_jax.evaluation.verify import norm_of

PROBLEMS = 32  # a batch; the paper has 512 images, 999 points inside, 1 at the edge, the same gap
INSIDE, EDGE, CONTROL, GAP = 199, 100, 100, 0.05
NEAR = 0.5  # where the head divides, on the way from the points inside to the one at the edge
RIDGE = 1e-2  # of the features' mean variance, added to every variance
FEWEST = 8  # problems, for a share of them to mean anything


class Problems(NamedTuple):
    """One problem per image; P of them."""

    images: np.ndarray  # float32 [P, H, W, C]
    adversarial: np.ndarray  # float32 [P, H, W, C], one point each on the other side of the head
    centre: np.ndarray  # float32 [P, F], the head: its second logit is (features - centre) . weights - 1
    weights: np.ndarray  # float32 [P, F]
    exists: np.ndarray  # bool [P], whether the head separates the two classes
    by_chance: np.ndarray  # bool [P], whether one of `CONTROL` random points is on the other side


def finds_planted_points(context: CheckContext) -> dict[str, Any]:
    """PGD finds an adversarial point where one is planted behind the model's features (the binarization test).

    Attacks of 11 of 13 published evaluations did not (Zimmermann et al. 2022, arXiv 2206.13991). The value has the
    score, the share of problems solved by random points, how many problems there were, and what the features are.
    """
    name = "finds_planted_points"
    if context.model.randomized or not context.eps:
        return check(name, "skipped", None, "the model draws noise, so that nothing is certain of a point; or eps 0")
    problems = _problems(context)
    model = _with_heads(context, problems)
    judged = [model.predict(images) == kind for kind, images in enumerate((problems.images, problems.adversarial))]
    exists = problems.exists & np.logical_and(*judged)
    value: dict[str, Any] = {"score": None, "random": None, "problems": int(exists.sum())}
    value["features"] = "logits" if context.features is None else "penultimate layer"
    if exists.any():
        value["random"] = float(problems.by_chance[exists].mean())
    if (hard := exists & ~problems.by_chance).sum() < FEWEST:
        hint = f"a point that is hard to find could be planted for fewer than {FEWEST} images: features too few or flat"
        return check(name, "skipped", value, hint)
    value["score"] = score = float(_found(context, model, problems.images)[hard].mean())
    hint = f"PGD finds {score:.0%} of the adversarial points planted behind the model: it is too weak, or misled"
    return check(name, "ok" if score >= 0.9 else "warn" if score >= 0.75 else "fail", value, hint)


def _problems(context: CheckContext) -> Problems:
    """A problem for every row of a batch; images are taken twice where there are too few."""
    rng, count = np.random.default_rng(3), context.batch_of(PROBLEMS)
    images = context.images[np.linspace(0, len(context.images) - 1, count).astype(int)]
    return Problems(*map(np.stack, zip(*(_problem(context, image, rng) for image in images), strict=True)))


def _problem(context: CheckContext, image: np.ndarray, rng: np.random.Generator) -> tuple[Any, ...]:
    """The fields of `Problems` for one image [H, W, C]: of the points at its edge the one that stands out most.

    What counts is twice how far it stands out half-way, where that is less. A unit of the features that is 0 up to the
    edge makes a point easy to tell and hides it from every gradient, of an honest network too: PGD missed a fifth of
    such points in a small one.
    """
    edge = _around(context, image, EDGE + CONTROL, 1.0, rng)
    inside = np.concatenate([image[None], _around(context, image, INSIDE - 1, 1 - GAP, rng)])
    features = context.penultimate(np.concatenate([inside, (image + edge[:EDGE]) / 2, edge])).astype(np.float64)
    centre = features[:INSIDE].mean(0)
    within, halfway, outside, control = np.split(features - centre, np.cumsum([INSIDE, EDGE, EDGE]))
    # Fisher's discriminant of each point at the edge against all inside, in place of the paper's logistic regression.
    variances = within.T @ within / INSIDE
    ridge = RIDGE * np.trace(variances) / len(variances) + np.finfo(np.float64).tiny
    heads = np.linalg.solve(variances + ridge * np.eye(len(variances)), outside.T)  # [F, EDGE]
    nearest = (within @ heads).max(0)
    reached = np.minimum((outside.T * heads).sum(0), 2 * (halfway.T * heads).sum(0))
    best = int(np.nan_to_num(reached / np.maximum(nearest, 1e-300)).argmax())
    weights = heads[:, best] / max(nearest[best] + NEAR * (reached[best] - nearest[best]), 1e-300)
    exists, by_chance = reached[best] > nearest[best], (control @ weights > 1).any()
    return image, edge[best], centre.astype(np.float32), weights.astype(np.float32), exists, by_chance


def _around(context: CheckContext, image: np.ndarray, count: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """Random points float32 [count, H, W, C] at a distance of share * eps, and in [0, 1]; in Linf corners."""
    away = rng.normal(size=(count, *image.shape))
    away = np.sign(away) if context.norm == "linf" else away
    length = norm_of(away, context.norm)[:, None, None, None]
    return np.clip(image + share * context.eps * away / length, 0, 1).astype(np.float32)


def _with_heads(context: CheckContext, problems: Problems) -> Compiled:
    """The model with a head of its own for every row of a batch. Attacks go through what they differentiate."""
    model, features = context.model.classifier, context.features

    def headed(forward: Any) -> Any:
        def logits(variables: PyTree, x: Array) -> Array:
            own, centre, weights = variables
            score = ((forward(own, x).astype(jnp.float32) - centre) * weights).sum(-1) - 1
            return jnp.stack([-score, score], -1)

        return logits

    attacked = headed(model.attack_forward) if features is None and model.attack_forward else None
    variables = context.model.variables, problems.centre, problems.weights
    planted = Classifier(headed(features or model.forward), variables, num_classes=2, attack_forward=attacked)
    return compiled(planted, context.model.mesh, len(problems.images))


def _found(context: CheckContext, model: Compiled, images: np.ndarray) -> np.ndarray:
    """For which images [P, H, W, C] PGD finds a point of the other class, bool [P]. No row leaves its place: each has
    its own head.
    """
    count = len(images)
    examples = Examples(images, np.zeros(count, np.int32), np.arange(count, dtype=np.int32))
    whole: dict[str, Any] = {"clean": np.ones(count, bool), "keep": count, "early_stop": False}
    named = context.named("pgd", context.eps)
    return ~run_attacks(model, examples, [named], key=context.key, num_classes=2, **whole).correct
