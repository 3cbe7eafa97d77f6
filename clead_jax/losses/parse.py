"""From the losses a config names, like "margin_pairwise(margin=0.5)", to functions with their section's settings."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import clead_jax.losses  # noqa: F401  importing it registers the losses
from clead_jax.core import spec
from clead_jax.core.registry import LOSSES
from clead_jax.training import joint

Criterion = Callable[[jax.Array, jax.Array], jax.Array]
"""(z [B, V, D], labels [B]) -> scalar, the mean over images."""


def named_loss(text: str, common: dict[str, Any]) -> Criterion:
    """'mine(margin=0.2)' -> a registered loss. `common` holds for a loss that has such fields; what stands in
    parentheses overrides it. Raises ValueError for an unknown loss or setting, naming the known ones.
    """
    entry = LOSSES[spec.parse(text)[0]]
    cfg = spec.settings(text, "loss", entry.config, common)
    return lambda z, labels: entry.value(z, labels, cfg).sum(-1).mean()  # the columns' weights sum to 1


def contrastive(cfg: Any) -> Criterion:
    """The loss of phase 1."""
    own = cfg.pretrain
    weights = tuple(spec.number(w, "pretrain.weights") for w in spec.items(own.weights))
    common = {k: own[k] for k in ("temperature", "similarity", "pairing", "positives")}
    return named_loss(own.loss, common | {"weights": weights})


def joint_terms(cfg: Any) -> dict[str, tuple[float, joint.Term]]:
    """The terms of stage joint with their weights; one of weight 0 is left out and costs nothing."""
    own = cfg.joint
    weights = (own.weight_ce, own.weight_supcon, own.weight_margin)
    if not (own.weight_ce > 0 and all(0 <= weight < np.inf for weight in weights)):
        raise ValueError(
            f"joint.weight_ce, weight_supcon, weight_margin are {', '.join(map(str, weights))}; "
            "the first, which trains the classifier, must be above 0, the others not below"
        )
    common = {"temperature": own.temperature, "margin": own.margin}
    try:
        margin = named_loss(own.margin_form, common)
    except ValueError as error:
        raise ValueError(f"joint.margin_form {own.margin_form!r} with joint.margin {own.margin}: {error}") from None
    supcon = named_loss("supcon", {"temperature": own.temperature})
    terms: dict[str, tuple[float, joint.Term]] = {
        "ce": (own.weight_ce, joint.cross_entropy),
        "supcon": (own.weight_supcon, lambda z, logits, labels: supcon(z, labels)),
        "margin": (own.weight_margin, lambda z, logits, labels: margin(z, labels)),
    }
    return {name: (weight, term) for name, (weight, term) in terms.items() if weight}


def check(cfg: Any) -> None:
    """Raises ValueError for losses that are unknown, impossible, or do not fit the views of a stage to be run."""
    stages, views = spec.items(cfg.stages), len(spec.items(cfg.views))
    z, logits = (jax.ShapeDtypeStruct((2, views, width), np.float32) for width in (8, 3))
    labels = jax.ShapeDtypeStruct((2,), np.int32)
    first, terms = contrastive(cfg), joint_terms(cfg)
    try:
        if "pretrain" in stages:
            jax.eval_shape(first, z, labels)
    except ValueError as error:
        raise ValueError(f"views {cfg.views!r} with pretrain.weights {cfg.pretrain.weights!r}: {error}") from None
    try:
        if "joint" in stages:
            jax.eval_shape(lambda *given: [term(*given) for _, term in terms.values()], z, logits, labels)
    except ValueError as error:
        raise ValueError(f"views {cfg.views!r} with joint.margin_form {cfg.joint.margin_form!r}: {error}") from None
