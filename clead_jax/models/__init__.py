"""Models: registered backbones, and the network that adds normalisation and two heads. Read `network` first."""

from clead_jax.models import efficientnet, filters, jpeg, resnet, wide_resnet, wrappers  # noqa: F401  importing them registers
from clead_jax.models.network import Network

__all__ = ["Network"]
