"""From the text of a loss, like "margin_pairwise(margin=0.5)", to a term of a training step."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from clead_jax.core import spec
from clead_jax.core.registry import LOSSES

Term = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""(z [B, V, D], logits [B, V, K], labels [B]) -> scalar, the mean over images."""


def named_loss(text: str, common: dict[str, Any], strength: Any = 1.0) -> Term:
    """'mine(margin=0.2)' -> a registered loss, on the embeddings z, or on the logits if it is registered so.

    `common` holds for a loss that has such fields; what stands in parentheses overrides it. Raises ValueError for an
    unknown loss or setting, naming the known ones. A loss that has a field `strength` gets that of the augmentation.
    """
    entry = LOSSES[spec.parse(text)[0]]
    cfg = spec.settings(text, "loss", entry.config, common)
    if hasattr(cfg, "strength"):
        cfg = dataclasses.replace(cfg, strength=strength)
    on_logits = entry.info.get("of") == "logits"
    return lambda z, logits, labels: (
        entry.value(logits if on_logits else z, labels, cfg).sum(-1).mean()  # the columns' weights sum to 1
    )
