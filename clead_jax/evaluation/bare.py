"""A bare function as the rest of the package sees a model: checked, spread over the devices, compiled once."""

import functools
from collections.abc import Callable, Hashable

import jax
import jax.numpy as jnp
import numpy as np

from clead_jax.attacks import parse as arsenal
from clead_jax.core import sharding
from clead_jax.core.types import Array, PyTree
from clead_jax.evaluation import batch_size as batching
from clead_jax.evaluation import runner as cascade
from clead_jax.evaluation.verify import Evaluator

PRECISIONS = ("float32", "bfloat16")


def no_derivative(on: cascade.Problem) -> str:
    """Why a model cannot be differentiated, '' if it can. ValueError if it cannot even be run as attacks would."""
    shape = (cascade.sizes(1, on.multiple)[0], *on.images.shape[1:])
    x, labels = jax.ShapeDtypeStruct(shape, np.float32), jax.ShapeDtypeStruct(shape[:1], np.int32)
    ask = functools.partial(on.evaluator.programs.gradient, arsenal.objective("cross_entropy"))
    try:
        jax.eval_shape(on.evaluator.programs.climbed, on.variables, x, on.key)
    except Exception as error:
        how = " in bfloat16" if on.evaluator.programs.cheaper else ""
        raise ValueError(f"forward cannot be run{how}: {_in_a_line(error)}") from error
    try:
        jax.eval_shape(ask, on.variables, x, labels, on.key)
    except Exception as error:
        return _in_a_line(error)
    return ""


def _in_a_line(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"[:200]


def checked(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images as uint8 or float32, labels as int32. ValueError for other shapes and types; ranges may be wrong."""
    if images.ndim != 4 or not len(images):
        raise ValueError(f"images must be [N, H, W, C] with N >= 1, not {list(images.shape)}")
    if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating) and images.dtype != jnp.bfloat16:
        raise ValueError(f"images must be uint8, or floats in [0, 1], not {images.dtype}")
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be {len(images)} integers, not {labels.dtype} {list(labels.shape)}")
    return images if images.dtype == np.uint8 else images.astype(np.float32), labels.astype(np.int32)


def num_classes(evaluator: Evaluator, variables: PyTree, images: np.ndarray, labels: np.ndarray) -> int:
    """How many classes a model has. Raises ValueError for one without logits [B, K], and for labels it has not."""
    x = jax.ShapeDtypeStruct((2, *images.shape[1:]), np.float32)
    try:
        outputs = jax.eval_shape(evaluator.programs.logits, variables, x, jax.random.key(0))
    except Exception as error:  # of whatever kind the model's author, or jax, has chosen
        raise ValueError(f"forward cannot be run, as a function that jax can trace: {_in_a_line(error)}") from error
    shape = getattr(outputs, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != 2 or shape[1] < 2:
        found = type(outputs).__name__ if shape is None else list(shape)
        raise ValueError(f"forward must give logits [B, K] with K >= 2; for 2 images it gives {found}")
    if labels.min() < 0 or labels.max() >= shape[1]:
        raise ValueError(f"labels lie in [{labels.min()}, {labels.max()}], but the model has {shape[1]} classes")
    return shape[1]


def evaluator_of(forward: Callable[..., Array], takes_variables: bool, randomized: bool, precision: str) -> Evaluator:
    """The evaluator of a model, over all devices. Raises ValueError for a precision that cannot be.

    Those of the last few are kept, so that another checkpoint need not be compiled again; but not those of models that
    hold their weights themselves: weights are constants of a program, and may be others the next time.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; it can be {', '.join(PRECISIONS)}")
    if precision == "bfloat16" and not takes_variables:
        raise ValueError("precision='bfloat16' needs variables=: weights inside `forward` cannot be cast")
    keep = takes_variables and isinstance(forward, Hashable)
    return (_make if keep else _make.__wrapped__)(forward, takes_variables, randomized, precision)


@functools.lru_cache(maxsize=4)
def _make(forward: Callable[..., Array], takes_variables: bool, randomized: bool, precision: str) -> Evaluator:
    with_variables = forward if takes_variables else lambda variables, x, *key: forward(x, *key)
    half = lambda leaf: leaf.astype(jnp.bfloat16) if jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating) else leaf
    cheaper = lambda v, x, *key: with_variables(jax.tree.map(half, v), half(x), *key).astype(jnp.float32)
    inside = cheaper if precision == "bfloat16" else None
    split = sharding.split(sharding.data_mesh())
    return Evaluator(
        with_variables,
        place=lambda x: sharding.put(x, split),
        fetch=sharding.to_host,
        randomized=randomized,
        inside=inside,
        strict=False,
    )


def fastest_batch(problem: cascade.Problem) -> int:
    """The batch size at which gradients come fastest."""
    least = cascade.sizes(1, problem.multiple)[0]
    objective = arsenal.objective("cross_entropy")
    return batching.automatic(problem.evaluator, problem.variables, problem.images, problem.labels, objective, least)
