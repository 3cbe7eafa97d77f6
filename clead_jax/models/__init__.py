"""Models: registered backbones, and the network that puts normalisation before and two heads behind them."""

from clead_jax.models import resnet  # noqa: F401  importing it registers the ResNets
from clead_jax.models.network import Network

__all__ = ["Network"]
