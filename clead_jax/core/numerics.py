"""How JAX computes here, whatever the program around has set: its default types and promotion, and threefry keys."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax

THREEFRY = "threefry2x32"


@contextlib.contextmanager
def promotion() -> Iterator[None]:
    """JAX's default promotion of types and ranks, in a `with` block or as a decorator, inside a trace too."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def unrolls(platform: str = "") -> bool:
    """Whether a loop around gradients of convolutions is to be unrolled on a platform ("cpu", "cuda"; "": jax's own).

    XLA:CPU runs them inside a loop by a generic path, up to 30 times slower. Other platforms keep the shorter program.
    """
    return (platform or jax.default_backend()) == "cpu"


@contextlib.contextmanager
def defaults() -> Iterator[None]:
    """All of JAX's defaults, outside of any trace. A model that is traced inside has them too."""
    with promotion(), jax.enable_x64(False), jax.threefry_partitionable(True):
        yield


def key(seed: int) -> jax.Array:
    """The typed threefry key of a seed, whatever generator is JAX's default."""
    return jax.random.key(seed, impl=THREEFRY)


def threefry(keys: jax.Array) -> jax.Array:
    """Keys of any generator as typed threefry keys: with rbg, under `vmap`, an example's noise depends on its batch.

    Where they come from a seed they become those that threefry has for it.
    """
    if is_key(keys) and str(jax.random.key_impl(keys)) == THREEFRY:
        return keys
    return jax.random.wrap_key_data(jax.random.key_data(keys)[..., :2], impl=THREEFRY)


def is_key(leaf: Any) -> bool:
    """Whether a leaf is an array of typed keys."""
    return jax.dtypes.issubdtype(getattr(leaf, "dtype", None), jax.dtypes.prng_key)


def plain(leaf: Any) -> Any:
    """An array of typed keys as its numbers; any other leaf as it is."""
    return jax.random.key_data(leaf) if is_key(leaf) else leaf
