"""Losses: from embeddings or logits to one number per anchor. Read `contrastive` first."""

from clead_jax.losses import (  # noqa: F401  importing them registers losses
    acl,
    classification,
    clustering,
    distillation,
    margin,
    tuples,
)
from clead_jax.losses.contrastive import ContrastiveConfig, SupConConfig, info_nce, masked_nce, supcon

__all__ = ["ContrastiveConfig", "SupConConfig", "info_nce", "masked_nce", "supcon"]
