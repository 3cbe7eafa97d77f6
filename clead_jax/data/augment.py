"""Random crops, flips, rotations, colours, blur and erasing inside the compiled step, one key per example.

An example's augmentation depends on its own key alone: with `fold_in(key, index)` it is the same in any batch, on any
device, after any resume. Input is uint8, output float in [0, 1].
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from clead_jax.core import spec
from clead_jax.core.types import Array, Key

JITTER_PROBABILITY = 0.8  # SimCLR (arXiv 2002.05709), appendix A
SIGMAS = (0.1, 2.0)  # of the blur, in pixels: the same
ERASED = (0.02, 0.33)  # least and largest share of the area, as torchvision has it; arXiv 1708.04896 goes up to 0.4
PADDINGS = {"black": "constant", "reflect": "reflect"}  # what jnp.pad calls them
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class AugmentConfig:
    """Crop and flip are C-LEAD's (section 4); colours are SimCLR's (appendix A), off by default.

    `crop_padding`: pixels added on each side before cropping back, `padding`: black ones, or with "reflect" mirrored
    ones. `color_jitter`: strength s >= 0 (SimCLR has 0.5 for CIFAR). `hue`: with the colours, hues turn by up to this
    share of the circle (SimCLR has 0.2 s; 0.5 is any hue). `grayscale`: the probability of conversion to grey (0.2 in
    SimCLR). `resized_crop`: after crop and flip a random window, of this share of the area at least (0.08 in SimCLR),
    is enlarged to the whole image; 0: none.

    `crop_shift`: CropShift (arXiv 2301.09879, Sec. 4.1) after the flip: up to so many rows and columns in all are cut
    off, what is left is pasted in a random place, black around it (11 there, without `crop_padding`). `rotation`: by up
    to so many degrees to either side, black corners. `blur`: the probability of a Gaussian blur (0.5 in SimCLR), of a
    standard deviation in `SIGMAS` and a window of a tenth of the shorter side, 3 pixels at least. `erasing`: that of
    one black rectangle (arXiv 1708.04896), the last of all (0.5 and 1 in arXiv 2301.09879).
    """

    crop_padding: int = 4
    padding: str = "black"
    flip: bool = True
    color_jitter: float = 0.0
    grayscale: float = 0.0
    hue: float = 0.0
    resized_crop: float = 0.0
    crop_shift: int = 0
    rotation: float = 0.0
    blur: float = 0.0
    erasing: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.crop_padding < float("inf") and 0 <= self.color_jitter < float("inf")):  # false for NaN
            given = f"crop_padding {self.crop_padding}, color_jitter {self.color_jitter}"
            raise ValueError(f"{given}; allowed: 0 and above")
        if self.padding not in PADDINGS:
            raise ValueError(f"padding {self.padding!r}; allowed: {', '.join(PADDINGS)}")
        if not 0 <= self.grayscale <= 1:
            raise ValueError(f"grayscale {self.grayscale} is a probability; allowed: 0 to 1")
        spec.check_ranges(self, hue="[0, 0.5]", resized_crop="[0, 1]", crop_shift="[0, inf)", rotation="[0, 180]")
        spec.check_ranges(self, blur="[0, 1]", erasing="[0, 1]")


def to_float(images: Array) -> Array:
    """uint8 0..255 -> float32 in [0, 1], any shape."""
    return images.astype(jnp.float32) / 255


def augment(keys: Key, images: Array, cfg: AugmentConfig, strength: Array | float = 1.0) -> Array:
    """keys [B], images uint8 [B, H, W, C] -> float32 [B, H, W, C] in [0, 1], each by its own key. C is 1 or 3.

    A `strength` s below 1 draws the window from a share of 1 - s (1 - resized_crop) of the area at least, and scales
    the probabilities of colours and grey by s (DynACL, arXiv 2303.01289, Sec. 4.1), here also the angle and the
    probabilities of blur and erasing; crop, flip and `crop_shift` stay.
    """
    return jax.vmap(lambda key, image: _augment_one(key, image, cfg, strength))(keys, images)


def _augment_one(key: Key, image: Array, cfg: AugmentConfig, strength: Array | float) -> Array:
    crop_key, flip_key, jitter_key, gray_key = jax.random.split(key, 4)
    own = lambda number: jax.random.fold_in(crop_key, number)
    if cfg.crop_padding:
        image = _crop(crop_key, image, cfg.crop_padding, PADDINGS[cfg.padding])
    if cfg.flip:
        image = jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)
    if cfg.crop_shift:
        image = _crop_shift(own(2), image, cfg.crop_shift)
    image = to_float(image)
    if cfg.resized_crop:
        least = cfg.resized_crop + (1 - cfg.resized_crop) * (1 - strength)
        image = _resized_crop(own(1), image, least)
    if cfg.rotation:
        most = jnp.deg2rad(cfg.rotation) * strength
        image = _rotated(image, jax.random.uniform(own(3), minval=-most, maxval=most))
    if cfg.color_jitter or cfg.hue:
        image = _jitter(jitter_key, image, cfg, JITTER_PROBABILITY * strength)
    if cfg.grayscale:
        image = jnp.where(jax.random.bernoulli(gray_key, cfg.grayscale * strength), _luma(image), image)
    if cfg.blur:
        sigma = jax.random.uniform(own(4), minval=SIGMAS[0], maxval=SIGMAS[1])
        image = jnp.where(jax.random.bernoulli(own(5), cfg.blur * strength), _blurred(image, sigma), image)
    if cfg.erasing:
        image = jnp.where(jax.random.bernoulli(own(6), cfg.erasing * strength), _erased(own(7), image), image)
    return image


def _crop(key: Key, image: Array, padding: int, mode: str) -> Array:
    top, left = jax.random.randint(key, (2,), 0, 2 * padding + 1)
    padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)), mode)
    return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)


def _resized_crop(key: Key, image: Array, least: Array | float) -> Array:
    """A window of share U(least, 1) of the area, its sides 3:4 to 4:3 where it fits, as large as the image (linear)."""
    area, ratio, place = jax.random.split(key, 3)
    sides = _sides(area, ratio, least, 1.0, 4 / 3)
    corner = jax.random.uniform(place, (2,)) * (1 - sides) * jnp.array(image.shape[:2])
    resize = jax.image.scale_and_translate
    return resize(image, image.shape, (0, 1), 1 / sides, -corner / sides, "linear", antialias=False)


def _sides(area: Key, ratio: Key, least: Array | float, most: float, longest: float) -> Array:
    """[2], height and width of a window as shares of the image's: U(least, most) of the area, its sides up to
    `longest`:1 either way, where it fits.
    """
    share = jax.random.uniform(area, minval=least, maxval=most)
    stretch = jnp.exp(jax.random.uniform(ratio, minval=-jnp.log(longest), maxval=jnp.log(longest)) / 2)
    return jnp.minimum(jnp.sqrt(share) * jnp.stack([stretch, 1 / stretch]), 1.0)


def _window(image: Array, corner: Array, sides: Array) -> Array:
    """bool [H, W, 1], where a window of `sides` [2] pixels from `corner` [2] on lies."""
    rows, columns = (
        (start <= k) & (k < start + side) for start, side, k in zip(corner, sides, _axes(image), strict=True)
    )
    return (rows[:, None] & columns)[..., None]


def _axes(image: Array) -> tuple[Array, Array]:
    return jnp.arange(image.shape[0]), jnp.arange(image.shape[1])


def _crop_shift(key: Key, image: Array, most: int) -> Array:
    """0 to `most` rows and columns in all are cut off, each split of them as likely; one pixel stays at least."""
    total, split, places = jax.random.split(key, 3)
    cut = jax.random.randint(total, (), 0, most + 1)
    rows = jax.random.randint(split, (), 0, cut + 1)
    size = jnp.array(image.shape[:2])
    lost = jnp.minimum(jnp.stack([rows, cut - rows]), size - 1)
    source, target = jax.random.randint(places, (2, 2), 0, lost + 1)
    moved = jnp.roll(image, target - source, (0, 1))
    return jnp.where(_window(image, target, size - lost), moved, 0)


def _rotated(image: Array, angle: Array | float) -> Array:
    """[H, W, C] turned counterclockwise by `angle` (radians) around its centre; bilinear, black from outside."""
    rows, columns = (k - (len(k) - 1) / 2 for k in _axes(image))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    place = [cos * rows[:, None] + sin * columns, cos * columns - sin * rows[:, None]]
    read = [p + (side - 1) / 2 for p, side in zip(place, image.shape[:2], strict=True)]
    channel = lambda values: jax.scipy.ndimage.map_coordinates(values, read, order=1)
    return jnp.clip(jax.vmap(channel, in_axes=-1, out_axes=-1)(image), 0, 1)


def _blurred(image: Array, sigma: Array | float) -> Array:
    """[H, W, C] under a Gaussian of `sigma` pixels, cut off at a tenth of the shorter side; edges are mirrored."""
    radius = max(1, min(image.shape[:2]) // 20)
    weights = jax.nn.softmax(-(jnp.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    for axis in (0, 1):
        padded = jnp.pad(image, [(radius, radius) if k == axis else (0, 0) for k in range(3)], "reflect")
        shifted = [jax.lax.slice_in_dim(padded, n, n + image.shape[axis], axis=axis) for n in range(2 * radius + 1)]
        image = sum(w * part for w, part in zip(weights, shifted, strict=True))
    return jnp.clip(image, 0, 1)


def _erased(key: Key, image: Array) -> Array:
    """One black rectangle: a share in `ERASED` of the area, its sides up to 3.3:1 either way, anywhere inside."""
    area, ratio, place = jax.random.split(key, 3)
    size = jnp.array(image.shape[:2])
    sides = jnp.maximum(jnp.round(_sides(area, ratio, *ERASED, 3.3) * size), 1).astype(int)
    corner = jax.random.randint(place, (2,), 0, size - sides + 1)
    return jnp.where(_window(image, corner, sides), 0, image)


def _jitter(key: Key, image: Array, cfg: AugmentConfig, probability: Array | float) -> Array:
    """SimCLR's colour distortion: brightness, contrast, saturation, each by a factor in 1 -+ 0.8 s; then the hue."""
    strength, hue = cfg.color_jitter, cfg.hue
    apply_key, factor_key = jax.random.split(key)
    low, high = max(0.0, 1 - 0.8 * strength), 1 + 0.8 * strength
    brightness, contrast, saturation = jax.random.uniform(factor_key, (3,), minval=low, maxval=high)
    jittered = _mix(0, image, brightness)
    jittered = _mix(_luma(jittered).mean(), jittered, contrast)
    jittered = _mix(_luma(jittered), jittered, saturation)  # the identity for one channel
    if hue and image.shape[-1] == 3:
        turn = jax.random.uniform(jax.random.fold_in(key, 1), minval=-hue, maxval=hue)
        jittered = _turned(jittered, turn)
    return jnp.where(jax.random.bernoulli(apply_key, probability), jittered, image)


def _turned(image: Array, turn: Array) -> Array:
    """[H, W, 3] with every hue turned by a share of the circle; largest and smallest channel (HSV) stay as they are."""
    red, green, blue = jnp.moveaxis(image, -1, 0)
    most, least = image.max(-1), image.min(-1)
    chroma = most - least
    divisor = jnp.where(chroma > 0, chroma, 1)
    sectors = [(green - blue) / divisor, 2 + (blue - red) / divisor, 4 + (red - green) / divisor]
    sector = jnp.select([most == red, most == green], sectors[:2], sectors[2]) + 6 * turn
    away = [jnp.mod(start + sector, 6) for start in (5, 3, 1)]
    channels = [most - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0, 1) for k in away]
    return jnp.stack(channels, axis=-1)


def _mix(origin: Array | int, image: Array, factor: Array) -> Array:
    return jnp.clip(origin + factor * (image - origin), 0, 1)


def _luma(image: Array) -> Array:
    """[H, W, C] -> [H, W, 1], the luma."""
    return image if image.shape[-1] == 1 else (image * jnp.array(LUMA)).sum(-1, keepdims=True)
