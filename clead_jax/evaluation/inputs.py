"""What a user hands over to be evaluated: is it images, labels and a model that can be run and differentiated?"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from clead_jax.attacks.objectives import OBJECTIVES
from clead_jax.core.batches import sizes
from clead_jax.core.types import Examples
from clead_jax.evaluation.classifier import Compiled


def checked_examples(images: np.ndarray, labels: np.ndarray) -> Examples:
    """Images as uint8 or float32, labels as int32. ValueError for other shapes and types; ranges may be wrong."""
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim != 4 or not len(images):
        raise ValueError(f"images must be [N, H, W, C] with N >= 1, not {list(images.shape)}")
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
    try:
        outputs = jax.eval_shape(model.programs.logits, model.variables, x, jax.random.key(0))
    except Exception as error:  # of whatever kind the model's author, or jax, has chosen
        raise ValueError(f"forward cannot be run, as a function that jax can trace: {_in_a_line(error)}") from error
    shape = getattr(outputs, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != 2 or shape[1] < 2:
        found = type(outputs).__name__ if shape is None else list(shape)
        raise ValueError(f"forward must give logits [B, K] with K >= 2; for 2 images it gives {found}")
    low, high = examples.labels.min(), examples.labels.max()
    if low < 0 or high >= shape[1]:
        raise ValueError(f"labels lie in [{low}, {high}], but the model has {shape[1]} classes")
    return shape[1]


def no_derivative(model: Compiled, examples: Examples, precision: str = "float32") -> str:
    """Why a model cannot be differentiated, '' if it can. ValueError if it cannot even be run as attacks would."""
    shape = (sizes(1, model.mesh.size)[0], *examples.images.shape[1:])
    x, labels = jax.ShapeDtypeStruct(shape, np.float32), jax.ShapeDtypeStruct(shape[:1], np.int32)
    gradient, key = functools.partial(model.programs.gradient, OBJECTIVES["cross_entropy"]), jax.random.key(0)
    try:
        jax.eval_shape(model.programs.attacked_logits, model.variables, x, key)
    except Exception as error:
        how = "" if precision == "float32" else f" in {precision}"
        raise ValueError(f"forward cannot be run{how}: {_in_a_line(error)}") from error
    try:
        jax.eval_shape(gradient, model.variables, x, labels, key)
    except Exception as error:
        return _in_a_line(error)
    return ""


def _in_a_line(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"[:200]
