"""What JPEG does to an image, as an input filter: blocks, cosines, rounding; not the coding, which loses nothing."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from clead_jax.core import spec
from clead_jax.core.batches import rounded_up
from clead_jax.core.types import Array
from clead_jax.models.filters import FilterConfig, input_filter

BLOCK = 8  # pixels
_FREQUENCY = np.arange(BLOCK)[:, None]
# The discrete cosine transform of 8 numbers, orthonormal: [frequency, pixel]. ITU-T T.81, A.3.3.
DCT = np.cos(np.pi * _FREQUENCY * (2 * np.arange(BLOCK) + 1) / 16) * np.where(_FREQUENCY, 0.5, 0.125**0.5)
# Steps of quantisation at quality 50, [vertical, horizontal frequency]. ITU-T T.81, tables K.1 and K.2.
LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
CHROMINANCE = np.full((BLOCK, BLOCK), 99)
CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
# RGB -> luminance and two differences of colour, [out, in]. ITU-T T.871, section 7.
YCBCR = np.array([[0.299, 0.587, 0.114], [-0.168735892, -0.331264108, 0.5], [0.5, -0.418687589, -0.081312411]])


@dataclass(frozen=True)
class JPEGConfig(FilterConfig):
    """`quality` as libjpeg counts it."""

    quality: int = 75

    def __post_init__(self) -> None:
        super().__post_init__()
        spec.check_ranges(self, quality="[1, 100]")


@input_filter("jpeg", JPEGConfig, rounds=True)
def jpeg(x: Array, cfg: JPEGConfig) -> Array:
    """What JPEG loses without subsampling of colour: every 8x8 block's cosine coefficients are rounded to multiples of
    the standard's tables (Dziugaite et al. 2016, arXiv 1608.00853). Images of 1 or 3 channels, [B, H, W, C]; blocks
    at the edge are filled up with its pixels. Raises ValueError for other channels.
    """
    _, height, width, channels = x.shape
    if channels not in (1, 3):
        raise ValueError(f"jpeg: images have 1 or 3 channels, these {channels}")
    colours = jnp.asarray(YCBCR if channels == 3 else np.eye(1), x.dtype)
    grey = jnp.asarray([128.0] + [0.0] * (channels - 1), x.dtype)  # differences of colour are around 0 already
    bytes_ = jnp.round(jnp.round(255 * x) @ colours.T - grey)
    whole = [(0, 0), *((0, -n % BLOCK) for n in (height, width)), (0, 0)]
    blocks = jnp.pad(bytes_, whole, mode="edge")
    blocks = blocks.reshape(len(x), blocks.shape[1] // BLOCK, BLOCK, -1, BLOCK, channels)
    transform, steps = jnp.asarray(DCT, x.dtype), jnp.asarray(quantisation(cfg.quality)[..., :channels], x.dtype)
    coefficients = jnp.einsum("ui,bhiwjc,vj->bhwuvc", transform, blocks, transform)
    rounded = jnp.round(coefficients / steps) * steps
    blocks = jnp.round(jnp.einsum("ui,bhwuvc,vj->bhiwjc", transform, rounded, transform))
    image = blocks.reshape(len(x), *(rounded_up(n, BLOCK) for n in (height, width)), channels)[:, :height, :width]
    back = jnp.asarray(np.linalg.inv(YCBCR) if channels == 3 else np.eye(1), x.dtype)
    return jnp.clip(jnp.round((image + grey) @ back.T), 0, 255) / 255


def quantisation(quality: int) -> np.ndarray:
    """Steps [8, 8, 3] of the coefficients of luminance and of both differences of colour, as libjpeg scales them."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    tables = np.stack([LUMINANCE, CHROMINANCE, CHROMINANCE], axis=-1)
    return np.clip((tables * percent + 50) // 100, 1, 255)
