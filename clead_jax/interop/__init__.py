"""Models from and to elsewhere: `torch_module` makes a `Classifier` of a PyTorch module, `weights` reads weights,
`formats` and `onnx_graph` write files that others run.
"""

from clead_jax.interop.aten import ATEN
from clead_jax.interop.formats import load_exported
from clead_jax.interop.onnx_graph import ONNX
from clead_jax.interop.torch_module import from_torch
from clead_jax.interop.weights import load_weights, read_haiku, read_weights

__all__ = ["ATEN", "ONNX", "from_torch", "load_exported", "load_weights", "read_haiku", "read_weights"]
