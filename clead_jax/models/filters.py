"""Input filters: wrappers that change images before a `Classifier` sees them. A filter is a pure function

@input_filter("name", Config)
def name(x: Array, cfg: Config) -> Array            # images [B, H, W, C] in [0, 1] -> images of the same shape

that takes keys [B] as third argument, one per image, if it is `randomized`. A filter is a weak defence by itself: it
removes less than attacks can add, and what it takes from them is the gradient. `attacked` says what they get instead,
so that its worth against an attacker who knows of it can be seen beside its worth against one who does not.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clead_jax.core import spec
from clead_jax.core.batches import example_keys
from clead_jax.core.registry import WRAPPERS
from clead_jax.core.types import Array, Classifier, Key, PyTree
from clead_jax.models.wrappers import attacks_see, only

ATTACKED = {
    "through": "attacks go through the filter",
    "exact": "attacks follow the derivative of the filter as it is",
    "bare": "images are made on the model without the filter",
}


@dataclass(frozen=True)
class FilterConfig:
    """`attacked`, what attacks see; success is judged behind the filter in any case.

    "through": the filter, with the derivative of the identity where its own is 0 nearly everywhere (BPDA), and with the
        mean probability over several draws where it is random (EOT); both from Athalye et al. 2018, arXiv 1802.00420.
    "exact": the filter with its own derivative; of one draw.
    "bare": no filter: images are made on the model alone, as by an attacker who does not know of it (oblivious).
    """

    attacked: str = "through"

    def __post_init__(self) -> None:
        if self.attacked not in ATTACKED:
            raise ValueError(f"attacked is {self.attacked!r}; it can be {', '.join(ATTACKED)}")


class Filter(NamedTuple):
    """`change(x, cfg)`, or `change(x, cfg, keys)` if `randomized`. One that `rounds` has no derivative to follow."""

    name: str
    change: Callable[..., Array]
    rounds: bool
    randomized: bool


def input_filter(name: str, config: type, rounds: bool = False, randomized: bool = False) -> Callable:
    """Decorator that registers a filter as a wrapper."""

    def register(change: Callable[..., Array]) -> Callable[..., Array]:
        used = Filter(name, change, rounds, randomized)
        WRAPPERS.register(name, config)(lambda classifiers, cfg: in_front_of(only(classifiers, name), used, cfg))
        return change

    return register


def in_front_of(inner: Classifier, used: Filter, cfg: Any) -> Classifier:
    """The classifier behind a filter. Raises ValueError for images that are too small for it."""
    change = lambda x, *keys: used.change(x, cfg, *keys)
    if inner.image_shape:
        keys = [example_keys(jax.random.key(0), jnp.arange(1))] if used.randomized else []
        jax.eval_shape(change, jnp.zeros((1, *inner.image_shape)), *keys)
    through = _with_derivative_of_identity(change) if used.rounds else change
    seen = {"through": through, "exact": change, "bare": lambda x, *keys: x}[cfg.attacked]
    behind = lambda seen, forward: _behind(seen, forward, used.randomized, inner.randomized)
    attacked = behind(seen, inner.attack_forward or inner.forward)
    if used.randomized and cfg.attacked == "through":
        attacked = _averaged(attacked, cfg.draws)
    return replace(
        inner,
        forward=behind(change, inner.forward),
        attack_forward=attacked,
        randomized=used.randomized or inner.randomized,
        name=f"{used.name}({inner.name})",
        metadata=attacks_see([inner], f"{used.name}: {ATTACKED[cfg.attacked]}"),
    )


def _behind(change: Callable[..., Array], forward: Callable[..., Array], randomized: bool, inner: bool) -> Callable:
    """`forward` of changed images. Where both draw noise, each has a key of its own."""

    def filtered(variables: PyTree, x: Array, *key: Key) -> Array:
        keys = [example_keys(jax.random.fold_in(key[0], 0), jnp.arange(len(x)))] if randomized else []
        return forward(variables, change(x, *keys), *([jax.random.fold_in(key[0], 1)] if inner else []))

    return filtered


def _with_derivative_of_identity(change: Callable[..., Array]) -> Callable[..., Array]:
    return lambda x, *keys: x + jax.lax.stop_gradient(change(x, *keys) - x)


def _averaged(forward: Callable[..., Array], draws: int) -> Callable[..., Array]:
    """The log of the mean probabilities [B, K] over draws, all of them in one batch."""

    def mean(variables: PyTree, x: Array, key: Key) -> Array:
        drawn = jax.nn.log_softmax(forward(variables, jnp.repeat(x, draws, axis=0), key))
        return jax.nn.logsumexp(drawn.reshape(len(x), draws, -1), axis=1) - jnp.log(draws)

    return mean


# --- rounding and smoothing -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BitDepthConfig(FilterConfig):
    """`bits` per channel."""

    bits: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        spec.check_ranges(self, bits="[1, 8]")


@input_filter("bit_depth", BitDepthConfig, rounds=True)
def bit_depth(x: Array, cfg: BitDepthConfig) -> Array:
    """Pixels rounded to 2^bits levels (feature squeezing, arXiv 1704.01155, section III-A)."""
    levels = 2**cfg.bits - 1
    return jnp.round(x * levels) / levels


@dataclass(frozen=True)
class WindowConfig(FilterConfig):
    """`size` of the window in pixels, an odd number."""

    size: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        spec.check_ranges(self, size="[1, inf)")
        if self.size % 2 == 0:
            raise ValueError(f"size must be odd, got {self.size}")


@dataclass(frozen=True)
class BlurConfig(WindowConfig):
    """`sigma` of the Gaussian in pixels."""

    sigma: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        spec.check_ranges(self, sigma="(0, inf)")


@input_filter("blur", BlurConfig)
def blur(x: Array, cfg: BlurConfig) -> Array:
    """A Gaussian, cut off at the window's edge and scaled to sum 1."""
    bell = np.exp(-0.5 * ((np.arange(cfg.size) - cfg.size // 2) / cfg.sigma) ** 2)
    weights = np.outer(bell, bell).ravel() / bell.sum() ** 2
    return _windows(x, cfg.size, "blur") @ jnp.asarray(weights, x.dtype)


@input_filter("median", WindowConfig)
def median(x: Array, cfg: WindowConfig) -> Array:
    """The median of every window (arXiv 1704.01155, section III-B)."""
    return jnp.sort(_windows(x, cfg.size, "median"), axis=-1)[..., cfg.size**2 // 2]


def _windows(x: Array, size: int, name: str) -> Array:
    """The window around every pixel, [B, H, W, C, size^2]; beyond the image's edge its last pixels are repeated."""
    _, height, width, _ = x.shape
    if min(height, width) < size:
        raise ValueError(f"{name}: a window of {size} pixels is larger than the images, {height}x{width}")
    around = ((0, 0), (size // 2, size // 2), (size // 2, size // 2), (0, 0))
    padded = jnp.pad(x, around, mode="edge")
    return jnp.stack([padded[:, i : i + height, j : j + width] for i in range(size) for j in range(size)], axis=-1)


@dataclass(frozen=True)
class TotalVariationConfig(FilterConfig):
    """`weight` of the total variation, in units of the [0, 1] pixel range; `steps` of the solver."""

    weight: float = 0.1
    steps: int = 30

    def __post_init__(self) -> None:
        super().__post_init__()
        spec.check_ranges(self, weight="(0, inf)", steps="[1, inf)")


@input_filter("total_variation", TotalVariationConfig)
def total_variation(x: Array, cfg: TotalVariationConfig) -> Array:
    """The image z that minimises |z - x|^2 / 2 + weight * TV(z), TV the sum over pixels of the length of the gradient,
    channel by channel, by the projections of Chambolle 2004. In Guo et al. 2018, arXiv 1711.00117, section 4.3, random
    pixels are left out of the first term; here none is.
    """
    axes = (1, 2)
    edge = {axis: [(0, int(axis == n)) for n in range(4)] for axis in axes}
    slope = lambda z: [jnp.pad(jnp.diff(z, axis=axis), edge[axis]) for axis in axes]
    adjoint = jax.linear_transpose(slope, x)  # the negative divergence

    def project(_: int, dual: list[Array]) -> list[Array]:
        ascent = slope(-adjoint(dual)[0] - x / cfg.weight)
        length = jnp.sqrt(sum(part**2 for part in ascent) + 1e-12)  # differentiable at 0
        return [(p + 0.125 * part) / (1 + 0.125 * length) for p, part in zip(dual, ascent, strict=True)]

    dual = jax.lax.fori_loop(0, cfg.steps, project, [jnp.zeros_like(x) for _ in axes])
    return x + cfg.weight * adjoint(dual)[0]


# --- random -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ResizePadConfig(FilterConfig):
    """`least` share of its side that an image is shrunk to; `draws` of it that EOT averages over."""

    least: float = 0.8
    draws: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        spec.check_ranges(self, least="(0, 1)", draws="[1, inf)")


@input_filter("resize_pad", ResizePadConfig, randomized=True)
def resize_pad(x: Array, cfg: ResizePadConfig, keys: Key) -> Array:
    """Every image shrunk by a random factor and put at a random place on black (Xie et al. 2018, arXiv 1711.01991),
    where it keeps its size in all. There images are enlarged, for networks that take any size.
    """

    def shrunk(image: Array, key: Key) -> Array:
        of_scale, of_place = jax.random.split(key)
        scale = jax.random.uniform(of_scale, (), x.dtype, cfg.least, 1.0)
        room = (1 - scale) * jnp.asarray(image.shape[:2], x.dtype)
        place = jax.random.uniform(of_place, (2,), x.dtype) * room
        scales = jnp.stack([scale, scale])
        return jax.image.scale_and_translate(image, image.shape, (0, 1), scales, place, "linear", antialias=False)

    return jax.vmap(shrunk)(x, keys)
