"""Losses: from embeddings or logits to one number per anchor or example; whoever averages them divides once."""

from clead_jax.losses.contrastive import ContrastiveConfig, info_nce, masked_nce

__all__ = ["ContrastiveConfig", "info_nce", "masked_nce"]
