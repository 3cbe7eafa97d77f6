"""Encoded pictures (files, or the PNG and JPEG bytes inside a data set) to one uint8 array."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

MODES = {1: "L", 3: "RGB"}
DEEP = ("I", "F")  # 16 and 32 bits per pixel, of unknown range


def decode_all(encoded: Sequence[Path | bytes], title: str, channels: int, image_size: int | None) -> np.ndarray:
    """uint8 [N, H, W, channels], channels 1 or 3. `title`: of the progress bar, and name of images that are not files.

    All images must have one size, unless `image_size` = S makes them S x S: the central square, resampled bilinearly.
    Raises ValueError (one line) naming the first image that cannot be read or that differs in size from the first.
    """
    out: np.ndarray | None = None
    for i, item in enumerate(tqdm(encoded, f"decoding {title}", disable=None, leave=False)):
        name = str(item) if isinstance(item, Path) else f"{title}, image {i}"
        image = _decode(item, name, channels, image_size)
        if out is None:
            out = np.empty((len(encoded), *image.shape), np.uint8)
        if image.shape != out.shape[1:]:
            sizes = " and ".join(f"{width}x{height}" for height, width, _ in (out.shape[1:], image.shape))
            raise ValueError(f"{name}: images of several sizes ({sizes}); set image_size to make them one")
        out[i] = image
    if out is None:
        raise ValueError(f"{title}: no images")
    return out


def _decode(item: Path | bytes, name: str, channels: int, image_size: int | None) -> np.ndarray:
    try:
        with Image.open(BytesIO(item) if isinstance(item, bytes) else item) as file:
            mode, image = file.mode, file.convert(MODES[channels])
    except Exception as error:  # a damaged picture can make Pillow raise anything
        raise ValueError(f"{name}: unreadable image ({error})") from error
    if mode.startswith(DEEP):
        raise ValueError(f"{name}: pixels of mode {mode!r}; allowed: 8 bits per channel")
    if image_size is not None:
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(image.height, image.width, channels)


def is_gray(path: Path) -> bool:
    """Whether a picture is stored as grey levels, by its header. `decode_all` reports unreadable ones."""
    try:
        with Image.open(path) as file:
            return file.mode in ("1", "L", "LA")
    except Exception:
        return True
