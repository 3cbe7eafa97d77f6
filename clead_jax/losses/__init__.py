"""Losses: from embeddings or logits to one number per anchor. Read `contrastive` first."""

from clead_jax.losses import acl, classification, clustering, distillation, margin  # noqa: F401  registers them
from clead_jax.losses.contrastive import ContrastiveConfig, SupConConfig, info_nce, masked_nce, supcon

__all__ = ["ContrastiveConfig", "SupConConfig", "info_nce", "masked_nce", "supcon"]
