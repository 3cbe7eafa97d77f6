"""Networks as functions. One description gives one function, so that its checkpoints share their compiled programs."""

import functools
import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax.errors import FlaxError

from clead_jax.core.types import Array, Classifier, PyTree
from clead_jax.experiment import builders


def classifier(fields: dict[str, Any], variables: PyTree = None) -> Classifier:
    """The classifier of `builders.network_fields`, BatchNorm in eval mode."""
    forward, _ = _functions(json.dumps(fields, sort_keys=True))
    return Classifier(forward, variables, num_classes=fields["num_classes"])


def require_fit(found: Classifier, shape: tuple[int, ...], where: str) -> None:
    """Raises ValueError, naming `where`, unless the variables are those of the network, for images of this shape."""
    image = jax.ShapeDtypeStruct((1, *shape), np.float32)
    try:
        logits = jax.eval_shape(found.forward, found.variables, image)
    except (ValueError, TypeError, KeyError, FlaxError) as error:
        why = " ".join(str(error).split())[:200]
        raise ValueError(f"the checkpoint in {where} does not fit its network ({why})") from None
    if logits.shape != (1, found.num_classes):
        raise ValueError(f"the checkpoint in {where} gives {logits.shape[1:]} logits for {found.num_classes} classes")


def features(fields: dict[str, Any]) -> Callable[[PyTree, Array], Array]:
    """(variables, images float [B, H, W, C]) -> features [B, F], compiled."""
    return _functions(json.dumps(fields, sort_keys=True))[1]


@functools.lru_cache(maxsize=16)
def _functions(described: str) -> tuple[Callable, Callable]:
    net = builders.network(json.loads(described))
    forward = lambda variables, x: net.apply(variables, x, False, method=net.logits)
    features = jax.jit(lambda variables, x: net.apply(variables, x, False, method=net.features))
    return forward, features
