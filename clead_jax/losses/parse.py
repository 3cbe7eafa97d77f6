"""From the text of a loss, like "margin_pairwise(margin=0.5)", to a term of a training step."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from clead_jax.core import spec
from clead_jax.core.registry import LOSSES

Term = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""(z [B, V, D], logits [B, V, K], labels [B]) -> scalar, the mean over images."""


class Now(NamedTuple):
    """What of a loss changes while a stage trains: settings by their name, and the embeddings of past batches."""

    settings: Mapping[str, Any] = {}
    bank: Any = None


START = Now()
"""Where nothing has changed yet."""


def named_loss(text: str, common: dict[str, Any], now: Now = START) -> Term:
    """'mine(margin=0.2)' -> a registered loss, on the embeddings z, or on the logits if it is registered so.

    `common` holds for a loss that has such fields; what stands in parentheses overrides it, and what `now` has of its
    fields overrides both. Raises ValueError for an unknown loss or setting, naming the known ones.
    """
    entry = LOSSES[spec.parse(text)[0]]
    cfg = spec.settings(text, "loss", entry.config, common)
    cfg = dataclasses.replace(cfg, **{name: value for name, value in now.settings.items() if hasattr(cfg, name)})
    on_logits, beside = entry.info.get("of") == "logits", {"bank": now.bank} if entry.info.get("bank") else {}
    return lambda z, logits, labels: (
        entry.value(logits if on_logits else z, labels, cfg, **beside).sum(-1).mean()  # columns' weights sum to 1
    )
