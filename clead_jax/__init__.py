"""clead_jax: train, and doubt, adversarially robust image models in JAX.

Public names load on first use, so that `import clead_jax` imports no jax.
"""

import importlib
from typing import Any

__version__ = "0.1.0"
_PUBLIC = {"load": "clead_jax.build"}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'clead_jax' has no attribute {name!r}")
