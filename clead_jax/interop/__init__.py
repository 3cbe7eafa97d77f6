"""Models from elsewhere: `torch_module` makes a `Classifier` of a PyTorch module, `weights` reads files of weights."""

from clead_jax.interop.aten import ATEN
from clead_jax.interop.torch_module import from_torch
from clead_jax.interop.weights import load_weights, read_haiku, read_weights

__all__ = ["ATEN", "from_torch", "load_weights", "read_haiku", "read_weights"]
