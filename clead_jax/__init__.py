"""clead_jax: train adversarially robust image models in JAX, and measure how robust they really are.

    model = clead_jax.load("runs/quickstart")              # a Classifier: forward, variables = model
    model = clead_jax.from_torch(module, (32, 32, 3))      # the same of a PyTorch module
    model = clead_jax.load_exported("exported/model.jax")   # of a file of `python -m clead_jax.export`
    model = clead_jax.wrap("jpeg(quality=50)", model)      # behind a filter; or an ensemble of several
    result = clead_jax.audit(model, images, labels)        # any Classifier, or a function to logits
    result = clead_jax.union(model, images, labels)        # the same in Linf, L2 and L1 together

Public names load on first use, so that `import clead_jax` imports no jax.
"""

import importlib
from typing import Any

__version__ = "0.1.0"
_PUBLIC = {
    "load": "experiment.models",
    "audit": "audit",
    "union": "evaluation.union",
    "Classifier": "core.types",
    "wrap": "models.wrappers",
    "from_torch": "interop.torch_module",
    "load_exported": "interop.formats",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'clead_jax' has no attribute {name!r}")
    module = importlib.import_module(f"clead_jax.{_PUBLIC[name]}")
    return module if name == "audit" else getattr(module, name)  # that module is callable
