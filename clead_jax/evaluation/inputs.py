"""What a user hands over to be evaluated: is it images, labels and a model that can be run and differentiated?"""

import contextlib
import functools
import re
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from clead_jax.attacks.objectives import OBJECTIVES
from clead_jax.core import numerics
from clead_jax.core.batches import channels_first, sizes
from clead_jax.core.types import Examples
from clead_jax.evaluation.classifier import Compiled

NO_DERIVATIVE = (
    r"(Differentiation|Transpose) rule .*not implemented|not support JVP|Reverse-mode differentiation does not"
    r"|No VJP is available"
)
"""What jax says where it has no rule to differentiate by; of other errors the cause lies in the model."""


def checked_examples(images: np.ndarray, labels: np.ndarray) -> Examples:
    """Images as uint8 or float32, labels as int32. ValueError for other shapes and types; ranges may be wrong."""
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim != 4 or not len(images):
        raise ValueError(f"images must be [N, H, W, C] with N >= 1, not {list(images.shape)}")
    if advice := channels_first(images.shape):
        raise ValueError(f"images must be [N, H, W, C], not {list(images.shape)}{advice}")
    if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating) and images.dtype != jnp.bfloat16:
        raise ValueError(f"images must be uint8, or floats in [0, 1], not {images.dtype}")
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be {len(images)} integers, not {labels.dtype} {list(labels.shape)}")
    if (outside := labels[(labels < 0) | (labels > np.iinfo(np.int32).max)]).size:  # before the cast, which wraps
        raise ValueError(f"labels hold {outside[0]}; allowed: integers 0..K-1")
    images = images if images.dtype == np.uint8 else images.astype(np.float32)
    return Examples(images, labels.astype(np.int32), np.arange(len(images)))


def num_classes(model: Compiled, examples: Examples) -> int:
    """How many classes a model has. Raises ValueError for one without logits [B, K], and for labels it has not."""
    x = jax.ShapeDtypeStruct((2, *examples.images.shape[1:]), np.float32)
    with one_line("forward cannot be run, as a function that jax can trace"):
        outputs = jax.eval_shape(model.programs.logits, model.variables, x, numerics.key(0))
    shape = getattr(outputs, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != 2 or shape[1] < 2:
        found = type(outputs).__name__ if shape is None else list(shape)
        sigmoid = "; of a single sigmoid output z give jnp.stack([0 * z, z], -1)" if shape in ((2,), (2, 1)) else ""
        raise ValueError(f"forward must give logits [B, K] with K >= 2; for 2 images it gives {found}{sigmoid}")
    low, high = examples.labels.min(), examples.labels.max()
    if high >= shape[1]:
        raise ValueError(f"labels lie in [{low}, {high}], but the model has {shape[1]} classes")
    return shape[1]


def no_derivative(model: Compiled, examples: Examples, precision: str = "float32") -> str:
    """The rule that jax lacks to differentiate a model, '' if it can. ValueError, with the cause, for other errors."""
    shape = (sizes(1, model.mesh.size)[0], *examples.images.shape[1:])
    x, labels = jax.ShapeDtypeStruct(shape, np.float32), jax.ShapeDtypeStruct(shape[:1], np.int32)
    gradient, key = functools.partial(model.programs.gradient, OBJECTIVES["cross_entropy"]), numerics.key(0)
    with one_line("forward cannot be run" + (f" in {precision}" if precision != "float32" else "")):
        jax.eval_shape(model.programs.attacked_logits, model.variables, x, key)
    try:
        jax.eval_shape(gradient, model.variables, x, labels, key)
    except Exception as error:
        if not re.search(NO_DERIVATIVE, str(error)):
            raise ValueError(f"forward can be run but not differentiated: {_in_a_line(error)}") from error
        return _in_a_line(error)
    return ""


@contextlib.contextmanager
def one_line(what: str, kind: type[Exception] = Exception) -> Iterator[None]:
    """Errors of a kind, by default any that the model's author or jax has chosen, as a ValueError with their cause."""
    try:
        yield
    except kind as error:
        raise ValueError(f"{what}: {_in_a_line(error)}") from error


def _in_a_line(error: Exception) -> str:
    name, line = type(error).__name__, next(iter(str(error).splitlines()), "")
    keeps = isinstance(error, jax.errors.UnexpectedTracerError) or name == "TraceContextError"  # jax's, and flax's
    advice = "; forward changes what the model holds: put it into its evaluation mode" * keeps
    return f"{name}: {line}"[:200] + advice
