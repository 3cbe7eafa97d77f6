"""Models: registered backbones, and the network that puts normalisation before and two heads behind them."""

from clead_jax.models import efficientnet, resnet, wide_resnet, wrappers  # noqa: F401  importing them registers
from clead_jax.models.network import Network

__all__ = ["Network"]
