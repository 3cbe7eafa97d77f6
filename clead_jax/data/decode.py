"""Encoded pictures (files, or the PNG and JPEG bytes inside a data set) to one uint8 array.

Only what 8 bits per channel and no transparency say is read; anything else would lose information, and is refused.
"""

import re
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from clead_jax.data.dataset import shown

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")  # Pillow would try others, some of them by other programs
MODES = {1: "L", 3: "RGB"}
GREY = ("1", "L", "LA")
READ = (*GREY, "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")  # 8 bits; the last two as torchvision does
DEEP = re.compile(r"\b(LA?|RGB[AaX]?|CMYK|[RGBACMYK]);16")  # how Pillow names 16 bits that it is to cut down to 8


def decode_all(
    encoded: Iterable[Path | bytes],
    count: int,
    title: str,
    channels: int,
    image_size: int | None,
    space: Callable[[tuple[int, ...]], np.ndarray],
) -> np.ndarray:
    """uint8 [N, H, W, channels], channels 1 or 3, of N = `count` images, in the array that `space` makes of that shape.

    `title`: of the progress bar, and name of images that are not files.

    All images must have one size, unless `image_size` = S makes them S x S: the central square, resampled bilinearly.
    Raises ValueError (one line) naming the first image that cannot be read without loss, or that differs in size from
    the first.
    """
    out: np.ndarray | None = None
    for i, item in enumerate(tqdm(encoded, f"decoding {title}", count, disable=None, leave=False)):
        name = shown(item) if isinstance(item, Path) else f"{title}, image {i}"
        image = _decode(item, name, channels, image_size)
        if out is None:
            out = space((count, *image.shape))
        if image.shape != out.shape[1:]:
            sizes = " and ".join(f"{width}x{height}" for height, width, _ in (out.shape[1:], image.shape))
            raise ValueError(f"{name}: images of several sizes ({sizes}); set image_size to make them one")
        out[i] = image
    if out is None:
        raise ValueError(f"{title}: no images")
    return out


def _decode(item: Path | bytes, name: str, channels: int, image_size: int | None) -> np.ndarray:
    try:
        with Image.open(BytesIO(item) if isinstance(item, bytes) else item, formats=FORMATS) as file:
            lost = _lost(file, channels)
            image = file.convert(MODES[channels]) if not lost else file
    except Exception as error:  # a damaged picture can make Pillow raise anything
        said = f"cannot identify a {', '.join(FORMATS)}" if isinstance(error, Image.UnidentifiedImageError) else error
        raise ValueError(f"{name}: unreadable image ({said})") from error
    if lost:
        raise ValueError(f"{name}: {lost}")
    if image_size is not None:
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(image.height, image.width, channels)


def _lost(file: Image.Image, channels: int) -> str:
    """What converting a picture just opened would lose, '' if nothing."""
    bits = getattr(file, "tag_v2", {}).get(258, 8)  # BitsPerSample of a TIFF
    if file.mode not in READ or DEEP.search(str(getattr(file, "tile", ""))) or np.max(bits) > 8:
        return f"pixels of mode {file.mode!r}, or of 16 bits; allowed: 8 bits per channel, grey or RGB"
    if channels == 1 and file.mode not in GREY:
        return f"a picture in colour (mode {file.mode!r}) in a data set of grey ones"
    if file.has_transparency_data and np.asarray(file.convert("RGBA"))[..., 3].min() < 255:
        return "transparent pixels; allowed: opaque pictures (paste them onto a background first)"
    return ""


def stored_as(path: Path) -> str:
    """How a picture is stored, by its header: "RGB", "L", ... `decode_all` reports unreadable ones."""
    try:
        with Image.open(path, formats=FORMATS) as file:
            return file.mode + (", the first of several frames" if getattr(file, "is_animated", False) else "")
    except Exception:
        return "L"
