"""The loss of a stage: which terms it has and what they weigh, by the stage's kind."""

from collections.abc import Callable
from typing import Any

import numpy as np

import clead_jax.losses  # noqa: F401  importing it registers the losses
from clead_jax.config import Config
from clead_jax.core import spec
from clead_jax.core.registry import LOSSES
from clead_jax.losses.parse import Term, named_loss

Terms = dict[str, tuple[float, Term]]


def terms(cfg: Config, name: str, strength: Any = 1.0) -> Terms:
    """The terms of a stage's loss with their weights; one of weight 0 is left out and costs nothing. `strength` is that
    of the augmentation, which some losses follow.
    """
    found = TERMS[cfg[name].kind](name, cfg[name], strength)
    return {term: (weight, loss) for term, (weight, loss) in found.items() if weight}


def _supervised(name: str, own: Any, strength: Any) -> Terms:
    if LOSSES[spec.parse(own.loss)[0]].info.get("of") != "logits":
        known = ", ".join(loss for loss in LOSSES if LOSSES[loss].info.get("of") == "logits")
        raise ValueError(f"{name}.loss is {own.loss!r}, a loss of embeddings; of logits there are {known}")
    return {"loss": (1.0, named_loss(own.loss, {}))}


def _contrastive(name: str, own: Any, strength: Any) -> Terms:
    weights = tuple(spec.number(w, f"{name}.weights") for w in spec.items(own.weights))
    common = {k: own[k] for k in ("temperature", "similarity", "pairing", "positives")}
    return {"loss": (1.0, named_loss(own.loss, common | {"weights": weights}, strength))}


def _joint(name: str, own: Any, strength: Any) -> Terms:
    weights = (own.weight_ce, own.weight_supcon, own.weight_margin)
    if not (own.weight_ce > 0 and all(0 <= weight < np.inf for weight in weights)):
        raise ValueError(
            f"{name}.weight_ce, weight_supcon, weight_margin are {', '.join(map(str, weights))}; "
            "the first, which trains the classifier, must be above 0, the others not below"
        )
    try:
        margin = named_loss(own.margin_form, {"temperature": own.temperature, "margin": own.margin})
    except ValueError as error:
        raise ValueError(f"{name}.margin_form {own.margin_form!r} with {name}.margin {own.margin}: {error}") from None
    losses = (named_loss("cross_entropy", {}), named_loss("supcon", {"temperature": own.temperature}), margin)
    return dict(zip(("ce", "supcon", "margin"), zip(weights, losses, strict=True), strict=True))


TERMS: dict[str, Callable[[str, Any, Any], Terms]] = {
    "supervised": _supervised,
    "contrastive": _contrastive,
    "joint": _joint,
}
