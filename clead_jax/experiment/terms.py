"""The loss of a stage: which terms it has and what they weigh, by the stage's kind."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import clead_jax.losses  # noqa: F401  importing it registers the losses
from clead_jax.config import Config
from clead_jax.core import spec
from clead_jax.core.registry import LOSSES
from clead_jax.experiment import changing
from clead_jax.losses.contrastive import is_zero
from clead_jax.losses.parse import START, Now, Term, named_loss
from clead_jax.training import schedules

Terms = dict[str, tuple[float, Term]]


def terms(cfg: Config, name: str, now: Now = START) -> Terms:
    """The terms of a stage's loss with their weights; one of weight 0 is left out and costs nothing. What `now` has of
    settings and weights ("weight_ce") holds in place of those of the config.
    """
    found = TERMS[cfg[name].kind](name, cfg[name], now)
    weighed = {term: (now.settings.get(f"weight_{term}", weight), loss) for term, (weight, loss) in found.items()}
    return {term: (weight, loss) for term, (weight, loss) in weighed.items() if not is_zero(weight)}


def can_change(cfg: Config, name: str) -> set[str]:
    """The numbers of a stage's loss that a schedule may set: weights of its terms, and settings of its loss, which in a
    joint stage is the margin loss.
    """
    own = cfg[name]
    weights = {f"weight_{term}" for term in TERMS[own.kind](name, own, START)}
    loss = LOSSES[spec.parse(own.margin_form if own.kind == "joint" else own.loss)[0]]
    return weights | {field.name for field in dataclasses.fields(loss.config) if field.type is float}


def check_changes(cfg: Config, name: str) -> None:
    """Raises ValueError for a bank that the loss of a stage does not read, and for schedules out of its ranges."""
    own = cfg[name]
    if getattr(own, "bank", 0) and not LOSSES[spec.parse(own.loss)[0]].info.get("bank"):
        known = ", ".join(loss for loss in LOSSES if LOSSES[loss].info.get("bank"))
        raise ValueError(f"{name}.bank is {own.bank}, but {name}.loss {own.loss!r} reads none; known: {known}")
    for setting, rule in schedules.parse(own.schedules).items():
        for value in rule.ends:
            terms(cfg, name, Now({setting: value}))


def check_shapes(cfg: Config, name: str, views: int, columns: int) -> None:
    """Raises ValueError for a loss that does not take logits of so many views and so many columns of embeddings, or
    does not work with numbers that change.
    """
    z, logits = (jax.ShapeDtypeStruct((2, *of), np.float32) for of in ((columns, 8), (views, 3)))
    labels = jax.ShapeDtypeStruct((2,), np.int32)
    run = lambda changed, *given: [w * term(*given) for w, term in terms(cfg, name, Now(changed)).values()]
    try:
        jax.eval_shape(run, changing.traced(cfg[name]), z, logits, labels)
    except jax.errors.ConcretizationTypeError:
        raise ValueError("a number in schedules is one that this loss cannot change while it trains") from None


def _supervised(name: str, own: Any, now: Now) -> Terms:
    if LOSSES[spec.parse(own.loss)[0]].info.get("of") != "logits":
        known = ", ".join(loss for loss in LOSSES if LOSSES[loss].info.get("of") == "logits")
        raise ValueError(f"{name}.loss is {own.loss!r}, a loss of embeddings; of logits there are {known}")
    return {"loss": (1.0, named_loss(own.loss, {}, now))}


def _contrastive(name: str, own: Any, now: Now) -> Terms:
    weights = tuple(spec.number(w, f"{name}.weights") for w in spec.items(own.weights))
    common = {k: own[k] for k in ("temperature", "similarity", "pairing", "positives")}
    return {"loss": (1.0, named_loss(own.loss, common | {"weights": weights, "keys": own.key_momentum > 0}, now))}


def _joint(name: str, own: Any, now: Now) -> Terms:
    weights = (own.weight_ce, own.weight_supcon, own.weight_margin)
    if not (own.weight_ce > 0 and all(0 <= weight < np.inf for weight in weights)):
        raise ValueError(
            f"{name}.weight_ce, weight_supcon, weight_margin are {', '.join(map(str, weights))}; "
            "the first, which trains the classifier, must be above 0, the others not below"
        )
    try:
        margin = named_loss(own.margin_form, {"temperature": own.temperature, "margin": own.margin}, now)
    except ValueError as error:
        raise ValueError(f"{name}.margin_form {own.margin_form!r} with {name}.margin {own.margin}: {error}") from None
    losses = (named_loss("cross_entropy", {}), named_loss("supcon", {"temperature": own.temperature}), margin)
    return dict(zip(("ce", "supcon", "margin"), zip(weights, losses, strict=True), strict=True))


TERMS: dict[str, Callable[[str, Any, Now], Terms]] = {
    "supervised": _supervised,
    "contrastive": _contrastive,
    "joint": _joint,
}
