"""What the contrastive loss sees: a projection of the features. (The probe's classifier is a plain `nn.Dense`.)"""

from flax import linen as nn

from clead_jax.core.types import Array


class Projector(nn.Module):
    """Two-layer MLP (C-LEAD section 4; SimCLR, arXiv 2002.05709), in float32. `hidden` 0 means the feature width."""

    dim: int = 128
    hidden: int = 0

    @nn.compact
    def __call__(self, features: Array) -> Array:
        """Features [B, F] -> projections [B, dim]; normalising them is up to the loss's similarity."""
        hidden = nn.relu(nn.Dense(self.hidden or features.shape[-1])(features))
        return nn.Dense(self.dim)(hidden)
